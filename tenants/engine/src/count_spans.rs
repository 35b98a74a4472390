//! How many spans a request holds, for requests that are refused without being read.

use crate::wire::{Cursor, WireResult, bytes_tag};

const RESOURCE_SPANS: u32 = bytes_tag(1);
const SCOPE_SPANS: u32 = bytes_tag(2);
const SPAN: u32 = bytes_tag(2);

/// Count the spans of `body`; nothing inside them is looked at.
pub fn count_spans(body: &[u8]) -> WireResult<u64> {
    in_each(body, RESOURCE_SPANS, &mut |resource_spans| {
        in_each(resource_spans, SCOPE_SPANS, &mut |scope_spans| {
            in_each(scope_spans, SPAN, &mut |_| Ok(1))
        })
    })
}

/// The sum of what `count` finds in each field of `message` with this tag.
fn in_each(message: &[u8], wanted: u32, count: &mut dyn FnMut(&[u8]) -> WireResult<u64>) -> WireResult<u64> {
    let mut cursor = Cursor::new(message, "resource_spans");
    let mut counted = 0;
    loop {
        match cursor.tag()? {
            0 => return Ok(counted),
            tag if tag == wanted => counted += count(cursor.bytes()?)?,
            tag => cursor.skip(tag)?,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_counted_wherever_they_stand() {
        let scope_spans = [0x12, 0, 0x0a, 1, b'x', 0x12, 2, 0x2a, 0];
        let resource_spans = [
            vec![0x12, scope_spans.len() as u8],
            scope_spans.to_vec(),
            vec![0x0a, 0, 0x12, 2, 0x12, 0],
        ]
        .concat();
        let one = [vec![0x0a, resource_spans.len() as u8], resource_spans].concat();
        assert_eq!(count_spans(&[one.clone(), one].concat()).unwrap(), 6);
        assert_eq!(count_spans(&[]).unwrap(), 0);
    }

    #[test]
    fn a_request_that_ends_too_early_is_a_fault() {
        assert!(count_spans(&[0x0a, 4, 0x12, 2, 0x12]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_or_refused(bytes: Vec<u8>) {
            let _ = count_spans(&bytes);
        }
    }
}

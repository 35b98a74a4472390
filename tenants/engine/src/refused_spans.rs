//! The spans of requests that are refused without being read, by service, for the ledger.

use std::borrow::Cow;

use crate::any_value::{AnyValue, Attribute};
use crate::frame::FrameBuilder;
use crate::ledger::{ENTRIES, Entry, Ledger};
use crate::wire::{Cursor, WireResult, bytes_tag};

const RESOURCE_SPANS: u32 = bytes_tag(1);
const RESOURCE: u32 = bytes_tag(1);
const ATTRIBUTE: u32 = bytes_tag(1);
const SCOPE_SPANS: u32 = bytes_tag(2);
const SPAN: u32 = bytes_tag(2);

/// Spans that were refused since the last frame.
#[derive(Debug, Default)]
pub struct RefusedSpans(Ledger);

impl RefusedSpans {
    /// Count the spans of `body`, those before the damage if it is damaged; returns how many there are. Nothing inside
    /// them is looked at.
    pub fn add(&mut self, body: &[u8], reason: Entry) -> u64 {
        let mut total = 0;
        // Where the walk ends early, the rest cannot be told apart.
        let _ = in_each(body, RESOURCE_SPANS, &mut |resource_spans| {
            let mut spans = 0;
            let walked = in_each(resource_spans, SCOPE_SPANS, &mut |scope_spans| {
                in_each(scope_spans, SPAN, &mut |_| {
                    spans += 1;
                    Ok(())
                })
            });
            if spans > 0 {
                let mut row = [0; ENTRIES];
                row[Entry::Received as usize] = spans;
                row[reason as usize] = spans;
                self.0.add_row_bounded(&service(resource_spans), &row);
                total += spans;
            }
            walked
        });
        total
    }

    /// The frame that tells a shard of them, and begin anew; `None`: there are none.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let ledger = std::mem::take(&mut self.0);
        if ledger.is_empty() {
            return None;
        }
        let mut rows = Vec::new();
        ledger.write(&mut rows);
        Some(FrameBuilder::of_ledger(&rows))
    }
}

/// The service that these spans are of; empty if it cannot be told.
fn service(resource_spans: &[u8]) -> Cow<'_, [u8]> {
    let mut found = None;
    let _ = in_each(resource_spans, RESOURCE, &mut |resource| {
        in_each(resource, ATTRIBUTE, &mut |bytes| {
            let attribute = Attribute::read(bytes, &Cursor::new(bytes, "resource_spans.resource"))?;
            if attribute.key == b"service.name" {
                found = found.take().or(Some(attribute.value));
            }
            Ok(())
        })
    });
    found.map(AnyValue::text).unwrap_or_default()
}

/// Visit each field of `message` with this tag.
fn in_each<'a>(
    message: &'a [u8],
    wanted: u32,
    visit: &mut dyn FnMut(&'a [u8]) -> WireResult<()>,
) -> WireResult<()> {
    let mut cursor = Cursor::new(message, "resource_spans");
    loop {
        match cursor.tag()? {
            0 => return Ok(()),
            tag if tag == wanted => visit(cursor.bytes()?)?,
            tag => cursor.skip(tag)?,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Frame;

    fn field(tag: u32, content: &[u8]) -> Vec<u8> {
        [&[tag as u8, content.len() as u8], content].concat()
    }

    fn of_service(name: &str, spans: usize) -> Vec<u8> {
        let value = field(bytes_tag(1), name.as_bytes());
        let attribute = [field(bytes_tag(1), b"service.name"), field(bytes_tag(2), &value)].concat();
        let scope = field(SCOPE_SPANS, &field(SPAN, &[]).repeat(spans));
        // The resource may stand behind the spans.
        let resource = field(RESOURCE, &field(ATTRIBUTE, &attribute));
        field(RESOURCE_SPANS, &[scope, resource].concat())
    }

    #[test]
    fn spans_are_counted_for_their_service_wherever_it_stands() {
        let mut refused = RefusedSpans::default();
        assert_eq!(refused.take(), None);
        let body = [of_service("a", 2), of_service("b", 3), of_service("a", 1)].concat();
        assert_eq!(refused.add(&body, Entry::RateLimited), 6);
        let frame = refused.take().unwrap();
        let rows: Vec<_> = Frame::read(&frame).unwrap().ledger().collect();
        let counted = |(service, row): &(&[u8], [u64; ENTRIES])| {
            let (received, limited) = (row[Entry::Received as usize], row[Entry::RateLimited as usize]);
            (service.to_vec(), received, limited)
        };
        assert_eq!(
            rows.iter().map(counted).collect::<Vec<_>>(),
            [(b"a".to_vec(), 3, 3), (b"b".to_vec(), 3, 3)]
        );
        assert_eq!(refused.take(), None);
    }

    #[test]
    fn of_a_damaged_request_those_before_the_damage_are_counted() {
        let whole = of_service("a", 2);
        let cut = [&whole[..], &whole[..whole.len() - 1]].concat();
        assert_eq!(RefusedSpans::default().add(&cut, Entry::Malformed), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted(bytes: Vec<u8>) {
            let mut refused = RefusedSpans::default();
            let spans = refused.add(&bytes, Entry::Malformed);
            prop_assert_eq!(refused.take().is_some(), spans > 0);
        }
    }
}

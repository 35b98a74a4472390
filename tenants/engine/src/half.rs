//! What one span knows of an edge: its service, peer, database and dimensions (processors §2.3).
//!
//! A half is a list of (slot, text), slots ascending. An edge is the overlay of the halves that arrived, later ones
//! over earlier ones, slot by slot: that is the reference's rule "later spans overwrite field by field".

use crate::labels::Labels;
use crate::wire::put_varint;

/// Slot of the client's service name.
pub const CLIENT: usize = 0;
/// Slot of the server's service name, or of the database's name on a client span.
pub const SERVER: usize = 1;
/// Slot of the name of an uninstrumented peer.
pub const PEER: usize = 2;
/// Slot of the name of the database that a client span calls, where its own span is waited for.
pub const DATABASE: usize = 3;
/// Slot of the first dimension.
pub const DIMENSIONS: usize = 4;

/// Writes one half. Slots must be put in ascending order.
#[derive(Debug, Default)]
pub struct HalfBuilder {
    bytes: Vec<u8>,
}

impl HalfBuilder {
    /// Begin anew.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Fill a slot; an empty text is a text.
    pub fn put(&mut self, slot: usize, text: &[u8]) {
        put_varint(&mut self.bytes, slot as u64);
        put_varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text);
    }

    /// The half.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The filled slots of a half, ascending; ends early where the bytes are not a half.
pub fn slots(mut half: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let slot = varint(&mut half)?;
        let length = varint(&mut half)?;
        let (text, rest) = half.split_at_checked(length)?;
        half = rest;
        Some((slot, text))
    })
}

fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The half with its dimensions in the slots of another plan: both lists of slot names are encoded as label sets are.
/// A dimension that the other plan does not have is left out.
pub fn moved(half: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut placed: Vec<(usize, &[u8])> = Vec::new();
    for (slot, text) in slots(half) {
        let Some(dimension) = slot.checked_sub(DIMENSIONS) else {
            placed.push((slot, text));
            continue;
        };
        let name = Labels(from).nth(dimension);
        let target = name.and_then(|name| Labels(to).position(|other| other == name));
        if let Some(target) = target {
            placed.push((DIMENSIONS + target, text));
        }
    }
    placed.sort_by_key(|(slot, _)| *slot);
    placed.dedup_by_key(|(slot, _)| *slot);
    let mut moved = HalfBuilder::default();
    for (slot, text) in placed {
        moved.put(slot, text);
    }
    moved.bytes
}

/// The text of one slot.
pub fn slot(half: &[u8], wanted: usize) -> Option<&[u8]> {
    slots(half)
        .find(|(slot, _)| *slot == wanted)
        .map(|(_, text)| text)
}

/// The service of the client's, or of the server's span that a half tells of; empty if it does not.
pub fn service(half: &[u8], is_client: bool) -> &[u8] {
    slot(half, service_slot(is_client)).unwrap_or_default()
}

/// Where a half has the service of the span on this side.
#[inline]
pub fn service_slot(is_client: bool) -> usize {
    if is_client { CLIENT } else { SERVER }
}

/// `upper` over `lower`: where both fill a slot, the upper text stays.
pub fn overlay(lower: &[u8], upper: &[u8]) -> Vec<u8> {
    let mut merged = HalfBuilder::default();
    let (mut lower, mut upper) = (slots(lower).peekable(), slots(upper).peekable());
    loop {
        match (lower.peek().copied(), upper.peek().copied()) {
            (Some((low, text)), Some((high, _))) if low < high => {
                merged.put(low, text);
                lower.next();
            }
            (low, Some((slot, text))) => {
                merged.put(slot, text);
                upper.next();
                if low.is_some_and(|(low, _)| low == slot) {
                    lower.next();
                }
            }
            (Some((slot, text)), None) => {
                merged.put(slot, text);
                lower.next();
            }
            (None, None) => return merged.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(pairs: &[(usize, &str)]) -> Vec<u8> {
        let mut builder = HalfBuilder::default();
        for (slot, text) in pairs {
            builder.put(*slot, text.as_bytes());
        }
        builder.bytes
    }

    #[test]
    fn later_texts_win_slot_by_slot() {
        let lower = half(&[(CLIENT, "a"), (PEER, "p"), (3, "x"), (5, "old")]);
        let upper = half(&[(SERVER, "b"), (PEER, ""), (4, "y"), (5, "new")]);
        let merged = half(&[
            (CLIENT, "a"),
            (SERVER, "b"),
            (PEER, ""),
            (3, "x"),
            (4, "y"),
            (5, "new"),
        ]);
        assert_eq!(overlay(&lower, &upper), merged);
        assert_eq!(overlay(&lower, &[]), lower);
        assert_eq!(overlay(&[], &upper), upper);
        assert_eq!(slot(&merged, PEER), Some(&b""[..]));
        assert_eq!(slot(&merged, 9), None);
    }
}

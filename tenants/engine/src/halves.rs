//! The distinct halves of edges that a shard has seen, numbered, with their overlays remembered.
//!
//! A tenant has few combinations of services, peers and dimensions and very many spans: with numbers for the
//! combinations, pairing a span costs two small look-ups and no text.

use hashbrown::HashMap;

use crate::half;

/// Most distinct halves and overlays in one shard. Beyond it spans are dropped as if the edge buffer were full.
const MAX_HALVES: usize = 1 << 18;
/// Most bytes of them, likewise.
const MAX_BYTES: usize = 128 << 20;

#[derive(Debug)]
struct Half {
    bytes: Box<[u8]>,
    /// Both the client's and the server's service are named.
    is_complete: bool,
    used_at_ns: u64,
}

/// Numbers for halves.
#[derive(Debug, Default)]
pub struct Halves {
    known: Vec<Option<Half>>,
    free: Vec<u32>,
    numbers: HashMap<Box<[u8]>, u32>,
    overlays: HashMap<(u32, u32), u32>,
    /// Length of all halves.
    bytes: usize,
}

impl Halves {
    /// The number of a half; `None` at the bound.
    pub fn number(&mut self, bytes: &[u8], now_ns: u64) -> Option<u32> {
        if let Some(number) = self.numbers.get(bytes).copied() {
            self.touch(number, now_ns);
            return Some(number);
        }
        if self.numbers.len() >= MAX_HALVES || self.bytes + bytes.len() > MAX_BYTES {
            return None;
        }
        self.bytes += bytes.len();
        let is_named = |slot| half::slot(bytes, slot).is_some_and(|text| !text.is_empty());
        let half = Some(Half {
            bytes: bytes.into(),
            is_complete: is_named(half::CLIENT) && is_named(half::SERVER),
            used_at_ns: now_ns,
        });
        let number = if let Some(number) = self.free.pop() {
            self.known[number as usize] = half;
            number
        } else {
            self.known.push(half);
            self.known.len() as u32 - 1
        };
        self.numbers.insert(bytes.into(), number);
        Some(number)
    }

    /// The number of `upper` over `lower`; `None` at the bound.
    #[inline]
    pub fn overlay(&mut self, lower: u32, upper: u32, now_ns: u64) -> Option<u32> {
        if let Some(number) = self.overlays.get(&(lower, upper)).copied() {
            self.touch(number, now_ns);
            return Some(number);
        }
        let merged = half::overlay(self.bytes(lower), self.bytes(upper));
        let number = self.number(&merged, now_ns)?;
        self.overlays.insert((lower, upper), number);
        Some(number)
    }

    #[inline]
    fn touch(&mut self, number: u32, now_ns: u64) {
        if let Some(Some(half)) = self.known.get_mut(number as usize) {
            half.used_at_ns = now_ns;
        }
    }

    /// What a number stands for.
    pub fn bytes(&self, number: u32) -> &[u8] {
        match self.known.get(number as usize) {
            Some(Some(half)) => &half.bytes,
            _ => &[],
        }
    }

    /// Whether both services are named.
    #[inline]
    pub fn is_complete(&self, number: u32) -> bool {
        matches!(self.known.get(number as usize), Some(Some(half)) if half.is_complete)
    }

    /// Forget halves not used since `before_ns`, but for those `in_use`.
    pub fn retire(&mut self, before_ns: u64, in_use: impl Iterator<Item = u32>) {
        let mut is_kept = vec![false; self.known.len()];
        for number in in_use {
            if let Some(kept) = is_kept.get_mut(number as usize) {
                *kept = true;
            }
        }
        for (number, (slot, is_kept)) in self.known.iter_mut().zip(is_kept).enumerate() {
            if !is_kept
                && slot.as_ref().is_some_and(|half| half.used_at_ns < before_ns)
                && let Some(half) = slot.take()
            {
                self.numbers.remove(&half.bytes);
                self.bytes -= half.bytes.len();
                self.free.push(number as u32);
            }
        }
        // Cheaper to find these again than to tell which of them lost a half.
        self.overlays.clear();
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        let texts: usize = self.known.iter().flatten().map(|half| 2 * half.bytes.len()).sum();
        texts
            + self.known.capacity() * size_of::<Option<Half>>()
            + self.numbers.capacity() * (size_of::<(Box<[u8]>, u32)>() + 1)
            + self.overlays.capacity() * (size_of::<(u32, u32, u32)>() + 1)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::half::{CLIENT, HalfBuilder, SERVER};

    fn half(slot: usize, text: &str) -> Vec<u8> {
        let mut builder = HalfBuilder::default();
        builder.put(slot, text.as_bytes());
        builder.bytes().to_vec()
    }

    #[test]
    fn an_overlay_is_complete_when_both_services_are_named() {
        let mut halves = Halves::default();
        let client = halves.number(&half(CLIENT, "a"), 1).unwrap();
        let server = halves.number(&half(SERVER, "b"), 1).unwrap();
        let nameless = halves.number(&half(SERVER, ""), 1).unwrap();
        let both = halves.overlay(client, server, 1).unwrap();
        assert!(halves.is_complete(both) && !halves.is_complete(client));
        assert_eq!(halves.overlay(server, client, 1), Some(both));
        let half_named = halves.overlay(client, nameless, 1).unwrap();
        assert!(!halves.is_complete(half_named));
    }

    #[test]
    fn idle_halves_leave_unless_an_edge_needs_them() {
        let mut halves = Halves::default();
        let kept = halves.number(&half(CLIENT, "kept"), 1).unwrap();
        let idle = halves.number(&half(CLIENT, "idle"), 1).unwrap();
        let fresh = halves.number(&half(CLIENT, "fresh"), 9).unwrap();
        halves.retire(5, [kept].into_iter());
        assert_eq!(halves.bytes(kept), half(CLIENT, "kept"));
        assert_eq!(halves.bytes(idle), b"");
        assert_eq!(halves.number(&half(CLIENT, "fresh"), 9), Some(fresh));
        assert_eq!(halves.number(&half(CLIENT, "new"), 9), Some(idle));
    }
}

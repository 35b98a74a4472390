//! The symbols table of a Remote-Write 2.0 message: every text once, and its number (remote-write §1.2).

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::wire::put_varint;

/// Slots for texts that come again at the same address.
const RECENT: usize = 128;

/// Texts in the order in which they first came, the empty one before all.
#[derive(Debug)]
pub(crate) struct Symbols {
    /// As they stand in the message: field 4 of the request.
    encoded: Vec<u8>,
    /// Where each text is in that.
    places: Vec<(u32, u32)>,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    recent: [u32; RECENT],
}

impl Default for Symbols {
    fn default() -> Self {
        let mut symbols = Self {
            encoded: Vec::new(),
            places: Vec::new(),
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            recent: [0; RECENT],
        };
        symbols.clear();
        symbols
    }
}

impl Symbols {
    /// Begin another message.
    pub(crate) fn clear(&mut self) {
        self.encoded.clear();
        self.encoded.extend_from_slice(&[0x22, 0]);
        self.places.clear();
        self.places.push((2, 2));
        self.numbers.clear();
        self.recent = [0; RECENT];
    }

    /// The number of a text.
    pub(crate) fn refer(&mut self, text: &[u8]) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let hash = self.hasher.hash_one(text);
        let (encoded, places) = (&self.encoded, &self.places);
        let is_same = |number: &u32| text_of(encoded, places, *number) == text;
        if let Some(number) = self.numbers.find(hash, is_same) {
            return *number;
        }
        let number = self.places.len() as u32;
        self.encoded.push(0x22);
        put_varint(&mut self.encoded, text.len() as u64);
        let start = self.encoded.len() as u32;
        self.encoded.extend_from_slice(text);
        self.places.push((start, self.encoded.len() as u32));
        let (encoded, places, hasher) = (&self.encoded, &self.places, &self.hasher);
        self.numbers.insert_unique(hash, number, |number| {
            hasher.hash_one(text_of(encoded, places, *number))
        });
        number
    }

    /// [`Self::refer`] for a text that comes from the same place again and again: it is compared, not hashed.
    pub(crate) fn refer_again(&mut self, text: &[u8]) -> u32 {
        let address = text.as_ptr().addr();
        let slot = (address ^ address >> 7) % RECENT;
        let number = self.recent[slot];
        if text_of(&self.encoded, &self.places, number) == text {
            return number;
        }
        let number = self.refer(text);
        self.recent[slot] = number;
        number
    }

    /// The table as it stands at the head of the message.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

fn text_of<'t>(encoded: &'t [u8], places: &[(u32, u32)], number: u32) -> &'t [u8] {
    let (start, end) = places.get(number as usize).copied().unwrap_or_default();
    encoded.get(start as usize..end as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_and_the_empty_one_has_zero() {
        let mut symbols = Symbols::default();
        for _ in 0..2 {
            let numbers = [&b"le"[..], b"", b"0.1", b"le"].map(|text| symbols.refer(text));
            assert_eq!(numbers, [1, 0, 2, 1]);
            assert_eq!(symbols.encoded(), b"\x22\x00\x22\x02le\x22\x030.1");
            symbols.clear();
        }
    }

    #[test]
    fn what_is_at_an_address_may_change() {
        let mut symbols = Symbols::default();
        let mut text = *b"one";
        let numbers = [0, 1, 2, 3].map(|round| {
            text = if round % 2 == 0 { *b"one" } else { *b"two" };
            symbols.refer_again(&text)
        });
        assert_eq!(numbers, [1, 2, 1, 2]);
    }

    #[test]
    fn thousands_of_texts_keep_their_numbers() {
        let mut symbols = Symbols::default();
        let texts: Vec<String> = (1..5000u32).map(|number| number.to_string()).collect();
        for _ in 0..2 {
            for (number, text) in (1..).zip(&texts) {
                assert_eq!(symbols.refer_again(text.as_bytes()), number);
            }
        }
    }
}

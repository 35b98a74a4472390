//! Byte strings numbered in order of first sight, in one arena: the dictionaries of a frame.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Numbers distinct byte strings. Nothing is ever removed; a dictionary lives as long as one request.
#[derive(Debug, Default)]
pub struct Dictionary {
    arena: Vec<u8>,
    ends: Vec<u32>,
    /// Half of each string's hash beside its number: the table grows without hashing again, and rarely compares in vain.
    numbers: HashTable<(u32, u32)>,
    // Seeded per process: a tenant cannot choose strings that collide.
    hasher: DefaultHashBuilder,
}

impl Dictionary {
    /// The number of `bytes`, given out anew if `admit` agrees on first sight.
    #[inline]
    pub fn number(&mut self, bytes: &[u8], admit: impl FnOnce(&[u8]) -> bool) -> Option<u32> {
        self.number_of(|arena| arena.extend_from_slice(bytes), admit)
    }

    /// The number of the string that `write` appends, given out anew if `admit` agrees on first sight. It is written
    /// where it stays if it is new.
    #[inline]
    pub fn number_of(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        admit: impl FnOnce(&[u8]) -> bool,
    ) -> Option<u32> {
        let start = self.arena.len();
        write(&mut self.arena);
        let bytes = self.arena.get(start..).unwrap_or_default();
        let half = self.hasher.hash_one(bytes) as u32;
        let (arena, ends) = (&self.arena, &self.ends);
        let is_equal = |(other, number): &(u32, u32)| *other == half && slice(arena, ends, *number) == bytes;
        let known = self
            .numbers
            .find(spread(half), is_equal)
            .map(|(_, number)| *number);
        if known.is_some() || !admit(bytes) {
            self.arena.truncate(start);
            return known;
        }
        let number = self.ends.len() as u32;
        self.ends.push(self.arena.len() as u32);
        self.numbers
            .insert_unique(spread(half), (half, number), |(half, _)| spread(*half));
        Some(number)
    }

    /// Forget everything but the memory that it took.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.ends.clear();
        self.numbers.clear();
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        self.arena.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.numbers.capacity() * size_of::<(u32, u32)>()
    }

    /// The strings one after the other.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// The strings by number.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len() as u32).map(|number| slice(&self.arena, &self.ends, number))
    }

    /// Where each string ends in the arena.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// The table looks at both ends of a hash.
#[inline]
fn spread(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

#[inline]
fn slice<'a>(arena: &'a [u8], ends: &[u32], number: u32) -> &'a [u8] {
    let number = number as usize;
    let start = number.checked_sub(1).and_then(|before| ends.get(before)).copied();
    let end = ends.get(number).copied().unwrap_or_default();
    arena
        .get(start.unwrap_or_default() as usize..end as usize)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_a_number_and_refused_ones_get_none() {
        let mut dictionary = Dictionary::default();
        let mut number = |bytes: &[u8]| dictionary.number(bytes, |bytes| bytes != b"no");
        assert_eq!(number(b"a"), Some(0));
        assert_eq!(number(b""), Some(1));
        assert_eq!(number(b"a"), Some(0));
        assert_eq!(number(b"no"), None);
        assert_eq!(number(b"bc"), Some(2));
        assert_eq!(dictionary.arena(), b"abc");
        assert_eq!(dictionary.ends(), [1, 1, 3]);
    }
}

//! Ranges of the trace-ID hash: what a shard is of, and to what a request was applied.

/// A range of hashes; it holds at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashRange {
    first: u64,
    /// Inclusive: the end of the last range does not fit the type.
    last: u64,
}

impl HashRange {
    /// All hashes.
    pub const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// The hashes for which [`crate::hash::shard_of`] says `index`; `None` if it never does.
    pub fn of(index: u32, count: u32) -> Option<Self> {
        if index >= count {
            return None;
        }
        let first = |index: u32| (u128::from(index) << 64).div_ceil(u128::from(count));
        Some(Self {
            first: first(index) as u64,
            last: (first(index + 1) - 1) as u64,
        })
    }

    /// From one hash to another, both included; `None` if the other comes first.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The least hash.
    pub fn first(self) -> u64 {
        self.first
    }

    /// The greatest hash.
    pub fn last(self) -> u64 {
        self.last
    }

    /// Whether the range holds a hash.
    #[inline]
    pub fn contains(self, hash: u64) -> bool {
        (self.first..=self.last).contains(&hash)
    }

    /// What two ranges have in common.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last))
    }
}

/// Hashes as the fewest ranges that hold them: ascending, with gaps in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashRanges(Vec<HashRange>);

impl From<HashRange> for HashRanges {
    fn from(range: HashRange) -> Self {
        Self(vec![range])
    }
}

impl FromIterator<HashRange> for HashRanges {
    /// The ranges may come in any order and overlap.
    fn from_iter<I: IntoIterator<Item = HashRange>>(ranges: I) -> Self {
        let mut sorted: Vec<HashRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut joined: Vec<HashRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match joined.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }
}

impl HashRanges {
    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = HashRange> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no hash is held.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is exactly one range.
    pub fn is(&self, range: HashRange) -> bool {
        self.0 == [range]
    }

    /// Whether a hash is held.
    #[inline]
    pub fn contains(&self, hash: u64) -> bool {
        self.0.iter().any(|range| range.contains(hash))
    }

    /// The hashes of both.
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The hashes that lie in a range.
    pub fn within(&self, range: HashRange) -> Self {
        self.iter().filter_map(|own| own.intersection(range)).collect()
    }

    /// The hashes that lie in none of the others.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for own in self.iter() {
            let mut rest = Some(own);
            for other in others.iter() {
                let Some(range) = rest else {
                    break;
                };
                if range.intersection(other).is_none() {
                    continue;
                }
                left.extend(
                    other
                        .first
                        .checked_sub(1)
                        .and_then(|last| HashRange::new(range.first, last)),
                );
                rest = other
                    .last
                    .checked_add(1)
                    .and_then(|first| HashRange::new(first, range.last));
            }
            left.extend(rest);
        }
        Self(left)
    }

    /// Bytes held beside the value itself.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<HashRange>()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hash::shard_of;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_a_count_follow_each_other_without_a_gap() {
        for count in [1, 2, 3, 7, 4096] {
            let ranges: Vec<HashRange> = (0..count)
                .filter_map(|index| HashRange::of(index, count))
                .collect();
            assert_eq!(ranges.len(), count as usize);
            assert!(ranges.iter().copied().collect::<HashRanges>().is(HashRange::ALL));
            assert!(
                ranges
                    .windows(2)
                    .all(|pair| pair[0].last.checked_add(1) == Some(pair[1].first))
            );
        }
        assert_eq!(HashRange::of(1, 1), None);
        assert_eq!(HashRange::of(0, 0), None);
    }

    /// Sets of small numbers as bits, the ends of the type among them.
    fn spread(bits: u16) -> HashRanges {
        let hash = |bit: u64| if bit < 8 { bit } else { u64::MAX - (15 - bit) };
        (0..16)
            .filter(|bit| bits >> bit & 1 != 0)
            .filter_map(|bit| HashRange::new(hash(bit), hash(bit)))
            .collect()
    }

    proptest! {
        #[test]
        fn a_hash_is_in_the_range_of_its_shard_alone(hash: u64, count in 1u32..5000, index in 0u32..5000) {
            let own = shard_of(hash, count) as u32;
            prop_assert!(HashRange::of(own, count).unwrap().contains(hash));
            if index != own && let Some(other) = HashRange::of(index, count) {
                prop_assert!(!other.contains(hash));
            }
        }

        #[test]
        fn sets_of_hashes_are_added_and_taken_away_as_bits_are(one: u16, other: u16, first in 0u64..16, last in 0u64..16) {
            prop_assert_eq!(spread(one).union(&spread(other)), spread(one | other));
            prop_assert_eq!(spread(one).without(&spread(other)), spread(one & !other));
            let low = spread(u16::MAX).iter().next().unwrap();
            let high = spread(u16::MAX).iter().last().unwrap();
            prop_assert_eq!(spread(one).within(low), spread(one & 0xff));
            prop_assert_eq!(spread(one).within(high), spread(one & 0xff00));
            prop_assert_eq!(HashRange::new(first, last).is_some(), first <= last);
        }
    }
}

//! Counts by native bucket, only of buckets that have some: what a shard adds up between two flushes, and the core of
//! a cumulative histogram.

use crate::native_schema::coarsened;

/// Least room added at a time: most histograms have few buckets, and there may be a million of them.
const LEAST_GROWTH: usize = 4;

/// Ten bytes where a tuple would be padded to sixteen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    index: i16,
    count: [u8; 8],
}

impl Bucket {
    fn new(index: i16, count: f64) -> Self {
        Self {
            index,
            count: count.to_ne_bytes(),
        }
    }

    #[inline]
    fn count(self) -> f64 {
        f64::from_ne_bytes(self.count)
    }

    #[inline]
    fn add(&mut self, more: f64) {
        self.count = (self.count() + more).to_ne_bytes();
    }
}

/// Counts by bucket index, and the count of the zero bucket.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NativeBuckets {
    /// Ascending by index.
    buckets: Vec<Bucket>,
    zero_count: f64,
}

impl NativeBuckets {
    /// Add `weight` to the bucket of this index; `None` is the zero bucket.
    #[inline]
    pub fn observe(&mut self, index: Option<i16>, weight: f64) {
        match index {
            Some(index) => self.add(index, weight),
            None => self.zero_count += weight,
        }
    }

    #[inline]
    fn add(&mut self, index: i16, weight: f64) {
        match self.buckets.binary_search_by_key(&index, |bucket| bucket.index) {
            Ok(at) => {
                if let Some(bucket) = self.buckets.get_mut(at) {
                    bucket.add(weight);
                }
            }
            Err(at) => self.insert(at, Bucket::new(index, weight)),
        }
    }

    #[cold]
    fn insert(&mut self, at: usize, bucket: Bucket) {
        if self.buckets.len() == self.buckets.capacity() {
            self.buckets
                .reserve_exact(LEAST_GROWTH.max(self.buckets.len() / 8));
        }
        self.buckets.insert(at, bucket);
    }

    /// Add all counts of another, after its neighbours were joined `steps` times.
    pub fn add_all(&mut self, other: &Self, steps: u32) {
        self.zero_count += other.zero_count;
        for (index, count) in other.iter() {
            self.add(coarsened(index, steps), count);
        }
    }

    /// Join neighbours `steps` times, in place.
    pub fn join(&mut self, steps: u32) {
        for bucket in &mut self.buckets {
            bucket.index = coarsened(bucket.index, steps);
        }
        self.buckets.dedup_by(|next, kept| {
            let is_same = next.index == kept.index;
            if is_same {
                kept.add(next.count());
            }
            is_same
        });
    }

    /// Indexes and counts, ascending by index.
    pub fn iter(&self) -> impl Iterator<Item = (i16, f64)> + '_ {
        self.buckets.iter().map(|bucket| (bucket.index, bucket.count()))
    }

    /// Count of the zero bucket.
    pub fn zero_count(&self) -> f64 {
        self.zero_count
    }

    /// How many buckets have counts, the zero bucket aside.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty() && self.zero_count == 0.0
    }

    /// All counts together.
    pub fn total(&self) -> f64 {
        self.iter()
            .fold(self.zero_count, |total, (_, count)| total + count)
    }

    /// Whether every count is a whole number.
    pub fn is_whole(&self) -> bool {
        self.zero_count.fract() == 0.0 && self.iter().all(|(_, count)| count.fract() == 0.0)
    }

    /// Forget all counts, and keep the room for new ones.
    pub fn clear(&mut self) {
        self.buckets.clear();
        self.zero_count = 0.0;
    }

    /// Bytes held besides the structure itself.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<Bucket>()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Buckets with these counts, each as if observed with that weight.
    pub fn buckets(counts: &[(i16, f64)]) -> NativeBuckets {
        let mut buckets = NativeBuckets::default();
        for (index, count) in counts {
            buckets.observe(Some(*index), *count);
        }
        buckets
    }

    fn counts(buckets: &NativeBuckets) -> Vec<(i16, f64)> {
        buckets.iter().collect()
    }

    #[test]
    fn observations_are_counted_in_ascending_buckets() {
        let mut held = buckets(&[(5, 1.0), (-79, 2.0), (5, 0.5), (0, 1.0)]);
        held.observe(None, 3.0);
        assert_eq!(counts(&held), [(-79, 2.0), (0, 1.0), (5, 1.5)]);
        assert_eq!((held.zero_count(), held.total(), held.len()), (3.0, 7.5, 3));
        assert!(!held.is_whole() && !held.is_empty());
        assert!(!buckets(&[(5, 1.0)]).is_empty());
        let room = held.heap_bytes();
        held.clear();
        assert!(held.is_empty() && held.is_whole());
        assert_eq!(held.heap_bytes(), room);
    }

    #[test]
    fn a_bucket_takes_ten_bytes() {
        let held = buckets(&[(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]);
        assert_eq!(held.heap_bytes(), 40);
    }

    #[test]
    fn joining_rounds_indexes_up() {
        let mut held = buckets(&[
            (-3, 1.0),
            (-2, 1.0),
            (-1, 1.0),
            (0, 1.0),
            (1, 1.0),
            (2, 1.0),
            (3, 1.0),
        ]);
        held.join(1);
        assert_eq!(counts(&held), [(-1, 2.0), (0, 2.0), (1, 2.0), (2, 1.0)]);
        held.join(3);
        assert_eq!(counts(&held), [(0, 4.0), (1, 3.0)]);
    }

    proptest! {
        #[test]
        fn adding_joined_counts_is_joining_the_sum(
            one in prop::collection::vec((-50..50i16, 1..9u8), 0..20),
            two in prop::collection::vec((-50..50i16, 1..9u8), 0..20),
            steps in 0..6u32,
        ) {
            let whole = |pairs: &[(i16, u8)]| -> Vec<(i16, f64)> {
                pairs.iter().map(|(index, count)| (*index, f64::from(*count))).collect()
            };
            let (one, two) = (buckets(&whole(&one)), buckets(&whole(&two)));
            let mut added = NativeBuckets::default();
            added.add_all(&one, steps);
            added.add_all(&two, steps);
            let mut joined = one;
            joined.add_all(&two, 0);
            joined.join(steps);
            prop_assert_eq!(added, joined);
        }
    }
}

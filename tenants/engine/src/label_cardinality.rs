//! The limit of distinct values per label of one tenant (processors §4.8).
//!
//! Values of each label name are counted in a sliding window, whichever metric they belong to. A label with more of them
//! than the limit gets the same value everywhere, so that its series are one. The limit holds for what is seen of a
//! tenant within the window: a label recovers when its values have left.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::checkpoint::plausible;
use crate::labels::{Labels, put_label};
use crate::sketch::{Sketch, Window};

/// What a label over the limit gets for a value.
pub const OVERFLOW_VALUE: &[u8] = b"__cardinality_overflow__";
/// Most label names whose values are counted. They come from settings, so that there are hardly ever more.
pub const MAX_LABEL_NAMES: usize = 1024;

/// Names that say what a metric is, not where it comes from.
const EXEMPT_NAMES: [&[u8]; 3] = [b"__name__", b"__type__", b"__unit__"];
/// How long limit and estimates stand until they are read anew.
const REFRESH_MS: i64 = 15_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Label {
    values: Sketch,
    is_over_limit: bool,
    #[serde(deserialize_with = "plausible")]
    limited: u64,
    demand: u64,
}

/// What became of one label name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelStats<'a> {
    /// The label's name.
    pub name: &'a [u8],
    /// Label sets in which its value was replaced.
    pub limited: u64,
    /// Distinct values at the last refresh.
    pub demand: u64,
}

/// The limiter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabelCardinality {
    #[serde(with = "by_name")]
    labels: HashMap<Box<[u8]>, Label>,
    window: Window,
    slot: i64,
    /// Of the hash of values, so that none can be chosen to look alike.
    seed: u64,
    /// Distinct values a label may have; 0: no limit, and nothing is counted.
    limit: u64,
    refreshed_at_ms: i64,
    #[serde(deserialize_with = "plausible")]
    version: u64,
    #[serde(deserialize_with = "plausible")]
    untracked: u64,
}

impl LabelCardinality {
    /// A limiter that has seen nothing.
    pub fn new(window: Window, seed: u64, limit: u64, now_ms: i64) -> Self {
        Self {
            labels: HashMap::new(),
            window,
            slot: window.slot(now_ms),
            seed,
            limit,
            refreshed_at_ms: now_ms,
            version: 0,
            untracked: 0,
        }
    }

    /// Read the limit and decide which labels are over it, if that was 15 s ago; to be called before label sets are
    /// offered. Without label sets, nothing needs to be decided.
    #[inline]
    pub fn refresh(&mut self, limit: u64, now_ms: i64) {
        let is_fresh = (0..REFRESH_MS).contains(&now_ms.saturating_sub(self.refreshed_at_ms));
        if !is_fresh {
            self.decide(limit, now_ms);
        }
        let slot = self.window.slot(now_ms);
        if slot > self.slot {
            self.slot = slot;
            self.version += u64::from(self.limit > 0);
        }
    }

    fn decide(&mut self, limit: u64, now_ms: i64) {
        let was_off = std::mem::replace(&mut self.limit, limit) == 0;
        self.refreshed_at_ms = now_ms;
        let mut has_changed = was_off && limit > 0;
        for label in self.labels.values_mut() {
            let mut is_over_limit = false;
            if limit > 0 {
                label.demand = label.values.estimate(now_ms);
                is_over_limit = label.demand > limit;
            } else {
                // The demand stands still, but what is out of date need not be kept.
                label.values.advance(now_ms);
            }
            has_changed |= is_over_limit != label.is_over_limit;
            label.is_over_limit = is_over_limit;
        }
        self.version += u64::from(has_changed);
    }

    /// Count the values of a canonical label set, and return it with those replaced whose labels are over the limit;
    /// none if there are none.
    ///
    /// `updates` is how many spans had the set.
    pub fn rewrite(&mut self, set: &[u8], updates: u32, now_ms: i64) -> Option<Vec<u8>> {
        if self.limit == 0 {
            return None;
        }
        let mut rewritten: Option<Vec<u8>> = None;
        let mut labels = Labels(set);
        loop {
            let before = set.len() - labels.0.len();
            let Some((name, value)) = labels.next() else {
                return rewritten;
            };
            if self.is_over_limit(name, value, updates, now_ms) {
                let out = rewritten.get_or_insert_with(|| set.get(..before).unwrap_or_default().to_vec());
                put_label(out, name, OVERFLOW_VALUE);
            } else if let Some(out) = &mut rewritten {
                put_label(out, name, value);
            }
        }
    }

    /// Count a value, and tell whether its label is over the limit.
    #[inline]
    fn is_over_limit(&mut self, name: &[u8], value: &[u8], updates: u32, now_ms: i64) -> bool {
        if EXEMPT_NAMES.contains(&name) {
            return false;
        }
        let hash = xxh3_64_with_seed(value, self.seed);
        if let Some(label) = self.labels.get_mut(name) {
            label.values.insert(hash, now_ms);
            label.limited += u64::from(if label.is_over_limit { updates } else { 0 });
            return label.is_over_limit;
        }
        if self.labels.len() >= MAX_LABEL_NAMES {
            self.untracked += 1;
            return false;
        }
        let mut values = Sketch::new(self.window, now_ms);
        values.insert(hash, now_ms);
        let label = Label {
            values,
            is_over_limit: false,
            limited: 0,
            demand: 0,
        };
        self.labels.insert(name.into(), label);
        false
    }

    /// Until it grows, a set that came back unchanged need not be offered again: its values are counted, and no label of
    /// it is over the limit. A set that was rewritten must be: each time counts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether values are counted, and replaced where they are too many.
    pub fn is_limiting(&self) -> bool {
        self.limit > 0
    }

    /// What became of each label name, in no order.
    pub fn label_stats(&self) -> impl Iterator<Item = LabelStats<'_>> {
        self.labels.iter().map(|(name, label)| LabelStats {
            name,
            limited: label.limited,
            demand: label.demand,
        })
    }

    /// Values that were not counted, because there were [`MAX_LABEL_NAMES`] other label names.
    pub fn untracked_values(&self) -> u64 {
        self.untracked
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        let labels: usize = self
            .labels
            .iter()
            .map(|(name, label)| name.len() + label.values.state_bytes() - size_of::<Sketch>())
            .sum();
        size_of::<Self>() + labels + self.labels.capacity() * (size_of::<(Box<[u8]>, Label)>() + 1)
    }
}

/// Labels in a checkpoint: ascending by name, so that the same state has the same bytes.
mod by_name {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{HashMap, Label, MAX_LABEL_NAMES};

    pub fn serialize<S: Serializer>(
        labels: &HashMap<Box<[u8]>, Label>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut sorted: Vec<(&[u8], &Label)> = labels.iter().map(|(name, label)| (&**name, label)).collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        serializer.collect_seq(sorted)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HashMap<Box<[u8]>, Label>, D::Error> {
        let labels = Vec::<(Box<[u8]>, Label)>::deserialize(deserializer)?;
        if labels.len() > MAX_LABEL_NAMES {
            return Err(D::Error::custom("there are too many label names"));
        }
        Ok(labels.into_iter().collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labels::label_set;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;
    const SLOT: i64 = 5 * MINUTE;

    fn limiter(limit: u64) -> LabelCardinality {
        LabelCardinality::new(Window::of(15 * MINUTE), 42, limit, 0)
    }

    fn request(url: usize) -> Vec<u8> {
        label_set(vec![
            (b"method", b"GET"),
            (b"url", format!("/{url}").as_bytes()),
            (b"zone", b"a"),
        ])
    }

    fn overflow() -> Vec<u8> {
        label_set(vec![
            (b"method", b"GET"),
            (b"url", OVERFLOW_VALUE),
            (b"zone", b"a"),
        ])
    }

    fn url(limiter: &LabelCardinality) -> (u64, u64) {
        let stats = limiter.label_stats().find(|stats| stats.name == b"url").unwrap();
        (stats.limited, stats.demand)
    }

    /// Offer `urls` sets; whether they were rewritten.
    fn offer(limiter: &mut LabelCardinality, urls: usize, limit: u64, now_ms: i64) -> bool {
        limiter.refresh(limit, now_ms);
        let mut rewritten = 0;
        for index in 0..urls {
            if let Some(set) = limiter.rewrite(&request(index), 1, now_ms) {
                assert_eq!(set, overflow());
                rewritten += 1;
            }
        }
        assert!(rewritten == 0 || rewritten == urls);
        rewritten > 0
    }

    #[test]
    fn a_label_over_the_limit_has_one_value_after_the_next_refresh() {
        // Case 102.
        let mut limiter = limiter(5);
        assert!(!offer(&mut limiter, 10, 5, 0));
        assert!(!offer(&mut limiter, 10, 5, REFRESH_MS - 1));
        assert_eq!(url(&limiter), (0, 0));
        assert!(offer(&mut limiter, 10, 5, REFRESH_MS));
        assert_eq!(url(&limiter), (10, 10));
        assert_eq!(limiter.label_stats().count(), 3);
    }

    #[test]
    fn as_many_values_as_the_limit_pass_and_a_label_recovers_after_four_rotations() {
        // Case 103.
        for (urls, is_over_limit) in [(5, false), (6, true)] {
            let mut limiter = limiter(5);
            offer(&mut limiter, urls, 5, 0);
            assert_eq!(offer(&mut limiter, urls, 5, REFRESH_MS), is_over_limit);
            for rotation in 1..4 {
                assert_eq!(offer(&mut limiter, 1, 5, rotation * SLOT), is_over_limit);
            }
            assert!(!offer(&mut limiter, 1, 5, 4 * SLOT));
            assert_eq!(url(&limiter).1, 1);
        }
    }

    #[test]
    fn the_limit_can_be_switched_on_and_off() {
        // Case 104.
        let mut limiter = limiter(0);
        let mut offer = |limit, seconds: i64| {
            let is_over_limit = offer(&mut limiter, 10, limit, seconds * 1_000);
            (
                is_over_limit,
                limiter.label_stats().map(|stats| stats.demand).max(),
            )
        };
        assert_eq!(offer(0, 0), (false, None));
        assert_eq!(offer(5, 14), (false, None), "not read yet");
        assert_eq!(offer(5, 15), (false, Some(0)), "nothing was counted before");
        assert_eq!(offer(5, 30), (true, Some(10)));
        assert_eq!(offer(0, 40), (true, Some(10)));
        assert_eq!(offer(0, 45), (false, Some(10)));
        assert_eq!(offer(0, 3_600), (false, Some(10)), "frozen");
        assert_eq!(offer(5, 3_615), (false, Some(0)));
        assert_eq!(offer(20, 3_630), (false, Some(10)));
    }

    #[test]
    fn the_version_grows_with_flags_with_slots_and_when_switched_on() {
        let mut limiter = limiter(0);
        let mut grows = |urls, limit, now_ms| {
            let before = limiter.version();
            offer(&mut limiter, urls, limit, now_ms);
            limiter.version() > before
        };
        assert!(!grows(6, 0, SLOT));
        assert!(grows(6, 5, SLOT + REFRESH_MS));
        assert!(!grows(6, 5, SLOT + REFRESH_MS + 1));
        assert!(grows(6, 5, SLOT + 2 * REFRESH_MS));
        assert!(!grows(6, 5, SLOT + 3 * REFRESH_MS));
        assert!(grows(6, 5, 2 * SLOT));
        assert!(!grows(6, 5, 2 * SLOT + 1));
        assert!(grows(6, 6, 2 * SLOT + REFRESH_MS));
        assert!(!grows(6, 6, SLOT), "the clock was set back");
        assert!(!grows(6, 0, 3 * SLOT));
    }

    #[test]
    fn names_that_describe_the_metric_are_not_limited() {
        let mut limiter = limiter(1);
        for now_ms in [0, REFRESH_MS] {
            limiter.refresh(1, now_ms);
            for value in [b"a", b"b", b"c"] {
                let set = EXEMPT_NAMES.map(|name| (name, &value[..])).to_vec();
                assert_eq!(limiter.rewrite(&label_set(set), 1, now_ms), None);
            }
        }
        assert_eq!(limiter.label_stats().count(), 0);
    }

    #[test]
    fn label_names_beyond_the_bound_pass_and_are_counted() {
        let mut limiter = limiter(1);
        for index in 0..MAX_LABEL_NAMES + 2 {
            let name = format!("name_{index}");
            limiter.rewrite(&label_set(vec![(name.as_bytes(), b"a")]), 1, 0);
        }
        assert_eq!(limiter.label_stats().count(), MAX_LABEL_NAMES);
        assert_eq!(limiter.untracked_values(), 2);
        assert!(limiter.state_bytes() < 1 << 20);
    }

    proptest! {
        #[test]
        fn any_set_keeps_its_names_and_the_values_of_labels_within_the_limit(
            sets in prop::collection::vec(prop::collection::btree_map("[a-d]", "[a-e]{1,2}", 0..5), 1..50),
        ) {
            let mut limiter = limiter(3);
            for now_ms in [0, REFRESH_MS] {
                limiter.refresh(3, now_ms);
                for pairs in &sets {
                    let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
                    let set = label_set(pairs.clone().collect());
                    let expected = pairs.map(|(name, value)| {
                        let demand = limiter.label_stats().find(|stats| stats.name == name).map_or(0, |stats| stats.demand);
                        (name, if demand > 3 { OVERFLOW_VALUE } else { value })
                    });
                    let expected = label_set(expected.collect());
                    let rewritten = limiter.rewrite(&set, 1, now_ms);
                    prop_assert_eq!(rewritten.is_some(), expected != set);
                    prop_assert_eq!(rewritten.unwrap_or(set), expected);
                }
            }
        }

        #[test]
        fn any_bytes_will_do(set in prop::collection::vec(any::<u8>(), 0..60), now_ms in any::<i64>()) {
            let mut limiter = limiter(1);
            for set in [&set[..], &set[set.len() / 2..]] {
                limiter.rewrite(set, 1, now_ms);
                limiter.refresh(1, now_ms.wrapping_add(REFRESH_MS));
            }
        }
    }
}

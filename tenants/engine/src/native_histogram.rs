//! One cumulative native histogram of the registry, and how it stays within its number of buckets (processors §4.4,
//! appendix C).

use serde::{Deserialize, Serialize, Serializer};

use crate::checkpoint::{Amount, Sum, refuse};
use crate::error::FrameError;
use crate::native_buckets::NativeBuckets;
use crate::native_schema::Schema;

/// Units of a sum in a nanosecond: fine enough for fractional weights, and additions of integers know no order.
const SUM_UNITS: f64 = 1_048_576.0;

/// What a tenant's settings ask of its native histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeParameters {
    /// Resolution of new histograms, and of those that were reset.
    pub schema: Schema,
    /// Most buckets, the zero bucket aside; 0: no limit.
    pub max_buckets: usize,
    /// Shortest time from a histogram's beginning to its reset; 0: none is ever reset.
    pub min_reset_ms: i64,
}

/// What was observed since the series began or was last reset: 64 bytes, and 10 for each bucket.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "HistogramState")]
pub struct NativeHistogram {
    buckets: NativeBuckets,
    /// In units of 2^-20 ns.
    sum: u128,
    began_at_ms: i64,
    schema: Schema,
    is_reset_scheduled: bool,
}

impl NativeHistogram {
    /// A histogram without observations.
    pub fn new(schema: Schema, now_ms: i64) -> Self {
        Self {
            buckets: NativeBuckets::default(),
            sum: 0,
            began_at_ms: now_ms,
            schema,
            is_reset_scheduled: false,
        }
    }

    /// Add what a shard observed: `delta` counted at `schema`, `sum` in units of 2^-20 ns. Returns whether the
    /// histogram was reset before.
    ///
    /// Too many buckets reset it if it is `min_reset_ms` old and was not reduced since; else its resolution is reduced
    /// until it fits, and a reset is scheduled for when it is that old, done by the first merge from then on. As long as
    /// nothing is reset, the order of merges does not matter: the resolution is the finest at which all buckets fit.
    pub fn merge(
        &mut self,
        delta: &NativeBuckets,
        schema: Schema,
        sum: u128,
        now_ms: i64,
        parameters: &NativeParameters,
    ) -> bool {
        let may_reset =
            parameters.min_reset_ms > 0 && now_ms.saturating_sub(self.began_at_ms) >= parameters.min_reset_ms;
        let mut is_reset = may_reset && self.is_reset_scheduled;
        if is_reset {
            *self = Self::new(parameters.schema, now_ms);
        }
        self.add(delta, schema, sum);
        if may_reset && !is_reset && self.exceeds(parameters) {
            is_reset = true;
            *self = Self::new(parameters.schema, now_ms);
            self.add(delta, schema, sum);
        }
        if self.exceeds(parameters) {
            self.is_reset_scheduled = parameters.min_reset_ms > 0;
            while self.exceeds(parameters)
                && let Some(coarser) = self.schema.coarser()
            {
                self.coarsen(coarser);
            }
        }
        is_reset
    }

    fn add(&mut self, delta: &NativeBuckets, schema: Schema, sum: u128) {
        // A shard with older settings may know less than the histogram: counts can be joined, not divided.
        self.coarsen(schema);
        self.buckets.add_all(delta, schema.steps_to(self.schema));
        self.sum = self.sum.saturating_add(sum);
    }

    fn exceeds(&self, parameters: &NativeParameters) -> bool {
        parameters.max_buckets > 0 && self.buckets.len() > parameters.max_buckets
    }

    /// Reduce the resolution to `schema`, if that is coarser.
    pub fn coarsen(&mut self, schema: Schema) {
        let steps = self.schema.steps_to(schema);
        if steps > 0 {
            self.buckets.join(steps);
            self.schema = schema;
        }
    }

    /// The present resolution.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// The counts.
    pub fn buckets(&self) -> &NativeBuckets {
        &self.buckets
    }

    /// Sum of observations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / SUM_UNITS / 1e9
    }

    /// Bytes held besides the structure itself.
    pub fn heap_bytes(&self) -> usize {
        self.buckets.heap_bytes()
    }
}

/// A histogram in a checkpoint.
#[derive(Serialize, Deserialize)]
struct HistogramState {
    schema: Schema,
    is_reset_scheduled: bool,
    began_at_ms: i64,
    sum: Sum,
    zero_count: Amount,
    buckets: Vec<(i16, Amount)>,
}

impl Serialize for NativeHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self.buckets.iter();
        let state = HistogramState {
            schema: self.schema,
            is_reset_scheduled: self.is_reset_scheduled,
            began_at_ms: self.began_at_ms,
            sum: Sum(self.sum),
            zero_count: Amount(self.buckets.zero_count()),
            buckets: buckets.map(|(index, count)| (index, Amount(count))).collect(),
        };
        state.serialize(serializer)
    }
}

impl TryFrom<HistogramState> for NativeHistogram {
    type Error = FrameError;

    fn try_from(state: HistogramState) -> Result<Self, FrameError> {
        let ascend = state.buckets.is_sorted_by(|(one, _), (other, _)| one < other);
        if !ascend || !state.buckets.iter().all(|(index, _)| state.schema.has(*index)) {
            return Err(refuse("a bucket is out of range"));
        }
        let mut buckets = NativeBuckets::default();
        buckets.observe(None, state.zero_count.0);
        for (index, count) in state.buckets {
            buckets.observe(Some(index), count.0);
        }
        Ok(Self {
            buckets,
            sum: state.sum.0,
            began_at_ms: state.began_at_ms,
            schema: state.schema,
            is_reset_scheduled: state.is_reset_scheduled,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::native_buckets::tests::buckets;
    use crate::native_schema::BucketFinder;
    use proptest::prelude::*;

    const MINUTE_MS: i64 = 60_000;

    fn schema(number: i8) -> Schema {
        Schema::new(number).unwrap()
    }

    fn parameters(max_buckets: usize, min_reset_ms: i64) -> NativeParameters {
        NativeParameters {
            schema: schema(3),
            max_buckets,
            min_reset_ms,
        }
    }

    fn one_each(indexes: impl IntoIterator<Item = i16>) -> NativeBuckets {
        let pairs: Vec<_> = indexes.into_iter().map(|index| (index, 1.0)).collect();
        buckets(&pairs)
    }

    fn merge(
        histogram: &mut NativeHistogram,
        indexes: &[i16],
        now_ms: i64,
        limits: &NativeParameters,
    ) -> bool {
        let delta = one_each(indexes.iter().copied());
        histogram.merge(&delta, schema(3), (indexes.len() as u128) << 20, now_ms, limits)
    }

    fn counts(histogram: &NativeHistogram) -> Vec<(i16, f64)> {
        histogram.buckets().iter().collect()
    }

    #[test]
    fn a_histogram_is_one_cache_line() {
        assert_eq!(size_of::<NativeHistogram>(), 64);
    }

    #[test]
    fn thirty_spread_observations_within_ten_buckets() {
        let finder = BucketFinder::new(schema(3));
        let mut histogram = NativeHistogram::new(schema(3), 0);
        for power in 0..30 {
            let duration_ns = (1e6 * 1.5f64.powi(power)).round() as u64;
            let mut delta = NativeBuckets::default();
            delta.observe(finder.bucket(duration_ns), 1.0);
            histogram.merge(
                &delta,
                schema(3),
                u128::from(duration_ns) << 20,
                0,
                &parameters(10, 0),
            );
        }
        assert_eq!(histogram.schema(), schema(-1));
        assert_eq!(
            (histogram.buckets().len(), histogram.buckets().total()),
            (9, 30.0)
        );
    }

    #[test]
    fn an_old_histogram_with_too_many_buckets_is_reset_and_counts_this_merge() {
        let limits = parameters(2, MINUTE_MS);
        let mut histogram = NativeHistogram::new(schema(3), 0);
        assert!(!merge(&mut histogram, &[1, 2], 0, &limits));
        assert!(merge(&mut histogram, &[2, 9], MINUTE_MS, &limits));
        assert_eq!(counts(&histogram), [(2, 1.0), (9, 1.0)]);
        assert!((histogram.sum_seconds() - 2e-9).abs() < 1e-20);
    }

    #[test]
    fn a_young_histogram_is_reduced_and_reset_when_it_is_old() {
        let limits = parameters(2, MINUTE_MS);
        let mut histogram = NativeHistogram::new(schema(3), 0);
        assert!(!merge(&mut histogram, &[1, 2, 9], MINUTE_MS - 2, &limits));
        assert_eq!(histogram.schema(), schema(2));
        assert_eq!(counts(&histogram), [(1, 2.0), (5, 1.0)]);
        assert!(!merge(&mut histogram, &[1, 30], MINUTE_MS - 1, &limits));
        assert_eq!(
            (histogram.schema(), counts(&histogram)),
            (schema(-1), vec![(1, 4.0), (2, 1.0)])
        );
        assert!(merge(&mut histogram, &[7], MINUTE_MS, &limits));
        assert_eq!(
            (histogram.schema(), counts(&histogram)),
            (schema(3), vec![(7, 1.0)])
        );
        // The clock begins anew with the reset.
        assert!(!merge(&mut histogram, &[8, 9], 2 * MINUTE_MS - 1, &limits));
        assert_eq!(histogram.schema(), schema(2));
    }

    #[test]
    fn a_delta_too_big_by_itself_is_reduced_after_the_reset() {
        let limits = parameters(2, MINUTE_MS);
        for prepared in [&[1, 2][..], &[1, 2, 9]] {
            let mut histogram = NativeHistogram::new(schema(3), 0);
            assert!(!merge(&mut histogram, prepared, 0, &limits));
            assert!(merge(&mut histogram, &[1, 2, 9], MINUTE_MS, &limits));
            assert_eq!(histogram.schema(), schema(2));
            assert_eq!(counts(&histogram), [(1, 2.0), (5, 1.0)]);
            assert!(merge(&mut histogram, &[1], 2 * MINUTE_MS, &limits));
            assert_eq!(histogram.schema(), schema(3));
        }
    }

    #[test]
    fn without_a_reset_duration_nothing_is_reset() {
        let mut histogram = NativeHistogram::new(schema(3), 0);
        for hour in 0..10 {
            let now_ms = i64::from(hour) * 60 * MINUTE_MS;
            assert!(!merge(&mut histogram, &[1, 2, hour], now_ms, &parameters(1, 0)));
        }
        assert_eq!(histogram.schema(), Schema::COARSEST);
        assert_eq!(counts(&histogram), [(0, 1.0), (1, 29.0)]);
    }

    #[test]
    fn what_was_reduced_while_nothing_was_reset_is_not_reset_by_a_later_duration() {
        let mut histogram = NativeHistogram::new(schema(3), 0);
        assert!(!merge(&mut histogram, &[1, 2, 9], 0, &parameters(2, 0)));
        assert!(!merge(&mut histogram, &[1], MINUTE_MS, &parameters(2, MINUTE_MS)));
        assert_eq!(counts(&histogram), [(1, 3.0), (5, 1.0)]);
    }

    #[test]
    fn the_coarsest_schema_may_exceed_the_limit() {
        let mut histogram = NativeHistogram::new(schema(3), 0);
        merge(&mut histogram, &[-239, 0, 273], 0, &parameters(1, 0));
        assert_eq!(histogram.schema(), Schema::COARSEST);
        assert_eq!(counts(&histogram), [(-1, 1.0), (0, 1.0), (3, 1.0)]);
    }

    #[test]
    fn no_limit_means_no_reduction() {
        let mut histogram = NativeHistogram::new(schema(8), 0);
        let delta = one_each(-7653..=8731);
        assert!(!histogram.merge(&delta, schema(8), 0, i64::MAX, &parameters(0, 1)));
        assert_eq!(
            (histogram.schema(), histogram.buckets().len()),
            (schema(8), 16_385)
        );
    }

    #[test]
    fn deltas_of_other_settings_meet_at_the_coarser_schema() {
        let limits = parameters(100, 0);
        let mut histogram = NativeHistogram::new(schema(2), 0);
        histogram.merge(&one_each([3, 4, 5]), schema(3), 0, 0, &limits);
        assert_eq!(counts(&histogram), [(2, 2.0), (3, 1.0)]);
        histogram.merge(&one_each([1]), schema(1), 0, 0, &limits);
        assert_eq!(
            (histogram.schema(), counts(&histogram)),
            (schema(1), vec![(1, 3.0), (2, 1.0)])
        );
        histogram.coarsen(schema(3));
        assert_eq!(histogram.schema(), schema(1));
        histogram.coarsen(schema(0));
        assert_eq!(counts(&histogram), [(1, 4.0)]);
    }

    #[test]
    fn a_sum_of_any_size_is_held() {
        let mut histogram = NativeHistogram::new(schema(3), 0);
        for _ in 0..3 {
            histogram.merge(&one_each([0]), schema(3), u128::MAX / 2, 0, &parameters(100, 0));
        }
        assert!(histogram.sum_seconds().is_finite());
    }

    proptest! {
        #[test]
        fn deltas_in_any_order_and_partition_give_the_same_histogram(
            observed in prop::collection::vec((-80..40i16, 1..5u8, any::<u8>()), 1..60)
                .prop_flat_map(|observed| (Just(observed.clone()), Just(observed).prop_shuffle())),
            parts in 1..6usize,
            max_buckets in 1..20usize,
            fine in 0..=8i8,
        ) {
            let (observed, shuffled) = observed;
            let limits = NativeParameters { schema: schema(fine), max_buckets, min_reset_ms: 0 };
            let merged = |observed: &[(i16, u8, u8)], parts: usize| {
                let mut deltas = vec![(NativeBuckets::default(), 0u128); parts];
                for (number, (index, count, sum)) in observed.iter().enumerate() {
                    let delta = &mut deltas[(number * 7 + usize::from(*sum)) % parts];
                    delta.0.observe((*index != -80).then_some(*index), f64::from(*count));
                    delta.1 += u128::from(*sum);
                }
                let mut histogram = NativeHistogram::new(limits.schema, 0);
                for (delta, sum) in &deltas {
                    histogram.merge(delta, limits.schema, *sum, 0, &limits);
                }
                histogram
            };
            prop_assert_eq!(merged(&observed, 1), merged(&shuffled, parts));
        }
    }
}

//! The upper bounds of a classic histogram (processors §4.3).

use crate::any_value::float_text;
use crate::error::PlanError;

/// Most buckets of a histogram: an exemplar's bucket must fit a byte.
const MAX_BUCKETS: usize = 100;

/// The upper bounds of a classic histogram, +Inf left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// Seconds, ascending.
    pub seconds: Vec<f64>,
    /// The greatest number of nanoseconds that is still inside each bucket.
    nanoseconds: Vec<u64>,
}

impl Bounds {
    /// Sort and check `seconds`; `path` names the setting in errors.
    pub fn new(path: &str, seconds: &[f64]) -> Result<Self, PlanError> {
        let refuse = |message: String| PlanError {
            path: path.to_owned(),
            message,
        };
        if seconds.len() > MAX_BUCKETS {
            return Err(refuse(format!(
                "at most {MAX_BUCKETS} buckets, not {}",
                seconds.len()
            )));
        }
        if let Some(bound) = seconds.iter().find(|bound| !bound.is_finite() || **bound <= 0.0) {
            return Err(refuse(format!("a bound must be finite and above 0, not {bound}")));
        }
        let mut seconds = seconds.to_vec();
        seconds.sort_by(f64::total_cmp);
        if let Some(pair) = seconds.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(refuse(format!("bounds must differ, {pair:?} repeat")));
        }
        let nanoseconds = seconds.iter().map(|bound| greatest_ns_within(*bound)).collect();
        Ok(Self { seconds, nanoseconds })
    }

    /// The bucket of an observation: the first whose bound is not below it, `seconds.len()` for +Inf.
    #[inline]
    pub fn bucket(&self, duration_ns: u64) -> usize {
        // Bounds are few: counting all of them costs less than a search that branches.
        self.nanoseconds
            .iter()
            .filter(|bound| duration_ns > **bound)
            .count()
    }

    /// How many buckets there are, +Inf included.
    pub fn buckets(&self) -> usize {
        self.seconds.len() + 1
    }

    /// The `le` text of each bucket, +Inf included.
    pub fn le_texts(&self) -> Vec<String> {
        let finite = self.seconds.iter().map(|bound| float_text(*bound));
        finite.chain(["+Inf".to_owned()]).collect()
    }
}

/// The greatest n with `n / 1e9 <= bound` in double arithmetic: what comparing seconds would let in.
fn greatest_ns_within(bound: f64) -> u64 {
    let fits = |ns: u64| ns as f64 / 1e9 <= bound;
    let (mut low, mut high) = (0u64, u64::MAX);
    if fits(high) {
        return high;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buckets_include_their_upper_bound() {
        let bounds = Bounds::new("", &[1.0, 0.002, 0.1]).unwrap();
        assert_eq!(bounds.le_texts(), ["0.002", "0.1", "1", "+Inf"]);
        let cases = [
            (0, 0),
            (2_000_000, 0),
            (2_000_001, 1),
            (100_000_000, 1),
            (1_000_000_000, 2),
            (1_000_000_001, 3),
            (u64::MAX, 3),
        ];
        for (ns, bucket) in cases {
            assert_eq!(bounds.bucket(ns), bucket, "{ns}");
        }
    }

    #[test]
    fn repeated_or_impossible_bounds_are_refused_with_the_path() {
        for seconds in [
            &[1.0, 1.0][..],
            &[0.0],
            &[f64::INFINITY],
            &[f64::NAN],
            &[1.0; 101],
        ] {
            assert_eq!(Bounds::new("here", seconds).unwrap_err().path, "here");
        }
    }
}

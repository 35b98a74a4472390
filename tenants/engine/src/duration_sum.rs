//! Sums of observed durations, exact whatever the order of additions and however many shards add.
//!
//! A sum is a whole number of 2^-20 nanoseconds in 128 bits: a duration of 584 years can be added 2^44 times. A weighted one
//! is rounded once, by less than a picosecond, and counts for at most 2^100 units (38 million years), so that no single
//! span brings a sum to its end. Doubles would make `_sum` depend on the order of arrival.

/// Bits of a sum below the nanosecond.
pub const FRACTION_BITS: u32 = 20;
const MAX_OBSERVED: u128 = 1 << 100;
const UNITS_PER_NS: f64 = (1u64 << FRACTION_BITS) as f64;

/// What an observation adds to a sum.
#[inline]
pub fn observed(duration_ns: u64, weight: f64) -> u128 {
    if weight.to_bits() == 1f64.to_bits() {
        u128::from(duration_ns) << FRACTION_BITS
    } else {
        ((duration_ns as f64 * weight * UNITS_PER_NS).round() as u128).min(MAX_OBSERVED)
    }
}

/// A sum in seconds.
pub fn seconds(sum: u128) -> f64 {
    sum as f64 / UNITS_PER_NS / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "exactness is the point")]
    fn sums_are_exact() {
        assert_eq!(seconds(observed(45_834_496, 1.0)), 0.045_834_496);
        assert_eq!(
            seconds(observed(1_000_000_000, 1.5) + observed(2_000_000_000, 5.0)),
            11.5
        );
        assert_eq!(
            seconds(observed(4_000_000, 2.5) + observed(3_000_000, 1.0)),
            0.013
        );
        assert_eq!(observed(u64::MAX, 2f64.powi(56)), 1 << 100);
        assert_eq!(observed(7, 1.0), observed(7, 0.5) * 2);
    }
}

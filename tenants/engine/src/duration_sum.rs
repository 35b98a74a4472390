//! Sums of observed durations, exact whatever the order of additions and however many shards add.
//!
//! A sum is a whole number of 2^-20 nanoseconds in 128 bits: a duration of 584 years can be added 2^44 times. A weighted one
//! is rounded once, by less than a picosecond, and counts for at most 2^120 units, so that no single
//! span brings a sum to its end. Doubles would make `_sum` depend on the order of arrival.

/// Bits of a sum below the nanosecond.
pub const FRACTION_BITS: u32 = 20;
const MAX_OBSERVED: u128 = 1 << 120;
const UNITS_PER_NS: f64 = (1u64 << FRACTION_BITS) as f64;

/// What an observation adds to a sum: the product, rounded half up.
#[inline]
pub fn observed(duration_ns: u64, weight: f64) -> u128 {
    if weight.to_bits() == 1f64.to_bits() {
        u128::from(duration_ns) << FRACTION_BITS
    } else {
        weighted(duration_ns, weight).min(MAX_OBSERVED)
    }
}

/// The product in integers: 64 bits of duration with 53 of weight fit 128, and then only the point moves.
fn weighted(duration_ns: u64, weight: f64) -> u128 {
    let bits = weight.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    let significand = if exponent == 0 {
        fraction
    } else {
        fraction | 1 << 52
    };
    let product = u128::from(duration_ns) * u128::from(significand);
    let shift = exponent.max(1) - 1075 + FRACTION_BITS as i32;
    if shift >= 0 {
        // Beyond what 128 bits hold it is beyond the bound too.
        let is_lost = product.leading_zeros() < shift.unsigned_abs();
        return if is_lost { MAX_OBSERVED } else { product << shift };
    }
    let down = shift.unsigned_abs();
    if down > 120 {
        return 0;
    }
    (product + (1 << (down - 1))) >> down
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
        assert_eq!(observed(u64::MAX, 2f64.powi(56)), 1 << 120);
        assert_eq!(observed(7, 1.0), observed(7, 0.5) * 2);
        assert_eq!(observed(1, 2f64.powi(-21)), 1);
        assert_eq!(observed(1, 2f64.powi(-22)), 0);
        assert_eq!(observed(u64::MAX, f64::from_bits(1)), 0);
        assert_eq!(observed(3, 1.0 / 3.0), 1 << 20);
    }
}

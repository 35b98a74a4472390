//! The bucket bounds of native histograms: powers of 2^(2^-schema) seconds (processors appendix C).

use serde::{Deserialize, Serialize};

use crate::checkpoint::refuse;
use crate::error::FrameError;

/// `floor(2^63 * 2^(2^-k))` for k from 1: every bound within an octave is a product of some of these.
const ROOTS: [u64; 8] = [
    0xb504_f333_f9de_6484,
    0x9837_f051_8db8_a96f,
    0x8b95_c1e3_ea8b_d6e6,
    0x85aa_c367_cc48_7b14,
    0x82cd_8698_ac2b_a1d7,
    0x8164_d1f3_bc03_0773,
    0x80b1_ed4f_d999_ab6c,
    0x8058_d7d2_d5e5_f6b0,
];
/// Index of one nanosecond at the finest schema.
const LEAST_INDEX: i16 = -7653;
/// Index of 2^64 nanoseconds at the finest schema.
const GREATEST_INDEX: i16 = 8731;
const MANTISSA_BITS: u32 = 52;
const MANTISSA: u64 = (1 << MANTISSA_BITS) - 1;
const EXPONENT_BIAS: i32 = 1023;

/// A resolution: each bound is 2^(2^-schema) times the one below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i8", into = "i8")]
pub struct Schema(i8);

impl Schema {
    /// Each bound is 65536 times the one below it.
    pub const COARSEST: Self = Self(-4);
    /// 256 buckets per doubling.
    pub const FINEST: Self = Self(8);

    /// The schema of this number, if there is one.
    pub fn new(number: i8) -> Option<Self> {
        let schema = Self(number);
        (Self::COARSEST..=Self::FINEST)
            .contains(&schema)
            .then_some(schema)
    }

    /// The coarsest schema whose bounds grow by at most `factor`. `None` unless it is a finite number above 1: no
    /// schema has such buckets.
    pub fn from_factor(factor: f64) -> Option<Self> {
        if !factor.is_finite() || factor <= 1.0 {
            return None;
        }
        let (coarsest, finest) = (f64::from(Self::COARSEST.0), f64::from(Self::FINEST.0));
        Some(Self((-factor.log2().log2().floor()).clamp(coarsest, finest) as i8))
    }

    /// The number on the wire.
    pub fn number(self) -> i8 {
        self.0
    }

    /// The next coarser schema, which joins every two buckets.
    pub fn coarser(self) -> Option<Self> {
        Self::new(self.0 - 1)
    }

    /// Whether a duration can fall into the bucket of this index.
    pub fn has(self, index: i16) -> bool {
        let (least, greatest) = (LEAST_INDEX, GREATEST_INDEX);
        let steps = Self::FINEST.steps_to(self);
        (coarsened(least, steps)..=coarsened(greatest, steps)).contains(&index)
    }

    /// How often neighbours are joined on the way to `coarser`; none if it is not coarser.
    pub fn steps_to(self, coarser: Self) -> u32 {
        u32::try_from(self.0 - coarser.0).unwrap_or_default()
    }
}

impl From<Schema> for i8 {
    fn from(schema: Schema) -> Self {
        schema.0
    }
}

impl TryFrom<i8> for Schema {
    type Error = FrameError;

    fn try_from(number: i8) -> Result<Self, FrameError> {
        Self::new(number).ok_or(refuse("a schema is out of range"))
    }
}

/// The bucket of this one's observations after neighbours were joined `steps` times: ⌈i / 2⌉ each time.
#[inline]
pub fn coarsened(index: i16, steps: u32) -> i16 {
    let rounding_up = (1i32 << steps) - 1;
    ((i32::from(index) + rounding_up) >> steps) as i16
}

/// Finds the bucket of a duration without a logarithm or a search.
///
/// An octave of 2^schema bounds is cut into twice as many equal cells: narrower than any bucket, so that each contains
/// at most one bound, and one comparison decides.
#[derive(Debug, Clone, PartialEq)]
pub struct BucketFinder {
    schema: Schema,
    cells: Box<[Cell]>,
    cell_shift: u32,
    octave_shift: u32,
    /// Schemas below 0 find the bucket of schema 0 and join it.
    joins: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    /// Mantissa of the bound within this cell, above all mantissas if there is none.
    bound: u64,
    /// Bounds of the octave below this cell.
    below: i32,
}

impl BucketFinder {
    /// Prepare the cells of `schema`.
    pub fn new(schema: Schema) -> Self {
        let octave_shift = u32::from(schema.0.max(0).unsigned_abs());
        let cell_shift = MANTISSA_BITS - octave_shift - 1;
        let bounds: Vec<u64> = (0..1u32 << octave_shift)
            .map(|number| bound_mantissa(number << (8 - octave_shift)))
            .collect();
        let cells = (0..2u64 << octave_shift)
            .map(|cell| {
                let from = cell << cell_shift;
                let below = bounds.iter().filter(|bound| **bound < from).count();
                let bound = bounds
                    .get(below)
                    .filter(|bound| **bound >> cell_shift == cell)
                    .copied();
                Cell {
                    bound: bound.unwrap_or(u64::MAX),
                    below: below as i32,
                }
            })
            .collect();
        Self {
            schema,
            cells,
            cell_shift,
            octave_shift,
            joins: u32::from(schema.0.min(0).unsigned_abs()),
        }
    }

    /// The schema whose buckets it finds.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// The smallest i with `duration_ns / 1e9 <= 2^(i * 2^-schema)`; `None` is the zero bucket. Every other duration
    /// is far above its threshold of 2^-128 s, and every index is between -7653 and 8731.
    ///
    /// The quotient is rounded to a double, as wherever durations are seconds; its comparison with a bound is exact.
    /// Receivers' tables are off by a unit or two in the last place, which at schema 3 no duration below 52 days meets.
    #[inline]
    pub fn bucket(&self, duration_ns: u64) -> Option<i16> {
        if duration_ns == 0 {
            return None;
        }
        let bits = (duration_ns as f64 / 1e9).to_bits();
        let mantissa = bits & MANTISSA;
        let exponent = (bits >> MANTISSA_BITS) as i32 - EXPONENT_BIAS;
        let cell = self.cells.get((mantissa >> self.cell_shift) as usize)?;
        let index = (exponent << self.octave_shift) + cell.below + i32::from(mantissa > cell.bound);
        Some(coarsened(index as i16, self.joins))
    }
}

/// Mantissa of the double that is the greatest one up to 2^(number / 256): at or below it are the same values as at or
/// below the bound itself. Compared with exact arithmetic for all 256 numbers.
fn bound_mantissa(number: u32) -> u64 {
    let product = ROOTS.iter().enumerate().fold(1u64 << 63, |product, (k, root)| {
        if number >> (7 - k) & 1 == 0 {
            product
        } else {
            ((u128::from(product) * u128::from(*root)) >> 63) as u64
        }
    });
    product >> 11 & MANTISSA
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn finder(schema: i8) -> BucketFinder {
        BucketFinder::new(Schema::new(schema).unwrap())
    }

    /// The greatest double up to the bound.
    fn bound(schema: i8, index: i16) -> f64 {
        let (octave, number) = match u32::try_from(schema) {
            Ok(shift) => (
                index >> shift,
                (u32::from(index as u16) % (1 << shift)) << (8 - shift),
            ),
            Err(_) => (index << -schema, 0),
        };
        let exponent = (i32::from(octave) + EXPONENT_BIAS) as u64;
        f64::from_bits(exponent << MANTISSA_BITS | bound_mantissa(number))
    }

    #[test]
    fn the_factor_decides_the_schema() {
        let table = [
            (1.0001, 8),
            (1.01, 7),
            (1.05, 4),
            (1.1, 3),
            (1.2, 2),
            (1.5, 1),
            (2.0, 0),
            (4.0, -1),
            (16.0, -2),
            (65536.0, -4),
            (1e300, -4),
            (1.0f64.next_up(), 8),
        ];
        for (factor, schema) in table {
            assert_eq!(Schema::from_factor(factor), Schema::new(schema), "{factor}");
        }
        for factor in [1.0, 0.5, 0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Schema::from_factor(factor), None, "{factor}");
        }
        assert_eq!((Schema::new(-5), Schema::new(9)), (None, None));
        assert_eq!(Schema::COARSEST.coarser(), None);
        assert_eq!(Schema::FINEST.coarser(), Schema::new(7));
    }

    #[test]
    fn every_bound_is_the_square_root_of_another() {
        for (root, square) in ROOTS.into_iter().zip([u64::MAX].into_iter().chain(ROOTS)) {
            let (root, square) = (u128::from(root), u128::from(square));
            assert!(root * root <= (square + 1) << 63, "{root:x}");
            assert!((root + 1) * (root + 1) >= square << 63, "{root:x}");
        }
        let significand = |number: u32| u128::from(bound_mantissa(number % 256) | 1 << 52) << (number / 256);
        for number in 0..256 {
            let (root, square) = (significand(number), significand(2 * number));
            let width = 1 << (2 * number / 256);
            assert!(root * root < (square + width) << 52, "{number}");
            assert!((root + 1) * (root + 1) > square << 52, "{number}");
        }
    }

    #[test]
    fn golden_indexes_of_the_default_schema() {
        let finder = finder(3);
        let table = [
            (0, None),
            (1, Some(-239)),
            (1_000_000, Some(-79)),
            (1_000_000_000, Some(0)),
            (1_000_000_001, Some(1)),
            (1_000_100_000, Some(1)),
            (1_090_507_732, Some(1)),
            (1_090_507_733, Some(2)),
            (1_500_000_000, Some(5)),
            (2_000_000_000, Some(8)),
            (5_000_000_000, Some(19)),
            (u64::MAX, Some(273)),
        ];
        for (duration_ns, index) in table {
            assert_eq!(finder.bucket(duration_ns), index, "{duration_ns}");
        }
    }

    #[test]
    fn the_widest_indexes_are_those_of_the_finest_schema() {
        let finder = finder(8);
        assert_eq!(finder.bucket(1), Some(LEAST_INDEX));
        assert_eq!(finder.bucket(u64::MAX), Some(GREATEST_INDEX));
        assert!(Schema::FINEST.has(LEAST_INDEX) && !Schema::FINEST.has(LEAST_INDEX - 1));
        let coarsest = BucketFinder::new(Schema::COARSEST).bucket(u64::MAX).unwrap();
        assert!(Schema::COARSEST.has(coarsest) && !Schema::COARSEST.has(coarsest + 1));
    }

    #[test]
    fn powers_of_two_are_bounds_of_their_buckets() {
        for schema in -4i8..=8 {
            let finder = finder(schema);
            for octave in 0..20u32 {
                let index = i32::from(octave as u8) << schema.max(0);
                let expected = coarsened(index as i16, u32::from(schema.min(0).unsigned_abs()));
                assert_eq!(finder.bucket(1_000_000_000 << octave), Some(expected));
            }
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_above_the_bound_below_and_not_above_its_own(
            duration_ns in prop_oneof![1..u64::MAX, 1..100_000_000_000u64, 1..10_000u64],
            schema in -4..=8i8,
        ) {
            let index = finder(schema).bucket(duration_ns).unwrap();
            let seconds = duration_ns as f64 / 1e9;
            prop_assert!(seconds <= bound(schema, index));
            prop_assert!(seconds > bound(schema, index - 1));
        }

        #[test]
        fn a_coarser_schema_joins_buckets_of_a_finer_one(
            duration_ns in prop_oneof![1..u64::MAX, 1..100_000_000_000u64],
            fine in -4..=8i8,
            coarse in -4..=8i8,
        ) {
            let (fine, coarse) = (fine.max(coarse), fine.min(coarse));
            let steps = Schema(fine).steps_to(Schema(coarse));
            let index = finder(fine).bucket(duration_ns).unwrap();
            prop_assert_eq!(Some(coarsened(index, steps)), finder(coarse).bucket(duration_ns));
        }

        #[test]
        fn joining_one_by_one_is_joining_at_once(index in -7653..=8731i16, steps in 0..=12u32) {
            let one_by_one = (0..steps).fold(index, |index, _| coarsened(index, 1));
            prop_assert_eq!(one_by_one, coarsened(index, steps));
        }
    }
}

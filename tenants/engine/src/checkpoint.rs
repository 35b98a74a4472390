//! The form of a checkpoint: a registry's whole state as bytes. Private to the engine.
//!
//! Layout: version, the state in postcard's encoding (numbers are varints), XXH3 of all that. Hash tables, links and
//! whatever else follows from the rest are left out and made anew. Reading takes nothing on trust: what is kept can be
//! used without a panic, and takes no more memory than its bytes account for.

use std::borrow::Cow;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::duration_sum::FRACTION_BITS;
use crate::error::FrameError;
use crate::sealed_bytes::{open_sealed, seal};

/// To be raised with every change of what is kept, or of its order: postcard writes neither names nor types.
const VERSION: u8 = 3;
const WHAT: &str = "checkpoint";
/// Integers up to here are exact in a double, and written as varints.
const EXACT: u64 = 1 << 53;
/// Counters beyond are those of damaged bytes; below, they can grow for ever.
const MAX_COUNT: u64 = 1 << 56;

/// Write a state.
#[allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "only a sequence of unknown length could fail; bytes without the state would be worse than a panic"
)]
pub fn sealed(state: &impl Serialize) -> Vec<u8> {
    seal(postcard::to_extend(state, vec![VERSION]).expect("every length is known"))
}

/// Read a state.
pub fn opened<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(open_sealed(bytes, VERSION, WHAT)?.rest()) {
        Ok((state, [])) => Ok(state),
        Ok(_) => Err(refuse("its parts fall short of its length")),
        Err(_) => Err(refuse("a part is out of range")),
    }
}

/// What is said of bytes that are no checkpoint.
pub fn refuse(fault: &'static str) -> FrameError {
    FrameError { what: WHAT, fault }
}

/// Counters that can grow for ever.
pub trait Plausible {
    /// Whether none of them is near its end.
    fn is_plausible(&self) -> bool;
}

impl Plausible for u64 {
    fn is_plausible(&self) -> bool {
        *self <= MAX_COUNT
    }
}

impl<const N: usize> Plausible for [u64; N] {
    fn is_plausible(&self) -> bool {
        self.iter().all(u64::is_plausible)
    }
}

/// Read counters that are added to without a look at their end.
pub fn plausible<'de, D: Deserializer<'de>, T: Deserialize<'de> + Plausible>(
    deserializer: D,
) -> Result<T, D::Error> {
    let counted = T::deserialize(deserializer)?;
    counted
        .is_plausible()
        .then_some(counted)
        .ok_or_else(|| D::Error::custom("a counter is out of range"))
}

/// An amount that only grows: a whole number takes as many bytes as it needs, any other up to ten.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amount(pub f64);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (whole, bits) = (self.0 as u64, self.0.to_bits());
        let word = if whole < EXACT && (whole as f64).to_bits() == bits {
            u128::from(whole) << 1
        } else {
            u128::from(bits) << 1 | 1
        };
        word.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = u128::deserialize(deserializer)?;
        let half = u64::try_from(word >> 1).map_err(D::Error::custom)?;
        let amount = if word & 1 == 0 {
            half as f64
        } else {
            f64::from_bits(half)
        };
        // Nothing is ever taken away. Infinite is what a sum of finite amounts may have come to.
        (amount >= 0.0)
            .then_some(Self(amount))
            .ok_or_else(|| D::Error::custom("an amount is out of range"))
    }
}

/// A sum of observations, see [`crate::duration_sum`]. Its fraction is nearly always zero, and then takes one byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(pub u128);

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fraction = self.0 as u32 & ((1 << FRACTION_BITS) - 1);
        (fraction, self.0 >> FRACTION_BITS).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (fraction, whole) = <(u32, u128)>::deserialize(deserializer)?;
        if fraction >> FRACTION_BITS != 0 || whole > u128::MAX >> FRACTION_BITS {
            return Err(D::Error::custom("a sum is out of range"));
        }
        Ok(Self(whole << FRACTION_BITS | u128::from(fraction)))
    }
}

/// Numbers most of which are zero: each that is not, behind how many zeros there are before it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sparse<T>(Vec<(u32, T)>);

impl<T: Copy + Default + PartialEq> Sparse<T> {
    /// Those of `numbers`, without the zeros at the end.
    pub fn of(numbers: impl Iterator<Item = T>) -> Self {
        let mut zeros = 0;
        let mut pairs = Vec::new();
        for number in numbers {
            if number == T::default() {
                zeros += 1;
            } else {
                pairs.push((std::mem::take(&mut zeros), number));
            }
        }
        Self(pairs)
    }

    /// All numbers again, `length` of them.
    pub fn filled(self, length: usize) -> Result<Vec<T>, FrameError> {
        let mut numbers = vec![T::default(); length];
        let mut slots = numbers.iter_mut();
        for (zeros, number) in self.0 {
            let slot = slots.nth(zeros as usize);
            *slot.ok_or(refuse("there are more numbers than places"))? = number;
        }
        Ok(numbers)
    }
}

/// Indexes that mostly ascend one by one, written as steps from one to the next. The greatest index stands for none.
pub mod steps {
    use super::{Cow, Deserialize, Deserializer, Error, Serializer};

    /// Write them.
    pub fn serialize<S: Serializer>(indexes: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(indexes.iter().map(|index| {
            let place = i64::from(index.wrapping_add(1));
            place - std::mem::replace(&mut before, place)
        }))
    }

    /// Read them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [u32]>, D::Error> {
        let mut place = 0i64;
        let steps = Vec::<i64>::deserialize(deserializer)?.into_iter();
        let indexes = steps.map(|step| {
            place = place.checked_add(step)?;
            Some(u32::try_from(place).ok()?.wrapping_sub(1))
        });
        let indexes: Option<Vec<u32>> = indexes.collect();
        indexes
            .map(Cow::Owned)
            .ok_or_else(|| D::Error::custom("an index is out of range"))
    }
}

/// Times that are mostly those of their neighbours, written as steps from one to the next.
pub mod differences {
    use super::{Cow, Deserialize, Deserializer, Serializer};

    /// Write them.
    pub fn serialize<S: Serializer>(times: &[i64], serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0i64;
        serializer.collect_seq(times.iter().map(|time| {
            let step = time.wrapping_sub(before);
            before = *time;
            step
        }))
    }

    /// Read them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, [i64]>, D::Error> {
        let mut time = 0i64;
        let steps = Vec::<i64>::deserialize(deserializer)?.into_iter();
        let times = steps.map(|step| {
            time = time.wrapping_add(step);
            time
        });
        Ok(Cow::Owned(times.collect()))
    }
}

/// Check that `numbers` names each place that waits for one, once; afterwards none waits.
pub fn check_each(numbers: &[u32], waits: &mut [bool]) -> Result<(), FrameError> {
    let fault = refuse("its places are not those that are given out");
    for number in numbers {
        let place = waits.get_mut(*number as usize).filter(|waits| **waits);
        *place.ok_or(fault)? = false;
    }
    if waits.contains(&true) {
        return Err(fault);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    const CHECKSUM: usize = 8;
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;

    /// Write a value, and read it.
    pub fn again<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, FrameError> {
        opened(&sealed(value))
    }

    fn with_checksum(content: &[u8]) -> Vec<u8> {
        [content, &xxh3_64(content).to_le_bytes()].concat()
    }

    #[test]
    fn what_is_no_checkpoint_of_this_version_is_refused() {
        let whole = sealed(&300u64);
        let content = &whole[..whole.len() - CHECKSUM];
        let later = [&[VERSION + 1], &content[1..]].concat();
        let cases = [
            (Vec::new(), "too short"),
            (with_checksum(&[]), "too short"),
            (whole[1..].to_vec(), "checksum differs"),
            (with_checksum(&later), "made by another version of the engine"),
            (with_checksum(&content[..2]), "a part is out of range"),
            (
                with_checksum(&[content, &[0]].concat()),
                "its parts fall short of its length",
            ),
        ];
        assert_eq!(opened(&whole), Ok(300u64));
        for (bytes, fault) in cases {
            assert_eq!(opened::<u64>(&bytes), Err(refuse(fault)));
        }
    }

    #[test]
    fn a_few_numbers_among_zeros_take_a_few_bytes() {
        let mut numbers = vec![Amount(0.0); 100];
        numbers[3] = Amount(1.0);
        numbers[70] = Amount(2.5);
        let bytes = postcard::to_stdvec(&Sparse::of(numbers.iter().copied())).unwrap();
        assert_eq!(bytes.len(), 1 + 2 + 1 + 10);
        let sparse: Sparse<Amount> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(sparse.filled(100).unwrap(), numbers);
        let sparse: Sparse<Amount> = postcard::from_bytes(&bytes).unwrap();
        assert!(sparse.filled(70).is_err());
    }

    #[test]
    fn numbers_that_nothing_comes_to_are_refused() {
        for amount in [-1.0, f64::NAN] {
            assert!(again(&Amount(amount)).is_err(), "{amount}");
        }
        assert!(opened::<Sum>(&sealed(&(1u32 << FRACTION_BITS, 0u128))).is_err());
        assert!(opened::<Sum>(&sealed(&(0u32, 1u128 << 108))).is_err());
        for (count, is_taken) in [(MAX_COUNT, true), (MAX_COUNT + 1, false)] {
            let bytes = postcard::to_stdvec(&count).unwrap();
            let read: Result<u64, _> = plausible(&mut postcard::Deserializer::from_bytes(&bytes));
            assert_eq!(read.is_ok(), is_taken, "{count}");
        }
    }

    #[test]
    fn each_place_is_given_out_once() {
        let waits = |numbers: &[u32]| check_each(numbers, &mut [true, false, true]).is_ok();
        assert!(waits(&[2, 0]));
        for numbers in [&[0][..], &[0, 2, 2], &[0, 1, 2], &[0, 2, 3]] {
            assert!(!waits(numbers), "{numbers:?}");
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Indexes(#[serde(with = "steps")] Cow<'static, [u32]>);

    proptest! {
        #[test]
        fn numbers_come_back_to_the_bit(
            amount in any::<u64>().prop_map(f64::from_bits).prop_filter("only grows", |amount| *amount >= 0.0),
            whole in any::<u32>(),
            sum in any::<u128>(),
            indexes in prop::collection::vec(any::<u32>(), 0..9),
        ) {
            for amount in [amount, f64::from(whole), -0.0, 2f64.powi(53), f64::INFINITY] {
                prop_assert_eq!(again(&Amount(amount)).unwrap().0.to_bits(), amount.to_bits());
            }
            prop_assert_eq!(again(&Sum(sum)), Ok(Sum(sum)));
            let indexes: Cow<'static, [u32]> = Cow::Owned(indexes);
            prop_assert_eq!(again(&Indexes(indexes.clone())).unwrap().0, indexes);
        }
    }
}

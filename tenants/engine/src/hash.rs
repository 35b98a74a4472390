//! The one hash that must be the same in every process and version: what shards are ranges of.

use xxhash_rust::xxh3::xxh3_64;

/// XXH3 (64 bits, seed 0) of the trace id's bytes.
#[inline]
pub fn trace_hash(trace_id: &[u8]) -> u64 {
    xxh3_64(trace_id)
}

/// [`trace_hash`] of a trace id that is known as a number and the length of its bytes, at most 16.
#[inline]
pub fn hash_of_trace(trace: u128, length: u8) -> u64 {
    let bytes = trace.to_be_bytes();
    trace_hash(
        bytes
            .get(bytes.len().saturating_sub(usize::from(length))..)
            .unwrap_or_default(),
    )
}

/// The shard that a hash falls to when the hash space is cut into `shard_count` equal ranges.
#[inline]
pub fn shard_of(hash: u64, shard_count: u32) -> usize {
    ((u128::from(hash) * u128::from(shard_count)) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::trace_number;

    #[test]
    fn golden_values_shared_with_the_python_tests() {
        assert_eq!(trace_hash(&[]), 0x2d06_8005_38d3_94c2);
        assert_eq!(trace_hash(&[0x11; 16]), 0x7eef_42f6_de35_cb88);
    }

    #[test]
    fn a_trace_known_as_a_number_has_the_hash_of_its_bytes() {
        for bytes in [&[][..], &[7], &[0, 7], &[0x11; 16], &[0; 16]] {
            assert_eq!(
                hash_of_trace(trace_number(bytes), bytes.len() as u8),
                trace_hash(bytes)
            );
        }
    }

    #[test]
    fn ranges_are_ordered_and_complete() {
        assert_eq!(shard_of(0, 5), 0);
        assert_eq!(shard_of(u64::MAX, 5), 4);
        assert_eq!(shard_of(u64::MAX, 1), 0);
        assert_eq!(shard_of(1 << 63, 2), 1);
        assert_eq!(shard_of((1 << 63) - 1, 2), 0);
    }
}

//! The parts of a record, each behind a checksum: what must be durable, and exemplars, which may be cut off.
//!
//! Layout: version, lengths of counts and state, counts, state, XXH3 of all that; then, if there are any, exemplars and
//! their XXH3, which is seeded with the first so that only the exemplars of this record fit.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::error::FrameError;

const VERSION: u8 = 4;
const LENGTH: usize = 8;
const CHECKSUM: usize = 8;
/// Bytes before the counts.
pub const HEADER: usize = 1 + 2 * LENGTH;

/// A record taken apart, its checksums verified.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// What was counted.
    pub counts: &'a [u8],
    /// What the shard needs to go on.
    pub state: &'a [u8],
    /// Exemplars of what was counted; empty: none, or they were cut off.
    pub exemplars: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Take a record apart.
    pub fn open(record: &'a [u8]) -> Result<Self, FrameError> {
        let counts_len = durable_parts(record)?.0;
        let (durable, tail) = record.split_at(durable_length(record)?);
        let (content, checksum) = split_checksum(durable)?;
        if xxh3_64(content) != checksum {
            return Err(refuse("checksum differs"));
        }
        let (counts, state) = content
            .get(HEADER..)
            .and_then(|parts| parts.split_at_checked(counts_len))
            .ok_or(refuse("too short"))?;
        let mut exemplars: &[u8] = &[];
        if !tail.is_empty() {
            let (content, of_exemplars) = split_checksum(tail)?;
            if xxh3_64_with_seed(content, checksum) != of_exemplars {
                return Err(refuse("checksum differs"));
            }
            exemplars = content;
        }
        Ok(Self {
            counts,
            state,
            exemplars,
        })
    }
}

/// Make a record. `counts` begins with [`HEADER`] bytes of any content.
pub fn seal(mut counts: Vec<u8>, state: &[u8], exemplars: &[u8]) -> Vec<u8> {
    let counts_len = counts.len().saturating_sub(HEADER) as u64;
    if let Some(header) = counts.first_chunk_mut::<HEADER>() {
        header[0] = VERSION;
        header[1..=LENGTH].copy_from_slice(&counts_len.to_le_bytes());
        header[1 + LENGTH..].copy_from_slice(&(state.len() as u64).to_le_bytes());
    }
    let mut record = counts;
    record.extend_from_slice(state);
    let checksum = xxh3_64(&record);
    record.extend_from_slice(&checksum.to_le_bytes());
    if !exemplars.is_empty() {
        record.extend_from_slice(exemplars);
        record.extend_from_slice(&xxh3_64_with_seed(exemplars, checksum).to_le_bytes());
    }
    record
}

/// The record without its exemplars. Both checksums are verified: a record is refused now, or its durable part is not
/// refused later.
pub fn durable_part(record: &[u8]) -> Result<&[u8], FrameError> {
    Envelope::open(record)?;
    record.get(..durable_length(record)?).ok_or(refuse("too short"))
}

fn durable_length(record: &[u8]) -> Result<usize, FrameError> {
    let (counts, state) = durable_parts(record)?;
    counts
        .checked_add(state)
        .and_then(|parts| parts.checked_add(HEADER + CHECKSUM))
        .filter(|length| *length <= record.len())
        .ok_or(refuse("too short"))
}

fn durable_parts(record: &[u8]) -> Result<(usize, usize), FrameError> {
    let (version, rest) = record.split_first().ok_or(refuse("too short"))?;
    if *version != VERSION {
        return Err(refuse("made by another version of the engine"));
    }
    let (counts, rest) = rest.split_first_chunk::<LENGTH>().ok_or(refuse("too short"))?;
    let (state, _) = rest.split_first_chunk::<LENGTH>().ok_or(refuse("too short"))?;
    let length = |bytes: &[u8; LENGTH]| usize::try_from(u64::from_le_bytes(*bytes)).unwrap_or(usize::MAX);
    Ok((length(counts), length(state)))
}

fn split_checksum(bytes: &[u8]) -> Result<(&[u8], u64), FrameError> {
    let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(refuse("too short"))?;
    Ok((content, u64::from_le_bytes(*checksum)))
}

/// What is said of bytes that are no record.
pub fn refuse(fault: &'static str) -> FrameError {
    FrameError {
        what: "record",
        fault,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(counts: &[u8], state: &[u8], exemplars: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER];
        out.extend_from_slice(counts);
        seal(out, state, exemplars)
    }

    #[test]
    fn the_durable_part_is_the_same_record_without_exemplars() {
        let record = sealed(b"counts", b"state", b"exemplars");
        let durable = durable_part(&record).unwrap();
        assert_eq!(durable, sealed(b"counts", b"state", b""));
        assert_eq!(durable_part(durable), Ok(durable));
        let parts = Envelope::open(&record).unwrap();
        assert_eq!(
            (parts.counts, parts.state, parts.exemplars),
            (&b"counts"[..], &b"state"[..], &b"exemplars"[..])
        );
        assert_eq!(Envelope::open(durable).unwrap().exemplars, b"");
        let other = sealed(b"others", b"state", b"exemplars");
        let mixed = [durable, &other[durable.len()..]].concat();
        assert!(Envelope::open(&mixed).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_seen(at in 0usize..80, bit in 0u8..8, cut in 0usize..80) {
            let record = sealed(b"counts", b"state", b"exemplars");
            let mut flipped = record.clone();
            let at = at % record.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(Envelope::open(&flipped).is_err() && durable_part(&flipped).is_err());
            let cut = &record[..cut % record.len()];
            prop_assert_eq!(Envelope::open(cut).is_ok(), Ok(cut) == durable_part(&record));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert_eq!(Envelope::open(&bytes).is_ok(), false);
            let _ = durable_part(&[&[VERSION][..], &bytes].concat());
        }
    }
}

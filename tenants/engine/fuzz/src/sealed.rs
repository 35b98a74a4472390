//! Checksums put behind arbitrary bytes, so that a reader goes on to read them.

use millrace_engine::record_envelope::{Envelope, HEADER, seal};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a checksum.
pub const CHECKSUM: usize = 8;

/// `content` with its checksum, as frames, states and checkpoints end.
pub fn sealed(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(&xxh3_64(content).to_le_bytes());
    bytes
}

/// Bytes of the length of a part.
const LENGTH: usize = 2;

/// The record of these parts: the lengths of counts and state, then counts, state and exemplars.
pub fn sealed_record(content: &[u8]) -> Vec<u8> {
    let (lengths, parts) = content.split_at_checked(2 * LENGTH).unwrap_or_default();
    let length = |at: usize| {
        lengths
            .get(at..at + LENGTH)
            .map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    };
    let (counts, rest) = parts.split_at(parts.len().min(length(0).into()));
    let (state, exemplars) = rest.split_at(rest.len().min(length(LENGTH).into()));
    let mut out = vec![0; HEADER];
    out.extend_from_slice(counts);
    seal(out, state, exemplars)
}

/// What [`sealed_record`] makes this record of.
pub fn parts_of_record(record: &[u8]) -> Vec<u8> {
    let parts = Envelope::open(record).expect("a record just made");
    let length = |part: &[u8]| (part.len() as u16).to_le_bytes();
    [
        &length(parts.counts),
        &length(parts.state),
        parts.counts,
        parts.state,
        parts.exemplars,
    ]
    .concat()
}

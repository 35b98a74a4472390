//! Checksums put behind arbitrary bytes, so that a reader goes on to read them.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a checksum.
pub const CHECKSUM: usize = 8;

/// `content` with its checksum, as frames and records end.
pub fn sealed(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.extend_from_slice(&xxh3_64(content).to_le_bytes());
    bytes
}

//! What is kept for long: a version in front, and XXH3 of everything at the end.

use xxhash_rust::xxh3::xxh3_64;

use crate::byte_reader::ByteReader;
use crate::error::FrameError;

/// Put a checksum behind bytes that begin with a version, as [`open_sealed`] wants them.
pub fn seal(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = xxh3_64(&content);
    content.extend_from_slice(&checksum.to_le_bytes());
    content
}

/// Check version and checksum of bytes that begin with the one and end with the other.
pub fn open_sealed<'a>(
    sealed: &'a [u8],
    version: u8,
    what: &'static str,
) -> Result<ByteReader<'a>, FrameError> {
    let refuse = |fault| FrameError { what, fault };
    let (content, checksum) = sealed.split_last_chunk().ok_or(refuse("too short"))?;
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err(refuse("checksum differs"));
    }
    let (found, content) = content.split_first().ok_or(refuse("too short"))?;
    if *found != version {
        return Err(refuse("made by another version of the engine"));
    }
    Ok(ByteReader::new(content, what))
}

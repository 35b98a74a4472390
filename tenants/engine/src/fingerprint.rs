//! What tells requests apart: by it a request that comes again is known (design §3).

use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a fingerprint.
pub const FINGERPRINT: usize = 16;

/// XXH3 (128 bits, seed 0) of a request body, decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// The fingerprint of a body.
    pub fn of(body: &[u8]) -> Self {
        Self(xxh3_128(body))
    }

    /// As it travels: big-endian.
    pub fn to_bytes(self) -> [u8; FINGERPRINT] {
        self.0.to_be_bytes()
    }

    /// The reverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; FINGERPRINT]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_values_are_those_of_the_published_hash() {
        let hex = |body: &[u8]| format!("{:032x}", u128::from_be_bytes(Fingerprint::of(body).to_bytes()));
        assert_eq!(hex(b""), "99aa06d3014798d86001c324468d497f");
        assert_eq!(
            Fingerprint::from_bytes(Fingerprint::of(b"a").to_bytes()),
            Fingerprint::of(b"a")
        );
        assert_ne!(Fingerprint::of(b"a"), Fingerprint::of(b"b"));
    }
}

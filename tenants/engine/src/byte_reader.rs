//! Reads what the engine's own writers wrote: varints, counts and numbers of fixed width, each checked.

use crate::error::FrameError;

/// Bytes not yet read. A checksum has been verified; what does not fit all the same ends the reading with an error.
#[derive(Debug, Clone)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> ByteReader<'a> {
    /// Read `bytes`; errors say that they are of a damaged `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The error for a fault of these bytes.
    pub fn refuse(&self, fault: &'static str) -> FrameError {
        FrameError {
            what: self.what,
            fault,
        }
    }

    /// Whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuse bytes behind the end.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(self.refuse("counts fall short of its length"))
        }
    }

    /// The next byte.
    pub fn byte(&mut self) -> Result<u8, FrameError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// The next bytes of a number of fixed width.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(self.refuse("counts exceed its length"))?;
        self.rest = rest;
        Ok(*array)
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(self.refuse("counts exceed its length"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next varint.
    pub fn varint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.refuse("a varint is too long"))
    }

    /// The next varint, of a number that has 32 bits.
    pub fn number(&mut self) -> Result<u32, FrameError> {
        u32::try_from(self.varint()?).map_err(|_| self.refuse("a number is out of range"))
    }

    /// The next count of things that follow. Each takes a byte or more, so there cannot be more than bytes are left.
    pub fn count(&mut self) -> Result<usize, FrameError> {
        let count = self.varint()? as usize;
        if count > self.rest.len() {
            return Err(self.refuse("counts exceed its length"));
        }
        Ok(count)
    }

    /// The next number of an ascending list that tells the differences; `None` before: it is the first.
    pub fn ascending(&mut self, before: Option<u32>) -> Result<u32, FrameError> {
        let more = self.number()?;
        before
            .map_or(Some(more), |before| before.checked_add(more)?.checked_add(1))
            .ok_or(self.refuse("a number is out of range"))
    }
}

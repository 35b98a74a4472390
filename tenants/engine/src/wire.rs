//! Zero-copy reading of the protobuf wire format.
//!
//! Every length is checked; nothing is allocated. Known fields with a foreign wire type are refused rather than
//! skipped, because a sender that encodes them so has a fault its owner wants to hear of.

#![allow(
    clippy::inline_always,
    reason = "measured: the walk of a span halves in time when its reads are inlined"
)]

use crate::error::{WireError, WireFault};

/// Groups may nest this deep before the request is refused (the limit of the protobuf runtimes).
const MAX_GROUP_DEPTH: usize = 100;

/// The result of reading; the error is boxed so that the ordinary answer fits registers.
pub type WireResult<T> = Result<T, Box<WireError>>;

/// The tag of a length-delimited field.
pub const fn bytes_tag(number: u32) -> u32 {
    number << 3 | 2
}

/// The tag of a varint field.
pub const fn varint_tag(number: u32) -> u32 {
    number << 3
}

/// The tag of a 64-bit field.
pub const fn fixed64_tag(number: u32) -> u32 {
    number << 3 | 1
}

/// The tag of a 32-bit field.
pub const fn fixed32_tag(number: u32) -> u32 {
    number << 3 | 5
}

/// A reader over one message.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Address of the request's first byte: an offset is a difference of addresses, and costs nothing until it is asked.
    origin: usize,
    field: &'static str,
}

impl<'a> Cursor<'a> {
    /// Read a whole request; `field` is the path of what is read, for errors.
    pub fn new(request: &'a [u8], field: &'static str) -> Self {
        Self {
            rest: request,
            origin: request.as_ptr().addr(),
            field,
        }
    }

    /// Read `message`, which is a part of the same request.
    #[inline(always)]
    pub fn nested(&self, message: &'a [u8], field: &'static str) -> Self {
        Self {
            rest: message,
            origin: self.origin,
            field,
        }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error at the current position.
    #[cold]
    pub fn fault(&self, fault: WireFault) -> Box<WireError> {
        self.fault_in(fault, self.field)
    }

    /// An error at the current position, in a field of this message.
    #[cold]
    pub fn fault_in(&self, fault: WireFault, field: &'static str) -> Box<WireError> {
        Box::new(WireError {
            offset: self.rest.as_ptr().addr().saturating_sub(self.origin),
            field,
            fault,
        })
    }

    /// The next field's tag, zero at the end of the message. The caller reads or skips the field's value next.
    #[inline(always)]
    pub fn tag(&mut self) -> WireResult<u32> {
        match self.rest {
            [] => Ok(0),
            [tag @ 8..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u32::from(*tag))
            }
            _ => self.long_tag(),
        }
    }

    #[cold]
    fn long_tag(&mut self) -> WireResult<u32> {
        let tag = self.varint()?;
        match u32::try_from(tag) {
            Ok(tag) if tag >= 8 => Ok(tag),
            _ => Err(self.fault(WireFault::BadFieldNumber)),
        }
    }

    /// The value of a varint field.
    #[inline(always)]
    pub fn varint(&mut self) -> WireResult<u64> {
        if let [first @ ..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> WireResult<u64> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(self.fault(WireFault::VarintTooLong));
            }
            value |= bits << (7 * index);
            if *byte < 0x80 {
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        let is_endless = self.rest.len() >= 10;
        Err(self.fault(if is_endless {
            WireFault::VarintTooLong
        } else {
            WireFault::Truncated
        }))
    }

    /// The value of a length-delimited field.
    #[inline(always)]
    pub fn bytes(&mut self) -> WireResult<&'a [u8]> {
        let length = self.varint()?;
        match usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
        {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.fault(WireFault::Truncated)),
        }
    }

    /// The value of a 64-bit field.
    #[inline(always)]
    pub fn fixed64(&mut self) -> WireResult<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The value of a 32-bit field.
    #[inline(always)]
    pub fn fixed32(&mut self) -> WireResult<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> WireResult<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => Err(self.fault(WireFault::Truncated)),
        }
    }

    /// Deal with a tag that is none of the expected ones: refuse it if its number is `known`, else skip its value.
    #[cold]
    pub fn unexpected(&mut self, tag: u32, known: &[u32]) -> WireResult<()> {
        if known.contains(&(tag >> 3)) {
            return Err(self.fault(WireFault::WrongWireType));
        }
        self.skip(tag)
    }

    /// Skip the value of the field with this tag.
    pub fn skip(&mut self, tag: u32) -> WireResult<()> {
        match tag & 7 {
            0 => self.varint().map(drop),
            1 => self.fixed64().map(drop),
            2 => self.bytes().map(drop),
            3 => self.skip_group(tag >> 3),
            4 => Err(self.fault(WireFault::UnbalancedGroup)),
            5 => self.fixed32().map(drop),
            _ => Err(self.fault(WireFault::UnknownWireType)),
        }
    }

    #[cold]
    fn skip_group(&mut self, number: u32) -> WireResult<()> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let tag = self.tag()?;
            match tag & 7 {
                _ if tag == 0 => return Err(self.fault(WireFault::UnbalancedGroup)),
                3 if open.len() >= MAX_GROUP_DEPTH => return Err(self.fault(WireFault::TooDeep)),
                3 => open.push(tag >> 3),
                4 if tag >> 3 == innermost => {
                    open.pop();
                }
                _ => self.skip(tag)?,
            }
        }
        Ok(())
    }
}

/// Length in bytes of `value` as a varint.
#[inline]
pub fn varint_len(value: u64) -> usize {
    // Ten sevenths of a byte per significant bit, without a division: (bits * 9 + 64) / 64 with bits in 1..=64.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

/// Length of a length-delimited field with a one-byte tag: tag, length prefix and `length` bytes.
#[inline]
pub fn delimited_len(length: usize) -> usize {
    1 + varint_len(length as u64) + length
}

/// Append `value` as a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every field's number and value, of bytes their length.
    fn fields(bytes: &[u8]) -> Result<Vec<(u32, u64)>, WireFault> {
        let mut cursor = Cursor::new(bytes, "test");
        let mut found = Vec::new();
        let mut read = || -> WireResult<()> {
            loop {
                let tag = cursor.tag()?;
                match tag & 7 {
                    _ if tag == 0 => return Ok(()),
                    0 => found.push((tag >> 3, cursor.varint()?)),
                    1 => found.push((tag >> 3, cursor.fixed64()?)),
                    2 => found.push((tag >> 3, cursor.bytes()?.len() as u64)),
                    5 => found.push((tag >> 3, u64::from(cursor.fixed32()?))),
                    _ => cursor.skip(tag)?,
                }
            }
        };
        read().map_err(|error| error.fault)?;
        Ok(found)
    }

    #[test]
    fn reads_every_wire_type_and_skips_groups() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x12, 0x02, b'h', b'i', // 2: bytes
            0x1d, 1, 0, 0, 0, // 3: fixed32
            0x21, 2, 0, 0, 0, 0, 0, 0, 0, // 4: fixed64
            0x2b, 0x08, 0x01, 0x33, 0x34, 0x2c, // 5: group holding a varint and an empty group
            0x85, 0x01, 7, 0, 0, 0, // 16: fixed32
        ];
        assert_eq!(
            fields(&bytes).unwrap(),
            [(1, 150), (2, 2), (3, 1), (4, 2), (16, 7)]
        );
    }

    #[test]
    fn names_each_fault() {
        let too_deep = vec![0x2b; 200];
        let cases: [(&[u8], WireFault); 9] = [
            (&[0x08], WireFault::Truncated),
            (&[0x08, 0x80], WireFault::Truncated),
            (&[0x12, 0x05, b'a'], WireFault::Truncated),
            (&[0x21, 0], WireFault::Truncated),
            (&[0x00, 0x00], WireFault::BadFieldNumber),
            (&[0x0e], WireFault::UnknownWireType),
            (&[0x2c], WireFault::UnbalancedGroup),
            (&[0x2b, 0x34], WireFault::UnbalancedGroup),
            (&too_deep, WireFault::TooDeep),
        ];
        for (bytes, fault) in cases {
            assert_eq!(fields(bytes).unwrap_err(), fault, "{bytes:02x?}");
        }
        let mut eleven = vec![0x08];
        eleven.extend([0xff; 11]);
        assert_eq!(fields(&eleven).unwrap_err(), WireFault::VarintTooLong);
    }

    #[test]
    fn a_length_beyond_memory_is_truncated_not_a_panic() {
        let bytes = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(fields(&bytes).unwrap_err(), WireFault::Truncated);
    }

    #[test]
    fn an_error_tells_its_offset_in_the_request() {
        let request = [0x12, 0x03, 0x08, 0x01, 0x0f];
        let mut cursor = Cursor::new(&request, "outer");
        assert_eq!(cursor.tag().unwrap(), bytes_tag(2));
        let message = cursor.bytes().unwrap();
        let mut inner = cursor.nested(message, "inner");
        assert_eq!(inner.tag().unwrap(), varint_tag(1));
        assert_eq!(inner.varint().unwrap(), 1);
        let tag = inner.tag().unwrap();
        let error = inner.skip(tag).unwrap_err();
        assert_eq!((error.offset, error.field), (5, "inner"));
    }

    proptest! {
        #[test]
        fn varint_length_equals_what_is_written(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            out.insert(0, 0x08);
            prop_assert_eq!(fields(&out).unwrap(), vec![(1, value)]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = fields(&bytes);
        }
    }
}

//! Zero-copy reading of the protobuf wire format.
//!
//! Every length is checked; nothing is allocated. Known fields with a foreign wire type are refused rather than
//! skipped, because a sender that encodes them so has a fault its owner wants to hear of.

use crate::error::{WireError, WireFault};

/// Groups may nest this deep before the request is refused (the limit of the protobuf runtimes).
const MAX_GROUP_DEPTH: u32 = 100;

/// One field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2, with the offset of its first byte in the request.
    Bytes(&'a [u8], usize),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire types 3 and 4: a whole group, skipped.
    Group,
}

/// A reader over one message.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Offset in the request of the end of this message: `end - rest.len()` is where the cursor stands.
    end: usize,
    field: &'static str,
}

impl<'a> Cursor<'a> {
    /// Read `message`, which begins at `offset` of the request; `field` is its path, for errors.
    pub fn new(message: &'a [u8], offset: usize, field: &'static str) -> Self {
        Self {
            rest: message,
            end: offset + message.len(),
            field,
        }
    }

    /// Offset in the request of the next unread byte.
    pub fn offset(&self) -> usize {
        self.end - self.rest.len()
    }

    /// An error at the current position.
    #[cold]
    pub fn fault(&self, fault: WireFault) -> WireError {
        self.fault_in(fault, self.field)
    }

    /// An error at the current position, in a field of this message.
    #[cold]
    pub fn fault_in(&self, fault: WireFault, field: &'static str) -> WireError {
        WireError {
            offset: self.offset(),
            field,
            fault,
        }
    }

    /// The next field's number and value, or `None` at the end of the message.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let offset = self.offset();
                Value::Bytes(self.take(length)?, offset)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            3 => {
                self.skip_group(number)?;
                Value::Group
            }
            4 => return Err(self.fault(WireFault::UnbalancedGroup)),
            _ => return Err(self.fault(WireFault::UnknownWireType)),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u8), WireError> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(self.fault(WireFault::BadFieldNumber));
        }
        Ok((number as u32, (tag & 7) as u8))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        if let [first, rest @ ..] = self.rest
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
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
        let fault = if self.rest.len() >= 10 {
            WireFault::VarintTooLong
        } else {
            WireFault::Truncated
        };
        Err(self.fault(fault))
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        match usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.split_at_checked(length))
        {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.fault(WireFault::Truncated)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        match self.rest.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(*array)
            }
            None => Err(self.fault(WireFault::Truncated)),
        }
    }

    #[cold]
    fn skip_group(&mut self, number: u32) -> Result<(), WireError> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            if self.rest.is_empty() {
                return Err(self.fault(WireFault::UnbalancedGroup));
            }
            let (number, wire_type) = self.tag()?;
            match wire_type {
                0 => {
                    self.varint()?;
                }
                1 => {
                    self.array::<8>()?;
                }
                2 => {
                    let length = self.varint()?;
                    self.take(length)?;
                }
                3 if open.len() as u32 >= MAX_GROUP_DEPTH => {
                    return Err(self.fault(WireFault::TooDeep));
                }
                3 => open.push(number),
                4 if number == innermost => {
                    open.pop();
                }
                4 => return Err(self.fault(WireFault::UnbalancedGroup)),
                5 => {
                    self.array::<4>()?;
                }
                _ => return Err(self.fault(WireFault::UnknownWireType)),
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

    fn fields(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, WireFault> {
        let mut cursor = Cursor::new(bytes, 0, "test");
        let mut found = Vec::new();
        while let Some(field) = cursor.next_field().map_err(|error| error.fault)? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn reads_every_wire_type() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: varint 150
            0x12, 0x02, b'h', b'i', // 2: bytes
            0x1d, 1, 0, 0, 0, // 3: fixed32
            0x21, 2, 0, 0, 0, 0, 0, 0, 0, // 4: fixed64
            0x2b, 0x08, 0x01, 0x2c, // 5: group holding a varint
        ];
        assert_eq!(
            fields(&bytes).unwrap(),
            vec![
                (1, Value::Varint(150)),
                (2, Value::Bytes(b"hi", 5)),
                (3, Value::Fixed32(1)),
                (4, Value::Fixed64(2)),
                (5, Value::Group),
            ]
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

    proptest! {
        #[test]
        fn varint_length_equals_what_is_written(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            out.insert(0, 0x08);
            prop_assert_eq!(fields(&out).unwrap(), vec![(1, Value::Varint(value))]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = fields(&bytes);
        }
    }
}

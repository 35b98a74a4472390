//! Attributes: `KeyValue` and `AnyValue` checked, measured, and turned into label text (processors §0.2).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::error::{WireError, WireFault};
use crate::wire::{Cursor, Value, delimited_len, varint_len};

/// Arrays and key/value lists may nest this deep; protobuf runtimes give up at 100 messages, two per level.
const MAX_DEPTH: u32 = 40;

const KEY_VALUE: &str = "attributes.key_value";
const ANY_VALUE: &str = "attributes.value";

/// One attribute, still on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// The key's bytes; not yet known to be UTF-8.
    pub key: &'a [u8],
    /// The value's kind and bytes.
    pub value: AnyValue<'a>,
    /// Length of the canonical encoding of the whole `KeyValue` (processors §1.4).
    pub encoded_len: usize,
}

/// The last member of the value's oneof; nested kinds keep their checked bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AnyValue<'a> {
    /// No value object, an empty one, or a kind without text (bytes, string-table index).
    Empty,
    /// A string; not yet known to be UTF-8.
    String(&'a [u8]),
    /// A bool.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// An `ArrayValue` message.
    Array(&'a [u8]),
    /// A `KeyValueList` message.
    List(&'a [u8]),
}

impl<'a> Attribute<'a> {
    /// Read one `KeyValue` message that begins at `offset` of the request.
    #[inline]
    pub fn read(message: &'a [u8], offset: usize) -> Result<Self, WireError> {
        Self::read_nested(message, offset, 0)
    }

    #[inline]
    fn read_nested(message: &'a [u8], offset: usize, depth: u32) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(message, offset, KEY_VALUE);
        let mut key: &[u8] = &[];
        let mut value = AnyValue::Empty;
        let mut value_len = None;
        let mut index_len = 0;
        while let Some(field) = cursor.next_field()? {
            match field {
                (1, Value::Bytes(bytes, _)) => key = bytes,
                (2, Value::Bytes(bytes, at)) => {
                    let (read, length) = read_value(bytes, at, depth)?;
                    value = read;
                    value_len = Some(length);
                }
                (3, Value::Varint(index)) => index_len = int32_len(index),
                (1..=3, _) => return Err(cursor.fault(WireFault::WrongWireType)),
                _ => {}
            }
        }
        let key_len = if key.is_empty() {
            0
        } else {
            delimited_len(key.len())
        };
        Ok(Self {
            key,
            value,
            encoded_len: key_len + value_len.map_or(0, delimited_len) + index_len,
        })
    }
}

/// Canonical length of an optional int32 field with a one-byte tag: nothing when zero, ten bytes when negative.
#[inline]
pub fn int32_len(raw: u64) -> usize {
    let value = i64::from(raw as i32) as u64;
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

#[inline]
fn read_value(message: &[u8], offset: usize, depth: u32) -> Result<(AnyValue<'_>, usize), WireError> {
    let mut cursor = Cursor::new(message, offset, ANY_VALUE);
    let mut value = AnyValue::Empty;
    let mut length = 0;
    while let Some(field) = cursor.next_field()? {
        (value, length) = match field {
            (1, Value::Bytes(bytes, _)) => (AnyValue::String(bytes), delimited_len(bytes.len())),
            (2, Value::Varint(raw)) => (AnyValue::Bool(raw != 0), 2),
            (3, Value::Varint(raw)) => (AnyValue::Int(raw as i64), 1 + varint_len(raw)),
            (4, Value::Fixed64(raw)) => (AnyValue::Double(f64::from_bits(raw)), 9),
            (5, Value::Bytes(bytes, at)) => {
                let length = array_len(bytes, at, depth + 1)?;
                (AnyValue::Array(bytes), delimited_len(length))
            }
            (6, Value::Bytes(bytes, at)) => {
                let length = list_len(bytes, at, depth + 1)?;
                (AnyValue::List(bytes), delimited_len(length))
            }
            (7, Value::Bytes(bytes, _)) => (AnyValue::Empty, delimited_len(bytes.len())),
            (8, Value::Varint(raw)) => {
                let index = i64::from(raw as i32) as u64;
                (AnyValue::Empty, 1 + varint_len(index))
            }
            (1..=8, _) => return Err(cursor.fault(WireFault::WrongWireType)),
            _ => (value, length),
        };
    }
    Ok((value, length))
}

fn array_len(message: &[u8], offset: usize, depth: u32) -> Result<usize, WireError> {
    let mut cursor = Cursor::new(message, offset, "attributes.value.array_value");
    if depth > MAX_DEPTH {
        return Err(cursor.fault(WireFault::TooDeep));
    }
    let mut length = 0;
    while let Some(field) = cursor.next_field()? {
        match field {
            (1, Value::Bytes(bytes, at)) => length += delimited_len(read_value(bytes, at, depth)?.1),
            (1, _) => return Err(cursor.fault(WireFault::WrongWireType)),
            _ => {}
        }
    }
    Ok(length)
}

fn list_len(message: &[u8], offset: usize, depth: u32) -> Result<usize, WireError> {
    let mut cursor = Cursor::new(message, offset, "attributes.value.kvlist_value");
    if depth > MAX_DEPTH {
        return Err(cursor.fault(WireFault::TooDeep));
    }
    let mut length = 0;
    while let Some(field) = cursor.next_field()? {
        match field {
            (1, Value::Bytes(bytes, at)) => {
                length += delimited_len(Attribute::read_nested(bytes, at, depth)?.encoded_len);
            }
            (1, _) => return Err(cursor.fault(WireFault::WrongWireType)),
            _ => {}
        }
    }
    Ok(length)
}

impl<'a> AnyValue<'a> {
    /// The value as label text. Strings are passed through as bytes, everything else is made anew.
    #[inline]
    pub fn text(self) -> Cow<'a, [u8]> {
        match self {
            Self::Empty => Cow::Borrowed(&[]),
            Self::String(bytes) => Cow::Borrowed(bytes),
            Self::Bool(true) => Cow::Borrowed(b"true"),
            Self::Bool(false) => Cow::Borrowed(b"false"),
            Self::Int(_) | Self::Double(_) | Self::Array(_) | Self::List(_) => {
                let mut out = Vec::new();
                self.write_text(&mut out);
                Cow::Owned(out)
            }
        }
    }

    fn write_text(self, out: &mut Vec<u8>) {
        match self {
            Self::Empty => {}
            Self::String(bytes) => out.extend_from_slice(bytes),
            Self::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Self::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Self::Double(value) => out.extend_from_slice(float_text(value).as_bytes()),
            Self::Array(message) => {
                out.push(b'[');
                for_each_member(message, |bytes| {
                    let (value, _) = read_value(bytes, 0, 0)?;
                    value.write_text(out);
                    Ok(())
                });
                out.push(b']');
            }
            Self::List(message) => {
                out.push(b'{');
                for_each_member(message, |bytes| {
                    let pair = Attribute::read(bytes, 0)?;
                    out.extend_from_slice(pair.key);
                    out.push(b':');
                    pair.value.write_text(out);
                    Ok(())
                });
                out.push(b'}');
            }
        }
    }
}

/// Visit the members of an array or list whose bytes were checked when the value was read: the error arm of the
/// walk cannot be reached, and ends it where it stands.
fn for_each_member<'a>(message: &'a [u8], mut visit: impl FnMut(&'a [u8]) -> Result<(), WireError>) {
    let mut cursor = Cursor::new(message, 0, ANY_VALUE);
    while let Ok(Some(field)) = cursor.next_field() {
        if let (1, Value::Bytes(bytes, _)) = field
            && visit(bytes).is_err()
        {
            return;
        }
    }
}

/// Shortest decimal that reads back as the same double, never with an exponent (processors §0.2 and §4.3).
pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{value}");
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::put_varint;

    #[test]
    fn floats_are_written_without_exponent() {
        let cases = [
            (3.0, "3"),
            (1e21, "1000000000000000000000"),
            (1e-9, "0.000000001"),
            (0.1, "0.1"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(float_text(value), text);
        }
    }

    #[test]
    fn nested_values_have_no_separators() {
        // {k1: "v1", k2: ["a", 5, 0.1]}
        let array = [
            vec![0x0a, 3, 0x0a, 1, b'a', 0x0a, 2, 0x18, 5, 0x0a, 9, 0x21],
            0.1f64.to_le_bytes().to_vec(),
        ]
        .concat();
        let mut list = vec![0x0a, 10, 0x0a, 2, b'k', b'1', 0x12, 4, 0x0a, 2, b'v', b'1'];
        let value = [vec![0x2a, array.len() as u8], array].concat();
        list.extend([
            0x0a,
            value.len() as u8 + 6,
            0x0a,
            2,
            b'k',
            b'2',
            0x12,
            value.len() as u8,
        ]);
        list.extend(value);
        let message = [vec![0x32, list.len() as u8], list].concat();
        let (value, length) = read_value(&message, 0, 0).unwrap();
        assert_eq!(value.text().as_ref(), b"{k1:v1k2:[a50.1]}");
        assert_eq!(length, message.len());
    }

    #[test]
    fn deep_nesting_is_refused_with_its_offset() {
        let wrap = |tag: u8, inner: &[u8]| {
            let mut message = vec![tag];
            put_varint(&mut message, inner.len() as u64);
            message.extend_from_slice(inner);
            message
        };
        let mut message = vec![0x2a, 0x00];
        for _ in 0..45 {
            message = wrap(0x2a, &wrap(0x0a, &message));
        }
        let error = read_value(&message, 0, 0).unwrap_err();
        assert_eq!(error.fault, WireFault::TooDeep);
        assert!(error.offset > 0);
    }
}

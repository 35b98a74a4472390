//! Attributes: `KeyValue` and `AnyValue` checked, measured, and turned into label text (processors §0.2).

#![allow(
    clippy::inline_always,
    reason = "measured: attributes are most of a request's bytes"
)]

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::error::WireFault;
use crate::labels::truncate;
use crate::wire::{Cursor, WireResult, bytes_tag, delimited_len, fixed64_tag, varint_len, varint_tag};

/// Arrays and key/value lists may nest this deep; protobuf runtimes give up at 100 messages, two per level.
const MAX_DEPTH: u32 = 40;

const KEY_VALUE: &str = "attributes.key_value";
const ANY_VALUE: &str = "attributes.value";

const KEY: u32 = bytes_tag(1);
const VALUE: u32 = bytes_tag(2);
const KEY_INDEX: u32 = varint_tag(3);

const STRING: u32 = bytes_tag(1);
const BOOL: u32 = varint_tag(2);
const INT: u32 = varint_tag(3);
const DOUBLE: u32 = fixed64_tag(4);
const ARRAY: u32 = bytes_tag(5);
const LIST: u32 = bytes_tag(6);
const BYTES: u32 = bytes_tag(7);
const STRING_INDEX: u32 = varint_tag(8);

/// Member of an `ArrayValue` or a `KeyValueList`.
const MEMBER: u32 = bytes_tag(1);

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
    /// Read one `KeyValue` message that is a part of what `parent` reads.
    #[inline(always)]
    pub fn read(message: &'a [u8], parent: &Cursor<'a>) -> WireResult<Self> {
        match Self::read_short(message) {
            Some(attribute) => Ok(attribute),
            None => Self::read_nested(message, parent, 0),
        }
    }

    /// As [`Self::read`], with key and string value cut to `limit` bytes at a UTF-8 character (tenancy §4.5); if anything
    /// is, one is added to `cuts`. The encoded length is that of what is left.
    #[inline(always)]
    pub fn read_within(
        limit: usize,
        message: &'a [u8],
        parent: &Cursor<'a>,
        cuts: &mut u64,
    ) -> WireResult<Self> {
        // A text that is too long stands in a message that is longer still.
        if message.len() <= limit {
            Self::read(message, parent)
        } else {
            Self::read_cut(limit, message, parent, cuts)
        }
    }

    #[cold]
    #[inline(never)]
    fn read_cut(limit: usize, message: &'a [u8], parent: &Cursor<'a>, cuts: &mut u64) -> WireResult<Self> {
        let mut attribute = Self::read_nested(message, parent, 0)?;
        let before = attribute.encoded_len;
        let key = truncate(attribute.key, limit);
        attribute.encoded_len -= optional_len(attribute.key) - optional_len(key);
        attribute.key = key;
        if let AnyValue::String(text) = attribute.value {
            let left = truncate(text, limit);
            let value_len = |text: &[u8]| delimited_len(delimited_len(text.len()));
            attribute.encoded_len -= value_len(text) - value_len(left);
            attribute.value = AnyValue::String(left);
        }
        *cuts += u64::from(attribute.encoded_len < before);
        Ok(attribute)
    }

    /// Most attributes are a short key with a short string or number in canonical encoding: a few comparisons tell.
    #[inline(always)]
    fn read_short(message: &'a [u8]) -> Option<Self> {
        let [0x0a, key_len @ 1..0x80, rest @ ..] = message else {
            return None;
        };
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let [0x12, value_len @ ..0x80, value @ ..] = rest else {
            return None;
        };
        if usize::from(*value_len) != value.len() {
            return None;
        }
        let value = match value {
            [0x0a, length @ ..0x80, text @ ..] if usize::from(*length) == text.len() => {
                AnyValue::String(text)
            }
            [0x18, byte @ ..0x80] => AnyValue::Int(i64::from(*byte)),
            [0x18, low @ 0x80..=0xff, high @ 1..0x80] => {
                AnyValue::Int(i64::from(low & 0x7f) | i64::from(*high) << 7)
            }
            _ => return None,
        };
        Some(Self {
            key,
            value,
            encoded_len: message.len(),
        })
    }

    fn read_nested(message: &'a [u8], parent: &Cursor<'a>, depth: u32) -> WireResult<Self> {
        let mut cursor = parent.nested(message, KEY_VALUE);
        let mut key: &[u8] = &[];
        let mut value = AnyValue::Empty;
        let mut value_len = None;
        let mut index_len = 0;
        loop {
            match cursor.tag()? {
                0 => break,
                KEY => key = cursor.bytes()?,
                VALUE => {
                    let bytes = cursor.bytes()?;
                    let (read, length) = read_value(bytes, &cursor, depth)?;
                    value = read;
                    value_len = Some(length);
                }
                KEY_INDEX => index_len = int32_len(cursor.varint()?),
                tag => cursor.unexpected(tag, &[1, 2, 3])?,
            }
        }
        Ok(Self {
            key,
            value,
            encoded_len: optional_len(key) + value_len.map_or(0, delimited_len) + index_len,
        })
    }
}

/// Canonical length of an optional int32 field with a one-byte tag: nothing when zero, ten bytes when negative.
#[inline]
pub fn int32_len(raw: u64) -> usize {
    let value = i64::from(raw as i32) as u64;
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// Canonical length of an optional field of bytes or text with a one-byte tag: nothing when empty.
#[inline]
pub fn optional_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        delimited_len(bytes.len())
    }
}

fn read_value<'a>(message: &'a [u8], parent: &Cursor<'a>, depth: u32) -> WireResult<(AnyValue<'a>, usize)> {
    let mut cursor = parent.nested(message, ANY_VALUE);
    let mut value = AnyValue::Empty;
    let mut length = 0;
    loop {
        (value, length) = match cursor.tag()? {
            0 => return Ok((value, length)),
            STRING => {
                let bytes = cursor.bytes()?;
                (AnyValue::String(bytes), delimited_len(bytes.len()))
            }
            BOOL => (AnyValue::Bool(cursor.varint()? != 0), 2),
            INT => {
                let raw = cursor.varint()?;
                (AnyValue::Int(raw as i64), 1 + varint_len(raw))
            }
            DOUBLE => (AnyValue::Double(f64::from_bits(cursor.fixed64()?)), 9),
            ARRAY => {
                let bytes = cursor.bytes()?;
                let length = array_len(bytes, &cursor, depth + 1)?;
                (AnyValue::Array(bytes), delimited_len(length))
            }
            LIST => {
                let bytes = cursor.bytes()?;
                let length = list_len(bytes, &cursor, depth + 1)?;
                (AnyValue::List(bytes), delimited_len(length))
            }
            BYTES => (AnyValue::Empty, delimited_len(cursor.bytes()?.len())),
            STRING_INDEX => {
                let index = i64::from(cursor.varint()? as i32) as u64;
                (AnyValue::Empty, 1 + varint_len(index))
            }
            tag => {
                cursor.unexpected(tag, &[1, 2, 3, 4, 5, 6, 7, 8])?;
                (value, length)
            }
        };
    }
}

fn array_len<'a>(message: &'a [u8], parent: &Cursor<'a>, depth: u32) -> WireResult<usize> {
    members_len(
        message,
        parent,
        depth,
        "attributes.value.array_value",
        |bytes, cursor| Ok(read_value(bytes, cursor, depth)?.1),
    )
}

fn list_len<'a>(message: &'a [u8], parent: &Cursor<'a>, depth: u32) -> WireResult<usize> {
    members_len(
        message,
        parent,
        depth,
        "attributes.value.kvlist_value",
        |bytes, cursor| Ok(Attribute::read_nested(bytes, cursor, depth)?.encoded_len),
    )
}

fn members_len<'a>(
    message: &'a [u8],
    parent: &Cursor<'a>,
    depth: u32,
    path: &'static str,
    member_len: impl Fn(&'a [u8], &Cursor<'a>) -> WireResult<usize>,
) -> WireResult<usize> {
    let mut cursor = parent.nested(message, path);
    if depth > MAX_DEPTH {
        return Err(cursor.fault(WireFault::TooDeep));
    }
    let mut length = 0;
    loop {
        match cursor.tag()? {
            0 => return Ok(length),
            MEMBER => {
                let bytes = cursor.bytes()?;
                length += delimited_len(member_len(bytes, &cursor)?);
            }
            tag => cursor.unexpected(tag, &[1])?,
        }
    }
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
                for_each_member(message, |bytes, cursor| {
                    read_value(bytes, cursor, 0)?.0.write_text(out);
                    Ok(())
                });
                out.push(b']');
            }
            Self::List(message) => {
                out.push(b'{');
                for_each_member(message, |bytes, cursor| {
                    let pair = Attribute::read(bytes, cursor)?;
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

/// Visit the members of an array or list whose bytes were checked when the value was read: the error arm of the walk
/// cannot be reached, and ends it where it stands.
fn for_each_member<'a>(message: &'a [u8], mut visit: impl FnMut(&'a [u8], &Cursor<'a>) -> WireResult<()>) {
    let mut cursor = Cursor::new(message, ANY_VALUE);
    let mut walk = || -> WireResult<()> {
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                MEMBER => {
                    let bytes = cursor.bytes()?;
                    visit(bytes, &cursor)?;
                }
                tag => cursor.skip(tag)?,
            }
        }
    };
    let _ = walk();
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
    fn long_texts_are_cut_at_a_character_and_measured_anew() {
        let attribute = |key: &str, text: &str| {
            let mut value = vec![0x0a];
            put_varint(&mut value, text.len() as u64);
            value.extend_from_slice(text.as_bytes());
            let mut message = vec![0x0a];
            put_varint(&mut message, key.len() as u64);
            message.extend_from_slice(key.as_bytes());
            message.push(0x12);
            put_varint(&mut message, value.len() as u64);
            message.extend(value);
            message
        };
        let (limit, fits) = (64, "x".repeat(64));
        let cases = [
            ("k", fits.as_str(), "k", fits.as_str()),
            (&fits, "v", &fits, "v"),
            ("k", &format!("{}é", &fits[1..]), "k", &fits[1..]),
            ("k", &"🚀".repeat(50), "k", &"🚀".repeat(16)),
            (
                &"k".repeat(200),
                &"v".repeat(9000),
                &"k".repeat(64),
                &"v".repeat(64),
            ),
        ];
        for (key, text, left_key, left_text) in cases {
            let (message, left) = (attribute(key, text), attribute(left_key, left_text));
            let mut cuts = 0;
            let read =
                Attribute::read_within(limit, &message, &Cursor::new(&message, "test"), &mut cuts).unwrap();
            assert_eq!(read.key, left_key.as_bytes());
            assert_eq!(read.value, AnyValue::String(left_text.as_bytes()));
            assert_eq!(read.encoded_len, left.len());
            assert_eq!(cuts, u64::from(message != left));
        }
    }

    #[test]
    fn values_that_are_no_text_are_never_cut() {
        let array = [vec![0x0a, 72, 0x0a, 70], vec![b'a'; 70]].concat();
        let value = [vec![0x2a, array.len() as u8], array].concat();
        let message = [vec![0x0a, 1, b'k', 0x12, value.len() as u8], value].concat();
        let mut cuts = 0;
        let read = Attribute::read_within(64, &message, &Cursor::new(&message, "test"), &mut cuts).unwrap();
        assert_eq!((read.encoded_len, cuts), (message.len(), 0));
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
        let (value, length) = read_value(&message, &Cursor::new(&message, "test"), 0).unwrap();
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
        let error = read_value(&message, &Cursor::new(&message, "test"), 0).unwrap_err();
        assert_eq!(error.fault, WireFault::TooDeep);
        assert!(error.offset > 0);
    }
}

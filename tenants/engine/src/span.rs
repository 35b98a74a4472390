//! One OTLP `Span`: what the processors need of it, borrowed from the request, and its canonical size.

use crate::any_value::{Attribute, int32_len};
use crate::error::{WireError, WireFault};
use crate::wire::{Cursor, Value, delimited_len, varint_len};

/// Longest trace id the engine holds; OTLP's are exactly this long.
pub const TRACE_ID_LEN: usize = 16;
/// Longest span id the engine holds; OTLP's are exactly this long.
pub const SPAN_ID_LEN: usize = 8;

/// `Span.SpanKind` by number; anything else is written as its number.
const KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
/// `Status.StatusCode` by number.
const STATUS_CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

/// The number of `SPAN_KIND_SERVER`.
pub const SERVER: i32 = 2;
/// The number of `SPAN_KIND_CLIENT`.
pub const CLIENT: i32 = 3;
/// The number of `SPAN_KIND_PRODUCER`.
pub const PRODUCER: i32 = 4;
/// The number of `SPAN_KIND_CONSUMER`.
pub const CONSUMER: i32 = 5;
const ERROR: i32 = 2;

/// The fields of one span.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span<'a> {
    /// Raw trace id, at most 16 bytes.
    pub trace_id: &'a [u8],
    /// Raw span id, at most 8 bytes.
    pub span_id: &'a [u8],
    /// Raw parent span id, at most 8 bytes; empty for a root.
    pub parent_span_id: &'a [u8],
    /// Span name; not yet known to be UTF-8.
    pub name: &'a [u8],
    /// `SpanKind` as a number.
    pub kind: i32,
    /// Start, Unix nanoseconds.
    pub start_ns: u64,
    /// End, Unix nanoseconds.
    pub end_ns: u64,
    /// `StatusCode` as a number; a span without status is UNSET.
    pub status_code: i32,
    /// Status message; not yet known to be UTF-8.
    pub status_message: &'a [u8],
    /// Length of the canonical encoding of the `Span` message alone (processors §1.4).
    pub encoded_len: usize,
}

impl<'a> Span<'a> {
    /// Read the span that begins at `offset` of the request; every attribute is passed to `on_attribute`.
    #[inline]
    pub fn read(
        message: &'a [u8],
        offset: usize,
        mut on_attribute: impl FnMut(Attribute<'a>),
    ) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(message, offset, "resource_spans.scope_spans.spans");
        let mut span = Self::default();
        let mut trace_state: &[u8] = &[];
        let mut repeated_len = 0;
        let mut dropped = [0u64; 3];
        let mut flags = 0;
        let mut has_status = false;
        while let Some((number, value)) = cursor.next_field()? {
            match (number, value) {
                (1, Value::Bytes(bytes, _)) => span.trace_id = id(&cursor, bytes, TRACE_ID_LEN, number)?,
                (2, Value::Bytes(bytes, _)) => span.span_id = id(&cursor, bytes, SPAN_ID_LEN, number)?,
                (3, Value::Bytes(bytes, _)) => trace_state = bytes,
                (4, Value::Bytes(bytes, _)) => {
                    span.parent_span_id = id(&cursor, bytes, SPAN_ID_LEN, number)?;
                }
                (5, Value::Bytes(bytes, _)) => span.name = bytes,
                (6, Value::Varint(raw)) => span.kind = raw as i32,
                (7, Value::Fixed64(raw)) => span.start_ns = raw,
                (8, Value::Fixed64(raw)) => span.end_ns = raw,
                (9, Value::Bytes(bytes, at)) => {
                    let attribute = Attribute::read(bytes, at)?;
                    repeated_len += delimited_len(attribute.encoded_len);
                    on_attribute(attribute);
                }
                (10, Value::Varint(raw)) => dropped[0] = raw,
                (11, Value::Bytes(bytes, at)) => {
                    repeated_len += delimited_len(nested_len(bytes, at, &EVENT)?);
                }
                (12, Value::Varint(raw)) => dropped[1] = raw,
                (13, Value::Bytes(bytes, at)) => {
                    repeated_len += delimited_len(nested_len(bytes, at, &LINK)?);
                }
                (14, Value::Varint(raw)) => dropped[2] = raw,
                (15, Value::Bytes(bytes, at)) => {
                    has_status = true;
                    span.read_status(bytes, at)?;
                }
                (16, Value::Fixed32(raw)) => flags = raw,
                (1..=16, _) => return Err(cursor.fault_in(WireFault::WrongWireType, field_path(number))),
                _ => {}
            }
        }
        let strings = [
            span.trace_id,
            span.span_id,
            trace_state,
            span.parent_span_id,
            span.name,
        ];
        span.encoded_len = repeated_len
            + strings.iter().map(|bytes| optional_len(bytes)).sum::<usize>()
            + int32_len(span.kind as u64)
            + 9 * (usize::from(span.start_ns != 0) + usize::from(span.end_ns != 0))
            + dropped.iter().map(|count| uint32_len(*count)).sum::<usize>()
            + if has_status {
                delimited_len(span.status_len())
            } else {
                0
            }
            + if flags == 0 { 0 } else { 6 };
        Ok(span)
    }

    fn read_status(&mut self, message: &'a [u8], offset: usize) -> Result<(), WireError> {
        let mut cursor = Cursor::new(message, offset, "resource_spans.scope_spans.spans.status");
        while let Some(field) = cursor.next_field()? {
            match field {
                (2, Value::Bytes(bytes, _)) => self.status_message = bytes,
                (3, Value::Varint(raw)) => self.status_code = raw as i32,
                (2 | 3, _) => return Err(cursor.fault(WireFault::WrongWireType)),
                _ => {}
            }
        }
        Ok(())
    }

    fn status_len(&self) -> usize {
        optional_len(self.status_message) + int32_len(self.status_code as u64)
    }

    /// Whether the span ended in an error.
    pub fn is_error(&self) -> bool {
        self.status_code == ERROR
    }

    /// `end - start` in nanoseconds; zero when the span ends before it starts (processors §1.4).
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// The enum's name, or `None` for an unknown number, which is written in decimal (processors §1.3).
pub fn kind_name(kind: i32) -> Option<&'static str> {
    usize::try_from(kind)
        .ok()
        .and_then(|kind| KINDS.get(kind).copied())
}

/// The enum's name, or `None` for an unknown number, which is written in decimal (processors §1.3).
pub fn status_code_name(code: i32) -> Option<&'static str> {
    usize::try_from(code)
        .ok()
        .and_then(|code| STATUS_CODES.get(code).copied())
}

fn id<'a>(cursor: &Cursor<'_>, bytes: &'a [u8], longest: usize, number: u32) -> Result<&'a [u8], WireError> {
    if bytes.len() > longest {
        return Err(cursor.fault_in(WireFault::IdTooLong, field_path(number)));
    }
    Ok(bytes)
}

fn optional_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        delimited_len(bytes.len())
    }
}

fn uint32_len(raw: u64) -> usize {
    let value = u64::from(raw as u32);
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// How a field of a span event or link counts towards the canonical size.
#[derive(Clone, Copy)]
enum Member {
    Bytes,
    Uint32,
    Fixed64,
    Fixed32,
    Attribute,
}

struct Shape {
    path: &'static str,
    members: &'static [(u32, Member)],
}

const EVENT: Shape = Shape {
    path: "resource_spans.scope_spans.spans.events",
    members: &[
        (1, Member::Fixed64),
        (2, Member::Bytes),
        (3, Member::Attribute),
        (4, Member::Uint32),
    ],
};
const LINK: Shape = Shape {
    path: "resource_spans.scope_spans.spans.links",
    members: &[
        (1, Member::Bytes),
        (2, Member::Bytes),
        (3, Member::Bytes),
        (4, Member::Attribute),
        (5, Member::Uint32),
        (6, Member::Fixed32),
    ],
};

fn nested_len(message: &[u8], offset: usize, shape: &Shape) -> Result<usize, WireError> {
    let mut cursor = Cursor::new(message, offset, shape.path);
    let mut repeated_len = 0;
    let mut singular_len = [0usize; 8];
    while let Some((number, value)) = cursor.next_field()? {
        let Some((_, member)) = shape.members.iter().find(|(known, _)| *known == number) else {
            continue;
        };
        let length = match (member, value) {
            (Member::Bytes, Value::Bytes(bytes, _)) => optional_len(bytes),
            (Member::Uint32, Value::Varint(raw)) => uint32_len(raw),
            (Member::Fixed64, Value::Fixed64(raw)) => 9 * usize::from(raw != 0),
            (Member::Fixed32, Value::Fixed32(raw)) => 5 * usize::from(raw != 0),
            (Member::Attribute, Value::Bytes(bytes, at)) => {
                repeated_len += delimited_len(Attribute::read(bytes, at)?.encoded_len);
                continue;
            }
            _ => return Err(cursor.fault(WireFault::WrongWireType)),
        };
        // The last occurrence of a singular field is the one that counts.
        if let Some(slot) = singular_len.get_mut(number as usize) {
            *slot = length;
        }
    }
    Ok(repeated_len + singular_len.iter().sum::<usize>())
}

fn field_path(number: u32) -> &'static str {
    match number {
        1 => "resource_spans.scope_spans.spans.trace_id",
        2 => "resource_spans.scope_spans.spans.span_id",
        3 => "resource_spans.scope_spans.spans.trace_state",
        4 => "resource_spans.scope_spans.spans.parent_span_id",
        5 => "resource_spans.scope_spans.spans.name",
        6 => "resource_spans.scope_spans.spans.kind",
        7 => "resource_spans.scope_spans.spans.start_time_unix_nano",
        8 => "resource_spans.scope_spans.spans.end_time_unix_nano",
        9 => "resource_spans.scope_spans.spans.attributes",
        10 => "resource_spans.scope_spans.spans.dropped_attributes_count",
        11 => "resource_spans.scope_spans.spans.events",
        12 => "resource_spans.scope_spans.spans.dropped_events_count",
        13 => "resource_spans.scope_spans.spans.links",
        14 => "resource_spans.scope_spans.spans.dropped_links_count",
        15 => "resource_spans.scope_spans.spans.status",
        _ => "resource_spans.scope_spans.spans.flags",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Span<'_>, WireError> {
        Span::read(message, 0, |_| {})
    }

    #[test]
    fn canonical_size_counts_fields_once_and_drops_unknown_ones() {
        assert_eq!(read(&[]).unwrap().encoded_len, 0);
        let mut message = vec![0x0a, 1, 7, 0x12, 1, 9, 0x2a, 2, b'o', b'p', 0x30, 3];
        message.extend([0x39, 1, 0, 0, 0, 0, 0, 0, 0, 0x41, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&message).unwrap().encoded_len, 30);
        message.extend([0x2a, 2, b'o', b'p', 0x9a, 0x06, 1, 0]);
        assert_eq!(read(&message).unwrap().encoded_len, 30);
        message.extend([0x4a, 14, 0x0a, 1, b'r', 0x12, 9, 0x21, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&message).unwrap().encoded_len, 46);
        message.extend([0x7a, 0]);
        assert_eq!(read(&message).unwrap().encoded_len, 48);
    }

    #[test]
    fn wrong_wire_type_names_the_field() {
        let error = read(&[0x28, 1]).unwrap_err();
        assert_eq!(error.field, "resource_spans.scope_spans.spans.name");
        assert_eq!(error.fault, WireFault::WrongWireType);
    }

    #[test]
    fn an_id_longer_than_otlp_allows_is_malformed() {
        let message = [vec![0x0a, 17], vec![1; 17]].concat();
        assert_eq!(read(&message).unwrap_err().fault, WireFault::IdTooLong);
    }

    #[test]
    fn negative_durations_count_as_zero() {
        let span = Span {
            start_ns: 5,
            end_ns: 3,
            ..Span::default()
        };
        assert_eq!(span.duration_ns(), 0);
    }
}

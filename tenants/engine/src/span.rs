//! One OTLP `Span`: what the processors need of it, borrowed from the request, and its canonical size.

use crate::any_value::{Attribute, int32_len, optional_len};
use crate::error::WireFault;
use crate::wire::{
    Cursor, WireResult, bytes_tag, delimited_len, fixed32_tag, fixed64_tag, varint_len, varint_tag,
};

/// Longest trace id the engine holds; OTLP's are exactly this long.
pub const TRACE_ID_LEN: usize = 16;
/// Longest span id the engine holds; OTLP's are exactly this long.
pub const SPAN_ID_LEN: usize = 8;

/// `Span.SpanKind` by number; anything else is written as its number.
pub const KINDS: [&str; 6] = [
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
/// `Status.StatusCode` by number.
pub const STATUS_CODES: [&str; 3] = ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

/// The number of `SPAN_KIND_SERVER`.
pub const SERVER: i32 = 2;
/// The number of `SPAN_KIND_CLIENT`.
pub const CLIENT: i32 = 3;
/// The number of `SPAN_KIND_PRODUCER`.
pub const PRODUCER: i32 = 4;
/// The number of `SPAN_KIND_CONSUMER`.
pub const CONSUMER: i32 = 5;
const ERROR: i32 = 2;

const TRACE_ID: u32 = bytes_tag(1);
const SPAN_ID: u32 = bytes_tag(2);
const TRACE_STATE: u32 = bytes_tag(3);
const PARENT_SPAN_ID: u32 = bytes_tag(4);
const NAME: u32 = bytes_tag(5);
const KIND: u32 = varint_tag(6);
const START: u32 = fixed64_tag(7);
const END: u32 = fixed64_tag(8);
const ATTRIBUTE: u32 = bytes_tag(9);
const DROPPED_ATTRIBUTES: u32 = varint_tag(10);
const EVENT: u32 = bytes_tag(11);
const DROPPED_EVENTS: u32 = varint_tag(12);
const LINK: u32 = bytes_tag(13);
const DROPPED_LINKS: u32 = varint_tag(14);
const STATUS: u32 = bytes_tag(15);
const FLAGS: u32 = fixed32_tag(16);

const STATUS_MESSAGE: u32 = bytes_tag(2);
const STATUS_CODE: u32 = varint_tag(3);

/// The fields of one span.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span<'a> {
    /// Raw trace id, of any length.
    pub trace_id: &'a [u8],
    /// Raw span id, of any length.
    pub span_id: &'a [u8],
    /// Raw parent span id, of any length; empty for a root.
    pub parent_span_id: &'a [u8],
    /// W3C tracestate, unparsed.
    pub trace_state: &'a [u8],
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
    /// Length of the canonical encoding of the `Span` message alone, after the cut (processors §1.4).
    pub encoded_len: usize,
}

/// Attributes that were cut, by where they stand (tenancy §4.5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanCuts {
    /// Of spans themselves.
    pub span: u64,
    /// Of their events.
    pub event: u64,
    /// Of their links.
    pub link: u64,
}

impl<'a> Span<'a> {
    /// Read one `Span` message that is a part of what `parent` reads; every attribute is passed to `on_attribute`, cut to
    /// `limit` bytes; what was cut is added to `cuts`.
    #[inline]
    pub fn read(
        message: &'a [u8],
        parent: &Cursor<'a>,
        limit: usize,
        cuts: &mut SpanCuts,
        mut on_attribute: impl FnMut(Attribute<'a>),
    ) -> WireResult<Self> {
        let mut cursor = parent.nested(message, "resource_spans.scope_spans.spans");
        let mut span = Self::default();
        let mut repeated_len = 0;
        let mut dropped = [0u64; 3];
        let mut flags = 0;
        let mut has_status = false;
        loop {
            match cursor.tag()? {
                0 => break,
                TRACE_ID => span.trace_id = cursor.bytes()?,
                SPAN_ID => span.span_id = cursor.bytes()?,
                TRACE_STATE => span.trace_state = cursor.bytes()?,
                PARENT_SPAN_ID => span.parent_span_id = cursor.bytes()?,
                NAME => span.name = cursor.bytes()?,
                KIND => span.kind = cursor.varint()? as i32,
                START => span.start_ns = cursor.fixed64()?,
                END => span.end_ns = cursor.fixed64()?,
                ATTRIBUTE => {
                    let bytes = cursor.bytes()?;
                    let attribute = Attribute::read_within(limit, bytes, &cursor, &mut cuts.span)?;
                    repeated_len += delimited_len(attribute.encoded_len);
                    on_attribute(attribute);
                }
                DROPPED_ATTRIBUTES => dropped[0] = cursor.varint()?,
                EVENT => {
                    let bytes = cursor.bytes()?;
                    let length = nested_len(bytes, &cursor, &EVENT_SHAPE, limit, &mut cuts.event)?;
                    repeated_len += delimited_len(length);
                }
                DROPPED_EVENTS => dropped[1] = cursor.varint()?,
                LINK => {
                    let bytes = cursor.bytes()?;
                    let length = nested_len(bytes, &cursor, &LINK_SHAPE, limit, &mut cuts.link)?;
                    repeated_len += delimited_len(length);
                }
                DROPPED_LINKS => dropped[2] = cursor.varint()?,
                STATUS => {
                    has_status = true;
                    let bytes = cursor.bytes()?;
                    span.read_status(bytes, &cursor)?;
                }
                FLAGS => flags = cursor.fixed32()?,
                tag if tag >> 3 <= 16 => {
                    return Err(cursor.fault_in(WireFault::WrongWireType, field_path(tag >> 3)));
                }
                tag => cursor.skip(tag)?,
            }
        }
        let strings = [
            span.trace_id,
            span.span_id,
            span.trace_state,
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

    fn read_status(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        let mut cursor = parent.nested(message, "resource_spans.scope_spans.spans.status");
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                STATUS_MESSAGE => self.status_message = cursor.bytes()?,
                STATUS_CODE => self.status_code = cursor.varint()? as i32,
                tag => cursor.unexpected(tag, &[2, 3])?,
            }
        }
    }

    fn status_len(&self) -> usize {
        optional_len(self.status_message) + int32_len(self.status_code as u64)
    }

    /// Whether every id is short enough to be held; OTLP's are exactly that long.
    #[inline]
    pub fn has_short_ids(&self) -> bool {
        self.trace_id.len() <= TRACE_ID_LEN
            && self.span_id.len() <= SPAN_ID_LEN
            && self.parent_span_id.len() <= SPAN_ID_LEN
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

const EVENT_SHAPE: Shape = Shape {
    path: "resource_spans.scope_spans.spans.events",
    members: &[
        (1, Member::Fixed64),
        (2, Member::Bytes),
        (3, Member::Attribute),
        (4, Member::Uint32),
    ],
};
const LINK_SHAPE: Shape = Shape {
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

/// Canonical length of an event or a link, its attributes cut to `limit` bytes; how many were is added to `cuts`.
fn nested_len<'a>(
    message: &'a [u8],
    parent: &Cursor<'a>,
    shape: &Shape,
    limit: usize,
    cuts: &mut u64,
) -> WireResult<usize> {
    let mut cursor = parent.nested(message, shape.path);
    let mut repeated_len = 0;
    let mut singular_len = [0usize; 8];
    loop {
        let tag = cursor.tag()?;
        if tag == 0 {
            return Ok(repeated_len + singular_len.iter().sum::<usize>());
        }
        let number = tag >> 3;
        let member = shape.members.iter().find(|(known, _)| *known == number);
        let length = match (member, tag & 7) {
            (None, _) => {
                cursor.skip(tag)?;
                continue;
            }
            (Some((_, Member::Attribute)), 2) => {
                let bytes = cursor.bytes()?;
                let attribute = Attribute::read_within(limit, bytes, &cursor, cuts)?;
                repeated_len += delimited_len(attribute.encoded_len);
                continue;
            }
            (Some((_, Member::Bytes)), 2) => optional_len(cursor.bytes()?),
            (Some((_, Member::Uint32)), 0) => uint32_len(cursor.varint()?),
            (Some((_, Member::Fixed64)), 1) => 9 * usize::from(cursor.fixed64()? != 0),
            (Some((_, Member::Fixed32)), 5) => 5 * usize::from(cursor.fixed32()? != 0),
            (Some(_), _) => return Err(cursor.fault(WireFault::WrongWireType)),
        };
        // The last occurrence of a singular field is the one that counts.
        if let Some(slot) = singular_len.get_mut(number as usize) {
            *slot = length;
        }
    }
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

    fn read(message: &[u8]) -> WireResult<Span<'_>> {
        Span::read(
            message,
            &Cursor::new(message, "test"),
            usize::MAX,
            &mut SpanCuts::default(),
            |_| {},
        )
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
    fn an_id_longer_than_otlp_allows_is_seen() {
        let message = [vec![0x0a, 17], vec![1; 17]].concat();
        assert!(!read(&message).unwrap().has_short_ids());
        assert!(read(&message[..0]).unwrap().has_short_ids());
    }

    #[test]
    fn attributes_of_span_event_and_link_are_cut_and_the_size_is_what_is_left() {
        let of_length = |length: u8| {
            let attribute = [
                vec![0x0a, 1, b'k', 0x12, length + 2, 0x0a, length],
                vec![b'v'; length.into()],
            ]
            .concat();
            let field = |tag: u8| [vec![tag, attribute.len() as u8], attribute.clone()].concat();
            let (event, link) = (field(0x1a), field(0x22));
            let nested = |tag: u8, inner: &[u8]| [&[tag, inner.len() as u8], inner].concat();
            [
                field(0x4a),
                nested(0x5a, &event),
                nested(0x6a, &link),
                nested(0x6a, &link),
            ]
            .concat()
        };
        let (message, left) = (of_length(100), of_length(70));
        let mut cuts = SpanCuts::default();
        let span = Span::read(
            &message,
            &Cursor::new(&message, "test"),
            70,
            &mut cuts,
            |attribute| {
                assert_eq!(attribute.value.text().len(), 70);
            },
        )
        .unwrap();
        assert_eq!(span.encoded_len, left.len());
        assert_eq!(
            cuts,
            SpanCuts {
                span: 1,
                event: 1,
                link: 2
            }
        );
        assert_eq!(read(&message).unwrap().encoded_len, message.len());
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

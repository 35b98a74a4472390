//! OTLP requests made of arbitrary bytes: well-formed, with ids that meet and keys that are looked at.

use arbitrary::{Arbitrary, Unstructured};
use millrace_engine::wire::{bytes_tag, fixed64_tag, put_varint, varint_tag};

use crate::NOW_NS;
use crate::plans::KEYS;

/// Values nest no deeper, and so no request is refused for that.
const MAX_DEPTH: u32 = 8;
/// From here on a span has no fields that anyone knows.
const FIRST_UNREAD: u32 = 20;

/// An `ExportTraceServiceRequest`.
#[derive(Debug, Arbitrary)]
pub struct Request<'a>(Vec<Resource<'a>>);

#[derive(Debug, Arbitrary)]
struct Resource<'a> {
    attributes: Vec<Attribute<'a>>,
    spans: Vec<Span<'a>>,
    /// The resource stands in two parts, one of them behind the spans.
    is_divided: bool,
}

#[derive(Debug, Arbitrary)]
struct Attribute<'a> {
    key: Key<'a>,
    value: Value<'a>,
}

#[derive(Debug, Arbitrary)]
enum Key<'a> {
    Watched(u8),
    Any(&'a [u8]),
}

#[derive(Debug, Arbitrary)]
enum Value<'a> {
    Name(u8),
    Text(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    List(Vec<Value<'a>>),
    Map(Vec<Attribute<'a>>),
    Bytes(&'a [u8]),
    Absent,
}

#[derive(Debug, Arbitrary)]
struct Span<'a> {
    trace: u8,
    own: u8,
    parent: u8,
    odd_id: Option<&'a [u8]>,
    trace_state: Option<&'a [u8]>,
    name: Text<'a>,
    kind: u8,
    start_offset_ns: i64,
    duration_ns: u32,
    attributes: Vec<Attribute<'a>>,
    status: Option<(u8, Text<'a>)>,
    unread: Option<(u8, &'a [u8])>,
}

#[derive(Debug, Arbitrary)]
enum Text<'a> {
    Name(u8),
    Numbered(u16),
    Any(&'a [u8]),
}

impl Request<'_> {
    /// The request that these bytes describe.
    pub fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut source = Unstructured::new(bytes);
        Request::arbitrary(&mut source).map_or_else(|_| Vec::new(), |request| request.encoded())
    }

    /// A request that fills every label, edge and info metric.
    pub fn example() -> Vec<u8> {
        let watched = |number, value| Attribute {
            key: Key::Watched(number),
            value,
        };
        let span = |trace, own, parent, kind, name| Span {
            trace,
            own,
            parent,
            odd_id: None,
            trace_state: Some(b"ot=th:8"),
            name: Text::Numbered(name),
            kind,
            start_offset_ns: 0,
            duration_ns: 1 << (kind + 20),
            attributes: (0..KEYS.len() as u8)
                .map(|number| watched(number, Value::Name(number)))
                .collect(),
            status: Some((2, Text::Name(3))),
            unread: None,
        };
        let resource = |service, spans| Resource {
            attributes: (0..KEYS.len() as u8)
                .map(|number| watched(number, Value::Name(service)))
                .collect(),
            spans,
            is_divided: false,
        };
        // Kinds 2 to 5: server, client, producer, consumer.
        let calling = vec![span(1, 1, 8, 3, 1), span(2, 2, 8, 4, 2), span(3, 3, 8, 3, 3)];
        let answering = vec![
            span(1, 4, 1, 2, 4),
            span(2, 5, 2, 5, 5),
            span(4, 6, 8, 2, 6),
            span(5, 7, 7, 1, 7),
        ];
        Request(vec![resource(1, calling), resource(2, answering)]).encoded()
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for resource in &self.0 {
            put_bytes(&mut out, 1, &resource.encoded());
        }
        out
    }
}

impl Resource<'_> {
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let at = if self.is_divided {
            self.attributes.len() / 2
        } else {
            0
        };
        let (first, second) = self.attributes.split_at(at);
        if self.is_divided {
            put_bytes(&mut out, 1, &attributes(first, 0));
        }
        let mut spans = Vec::new();
        for span in &self.spans {
            put_bytes(&mut spans, 2, &span.encoded());
        }
        put_bytes(&mut out, 2, &spans);
        put_bytes(&mut out, 1, &attributes(second, 0));
        out
    }
}

fn attributes(attributes: &[Attribute<'_>], depth: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for attribute in attributes {
        put_bytes(&mut out, 1, &attribute.encoded(depth));
    }
    out
}

impl Attribute<'_> {
    fn encoded(&self, depth: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let key = match self.key {
            Key::Watched(number) => KEYS[usize::from(number) % KEYS.len()].as_bytes(),
            Key::Any(key) => key,
        };
        put_bytes(&mut out, 1, key);
        if !matches!(self.value, Value::Absent) && depth < MAX_DEPTH {
            put_bytes(&mut out, 2, &self.value.encoded(depth + 1));
        }
        out
    }
}

impl Value<'_> {
    fn encoded(&self, depth: u32) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Value::Name(number) => put_bytes(&mut out, 1, name(*number)),
            Value::Text(text) => put_bytes(&mut out, 1, text),
            Value::Bool(value) => put_number(&mut out, 2, u64::from(*value)),
            Value::Int(value) => put_number(&mut out, 3, value.cast_unsigned()),
            Value::Double(value) => put_fixed(&mut out, 4, value.to_bits()),
            Value::List(values) => {
                let mut list = Vec::new();
                for value in values.iter().filter(|_| depth < MAX_DEPTH) {
                    put_bytes(&mut list, 1, &value.encoded(depth + 1));
                }
                put_bytes(&mut out, 5, &list);
            }
            Value::Map(map) => put_bytes(&mut out, 6, &attributes(map, depth)),
            Value::Bytes(bytes) => put_bytes(&mut out, 7, bytes),
            Value::Absent => {}
        }
        out
    }
}

impl Span<'_> {
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, self.odd_id.unwrap_or(&[self.trace % 8; 16]));
        put_bytes(&mut out, 2, &[self.own % 8; 8]);
        put_bytes(&mut out, 3, self.trace_state.unwrap_or_default());
        if self.parent % 9 < 8 {
            put_bytes(&mut out, 4, &[self.parent % 9; 8]);
        }
        put_bytes(&mut out, 5, &self.name.bytes());
        put_number(&mut out, 6, u64::from(self.kind % 8));
        // Most spans are near enough to be generated, some are not.
        let start_ns = NOW_NS.saturating_add_signed(self.start_offset_ns >> 28);
        put_fixed(&mut out, 7, start_ns);
        put_fixed(&mut out, 8, start_ns.saturating_add(u64::from(self.duration_ns)));
        for attribute in &self.attributes {
            put_bytes(&mut out, 9, &attribute.encoded(0));
        }
        if let Some((code, message)) = &self.status {
            let mut status = Vec::new();
            put_bytes(&mut status, 2, &message.bytes());
            put_number(&mut status, 3, u64::from(code % 4));
            put_bytes(&mut out, 15, &status);
        }
        if let Some((number, bytes)) = self.unread {
            put_bytes(&mut out, FIRST_UNREAD + u32::from(number), bytes);
        }
        out
    }
}

impl Text<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Text::Name(number) => name(*number).to_vec(),
            Text::Numbered(number) => format!("GET /items/{number}").into_bytes(),
            Text::Any(text) => text.to_vec(),
        }
    }
}

fn name(number: u8) -> &'static [u8] {
    const NAMES: [&[u8]; 8] = [
        b"",
        b"shop",
        b"db",
        b"GET /",
        b"moon",
        b"op one",
        b"0.25",
        "gr\u{fc}n".as_bytes(),
    ];
    NAMES[usize::from(number) % NAMES.len()]
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(bytes_tag(number)));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(varint_tag(number)));
    put_varint(out, value);
}

fn put_fixed(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(fixed64_tag(number)));
    out.extend_from_slice(&value.to_le_bytes());
}

//! A Remote-Write 2.0 message, `io.prometheus.write.v2.Request`, on its way (remote-write §1.2).
//!
//! Fields of a series stand in an order of our own, which protobuf allows: what is the same in neighbours stands together,
//! so that it compresses to one reference.

use crate::family::Metadata;
use crate::remote_write::{Message, Series, SeriesLabels, read_exemplar, read_labels};
use crate::remote_write_1::Fields;
use crate::symbols::Symbols;
use crate::wire::{Cursor, bytes_tag, delimited_len, put_varint, varint_len};

/// The numbers of these labels' names: they are the first symbols of every message.
const NAME_REF: u8 = 1;
const LE_REF: u8 = 2;

/// A message, and the numbers of the labels of the entity at hand.
#[derive(Debug)]
pub(crate) struct Request {
    symbols: Symbols,
    series: Vec<u8>,
    /// Encoded numbers of the labels that [`SeriesLabels`] has in the part of the same name.
    before_name: Vec<u8>,
    name_to_le: Vec<u8>,
    own_le: Vec<u8>,
    after_le: Vec<u8>,
    knows_entity: bool,
    /// Held for reuse.
    labels: Vec<u8>,
    exemplars: Vec<u8>,
    exemplar: Vec<u8>,
}

impl Default for Request {
    fn default() -> Self {
        let mut request = Self {
            symbols: Symbols::default(),
            series: Vec::new(),
            before_name: Vec::new(),
            name_to_le: Vec::new(),
            own_le: Vec::new(),
            after_le: Vec::new(),
            knows_entity: false,
            labels: Vec::new(),
            exemplars: Vec::new(),
            exemplar: Vec::new(),
        };
        request.clear();
        request
    }
}

impl Request {
    /// Begin another message.
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
        let first = [&b"__name__"[..], b"le"].map(|name| self.symbols.refer(name));
        debug_assert_eq!(first, [u32::from(NAME_REF), u32::from(LE_REF)]);
        self.series.clear();
        self.knows_entity = false;
    }

    /// The entity's labels change.
    pub(crate) fn forget_entity(&mut self) {
        self.knows_entity = false;
    }

    /// Bytes of the whole message.
    pub(crate) fn size(&self) -> usize {
        self.symbols.encoded().len() + self.series.len()
    }

    /// Append the whole message to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.symbols.encoded());
        out.extend_from_slice(&self.series);
    }

    /// Write one series.
    pub(crate) fn put_series(&mut self, series: &Series<'_>, message: &Message, fields: &Fields<'_>) {
        if !self.knows_entity {
            self.refer_entity(series.labels);
        }
        let name = self.symbols.refer_again(series.metric.name);
        let le = series.le.map(|le| self.symbols.refer_again(le.as_bytes()));
        let le_len = le.map_or(self.own_le.len(), |le| 1 + varint_len(u64::from(le)));
        let labels_len = self.before_name.len()
            + 1
            + varint_len(u64::from(name))
            + self.name_to_le.len()
            + le_len
            + self.after_le.len();
        let described = self.describe(&series.metric.metadata);
        self.begin(labels_len, &described, message, fields);
        let out = &mut self.series;
        out.extend_from_slice(&self.before_name);
        out.push(NAME_REF);
        put_varint(out, u64::from(name));
        out.extend_from_slice(&self.name_to_le);
        match le {
            Some(le) => {
                out.push(LE_REF);
                put_varint(out, u64::from(le));
            }
            None => out.extend_from_slice(&self.own_le),
        }
        out.extend_from_slice(&self.after_le);
        self.end(&described, message, fields);
    }

    /// Write one series whose labels are encoded as in 1.0.
    pub(crate) fn put_encoded(
        &mut self,
        labels: &[u8],
        metadata: &Metadata,
        message: &Message,
        fields: &Fields<'_>,
    ) {
        let mut refs = std::mem::take(&mut self.labels);
        refs.clear();
        refer_all(&mut self.symbols, labels, &mut refs);
        let described = self.describe(metadata);
        self.begin(refs.len(), &described, message, fields);
        self.series.extend_from_slice(&refs);
        self.labels = refs;
        self.end(&described, message, fields);
    }

    fn refer_entity(&mut self, labels: &SeriesLabels) {
        for (part, refs) in [
            (&labels.before_name, &mut self.before_name),
            (&labels.name_to_le, &mut self.name_to_le),
            (&labels.own_le, &mut self.own_le),
            (&labels.after_le, &mut self.after_le),
        ] {
            refs.clear();
            refer_all(&mut self.symbols, part, refs);
        }
        self.knows_entity = true;
    }

    /// Write what stands before the numbers of the labels, which are `labels_len` bytes.
    fn begin(&mut self, labels_len: usize, described: &Described, message: &Message, fields: &Fields<'_>) {
        let (points, exemplars) = fields.of(message);
        self.exemplars.clear();
        if !exemplars.is_empty() {
            self.refer_exemplars(exemplars);
        }
        let length = delimited_len(labels_len)
            + delimited_len(described.length())
            + if message.start_ms == 0 {
                0
            } else {
                1 + varint_len(message.start_ms as u64)
            }
            + self.exemplars.len()
            + points.len();
        let out = &mut self.series;
        out.push(0x2a);
        put_varint(out, length as u64);
        out.push(0x0a);
        put_varint(out, labels_len as u64);
    }

    /// Write what stands behind them.
    fn end(&mut self, described: &Described, message: &Message, fields: &Fields<'_>) {
        let (points, _) = fields.of(message);
        let out = &mut self.series;
        out.push(0x2a);
        put_varint(out, described.length() as u64);
        out.extend_from_slice(&[0x08, described.kind]);
        for (tag, number) in [(0x18, described.help), (0x20, described.unit)] {
            if number != 0 {
                out.push(tag);
                put_varint(out, u64::from(number));
            }
        }
        // Where release candidate 3 had it: there are receivers that read it only here (remote-write §0 point 7).
        if message.start_ms != 0 {
            out.push(0x30);
            put_varint(out, message.start_ms as u64);
        }
        out.extend_from_slice(&self.exemplars);
        out.extend_from_slice(points);
    }

    fn describe(&mut self, metadata: &Metadata) -> Described {
        Described {
            kind: metadata.kind as u8,
            help: self.symbols.refer_again(metadata.help.as_bytes()),
            unit: self.symbols.refer_again(metadata.unit.as_bytes()),
        }
    }

    /// Write exemplars of a 1.0 message with numbers in the place of texts.
    fn refer_exemplars(&mut self, exemplars: &[u8]) {
        let mut cursor = Cursor::new(exemplars, "exemplars");
        while cursor.tag() == Ok(bytes_tag(3)) {
            let Ok(bytes) = cursor.bytes() else {
                return;
            };
            let Some((at_ms, value)) = read_exemplar(bytes) else {
                return;
            };
            self.labels.clear();
            refer_all(&mut self.symbols, bytes, &mut self.labels);
            self.exemplar.clear();
            self.exemplar.push(0x0a);
            put_varint(&mut self.exemplar, self.labels.len() as u64);
            self.exemplar.extend_from_slice(&self.labels);
            self.exemplar.push(0x11);
            self.exemplar.extend_from_slice(&value.to_le_bytes());
            self.exemplar.push(0x18);
            put_varint(&mut self.exemplar, at_ms as u64);
            self.exemplars.push(0x22);
            put_varint(&mut self.exemplars, self.exemplar.len() as u64);
            self.exemplars.extend_from_slice(&self.exemplar);
        }
    }
}

/// Metadata with numbers in the place of texts.
struct Described {
    kind: u8,
    help: u32,
    unit: u32,
}

impl Described {
    fn length(&self) -> usize {
        let texts = [self.help, self.unit].into_iter().filter(|number| *number != 0);
        2 + texts
            .map(|number| 1 + varint_len(u64::from(number)))
            .sum::<usize>()
    }
}

/// Append the numbers of all labels that a 1.0 message has as field 1.
fn refer_all(symbols: &mut Symbols, labels: &[u8], refs: &mut Vec<u8>) {
    for text in read_labels(labels).flat_map(|(name, value)| [name, value]) {
        put_varint(refs, u64::from(symbols.refer(text)));
    }
}

/// Write a sample as field 2, its value last. A beginning that is not before the sample says nothing.
pub(crate) fn put_sample(out: &mut Vec<u8>, at_ms: i64, value: f64, start_ms: i64) {
    let has_start = start_ms != 0 && start_ms < at_ms;
    let start_len = if has_start {
        1 + varint_len(start_ms as u64)
    } else {
        0
    };
    out.push(0x12);
    put_varint(out, (1 + varint_len(at_ms as u64) + start_len + 9) as u64);
    out.push(0x10);
    put_varint(out, at_ms as u64);
    if has_start {
        out.push(0x18);
        put_varint(out, start_ms as u64);
    }
    out.push(0x09);
    out.extend_from_slice(&value.to_le_bytes());
}

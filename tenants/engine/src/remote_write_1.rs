//! The parts of a Remote-Write 1.0 message, `prometheus.WriteRequest` (remote-write §1.1).

use crate::family::Metadata;
use crate::remote_write::{ExemplarOut, LE, Message, NAME, Series};
use crate::wire::{delimited_len, put_varint, varint_len};

/// Write one series.
pub(crate) fn put_series(out: &mut Vec<u8>, series: &Series<'_>, message: &Message, fields: &Fields<'_>) {
    let (points, exemplars) = fields.of(message);
    let (labels, name) = (series.labels, series.metric.name);
    let le_len = series
        .le
        .map_or(labels.own_le.len(), |le| label_len(LE, le.as_bytes()));
    let labels_len = labels.len_without_le() + label_len(NAME, name) + le_len;
    out.push(0x0a);
    put_varint(out, (labels_len + points.len() + exemplars.len()) as u64);
    out.extend_from_slice(&labels.before_name);
    put_label(out, NAME, name);
    out.extend_from_slice(&labels.name_to_le);
    match series.le {
        Some(le) => put_label(out, LE, le.as_bytes()),
        None => out.extend_from_slice(&labels.own_le),
    }
    out.extend_from_slice(&labels.after_le);
    out.extend_from_slice(points);
    out.extend_from_slice(exemplars);
}

/// Write one series whose labels are encoded already.
pub(crate) fn put_encoded(out: &mut Vec<u8>, labels: &[u8], message: &Message, fields: &Fields<'_>) {
    let (points, exemplars) = fields.of(message);
    out.push(0x0a);
    put_varint(out, (labels.len() + points.len() + exemplars.len()) as u64);
    for part in [labels, points, exemplars] {
        out.extend_from_slice(part);
    }
}

/// What stands behind the labels of messages: samples or histograms as their protocol has them, exemplars as in 1.0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'f> {
    pub(crate) points: &'f [u8],
    pub(crate) exemplars: &'f [u8],
}

impl<'f> Fields<'f> {
    /// Those of one message.
    pub(crate) fn of(&self, message: &Message) -> (&'f [u8], &'f [u8]) {
        let points = self.points.get(message.points.clone());
        let exemplars = self.exemplars.get(message.exemplars.clone());
        (points.unwrap_or_default(), exemplars.unwrap_or_default())
    }
}

/// Write a label as field 1.
pub(crate) fn put_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0x0a);
    put_varint(
        out,
        (delimited_len(name.len()) + delimited_len(value.len())) as u64,
    );
    put_bytes(out, 0x0a, name);
    put_bytes(out, 0x12, value);
}

fn label_len(name: &[u8], value: &[u8]) -> usize {
    delimited_len(delimited_len(name.len()) + delimited_len(value.len()))
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Write a sample as field 2.
pub(crate) fn put_sample(out: &mut Vec<u8>, at_ms: i64, value: f64) {
    out.push(0x12);
    put_varint(out, point_len(at_ms) as u64);
    put_point(out, 0x09, 0x10, value, at_ms);
}

/// Write an exemplar as field 3.
pub(crate) fn put_exemplar(out: &mut Vec<u8>, at_ms: i64, exemplar: &ExemplarOut<'_>) {
    let (label, trace) = (exemplar.label.as_bytes(), exemplar.trace.as_bytes());
    out.push(0x1a);
    put_varint(out, (label_len(label, trace) + point_len(at_ms)) as u64);
    put_label(out, label, trace);
    put_point(out, 0x11, 0x18, exemplar.seconds, at_ms);
}

fn point_len(at_ms: i64) -> usize {
    9 + 1 + varint_len(at_ms as u64)
}

fn put_point(out: &mut Vec<u8>, value_tag: u8, time_tag: u8, value: f64, at_ms: i64) {
    out.push(value_tag);
    out.extend_from_slice(&value.to_le_bytes());
    out.push(time_tag);
    put_varint(out, at_ms as u64);
}

/// Write what is known of a metric family as field 3 of the request.
pub(crate) fn put_metadata(out: &mut Vec<u8>, family: &[u8], metadata: &Metadata) {
    put_described(
        out,
        family,
        metadata.kind as u8,
        metadata.help.as_bytes(),
        metadata.unit.as_bytes(),
    );
}

/// [`put_metadata`] of what was read.
pub(crate) fn put_described(out: &mut Vec<u8>, family: &[u8], kind: u8, help: &[u8], unit: &[u8]) {
    let parts = [(0x12, family), (0x22, help), (0x2a, unit)];
    let parts = parts.into_iter().filter(|(_, text)| !text.is_empty());
    let length: usize = parts.clone().map(|(_, text)| delimited_len(text.len())).sum();
    out.push(0x1a);
    put_varint(out, (2 + length) as u64);
    out.extend_from_slice(&[0x08, kind]);
    for (tag, text) in parts {
        put_bytes(out, tag, text);
    }
}

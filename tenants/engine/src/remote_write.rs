//! Remote-Write 1.0 messages, written straight from the registry (remote-write §1.1, §1.3, §1.4).

use std::ops::Range;
use std::sync::Arc;

use snap::raw::Encoder;

use crate::labels::Labels;
use crate::relabel::Relabel;
use crate::relabelled_series::{LeftOut, RelabelledSeries};
use crate::remote_write_histogram::{CountForm, HistogramEncoder, NativeSample, NativeValue};
use crate::wire::{Cursor, bytes_tag, delimited_len, put_varint, varint_len};

/// Label that holds the name of the metric.
pub(crate) const NAME: &[u8] = b"__name__";
const LE: &[u8] = b"le";

/// The one NaN that says "this series ended" (remote-write §1.5).
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// One compressed `WriteRequest`.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    /// Snappy block format.
    pub body: Vec<u8>,
    /// `TimeSeries` messages.
    pub series: usize,
    /// Samples, zero samples and staleness markers included.
    pub samples: usize,
    /// Samples of native histograms, empty ones and staleness markers included.
    pub histograms: usize,
    /// Exemplars.
    pub exemplars: usize,
}

/// The labels of one entity's series, external labels included, encoded once for all its metrics.
#[derive(Debug, Default)]
pub struct SeriesLabels {
    before_name: Vec<u8>,
    name_to_le: Vec<u8>,
    /// A label of the entity that is itself called `le`: `_bucket` series put theirs in its place.
    own_le: Vec<u8>,
    after_le: Vec<u8>,
}

/// An exemplar on its way out.
#[derive(Debug, Clone)]
pub struct ExemplarOut<'a> {
    /// Label that carries the trace id.
    pub label: &'a str,
    /// The trace id as text.
    pub trace: String,
    /// The observed value in seconds.
    pub seconds: f64,
}

/// Labels set on every series after the entity's own, which they replace (processors §4.5); an empty value removes.
#[derive(Debug, Clone, Default)]
pub struct ExternalLabels(Vec<(Vec<u8>, Vec<u8>)>);

impl ExternalLabels {
    /// Sort the labels; of equal names the last stays.
    pub fn new(pairs: &[(String, String)]) -> Self {
        let mut sorted: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (name, value) in pairs {
            sorted.retain(|(other, _)| other != name.as_bytes());
            sorted.push((name.clone().into_bytes(), value.clone().into_bytes()));
        }
        sorted.sort();
        Self(sorted)
    }
}

impl SeriesLabels {
    /// Merge the entity's canonical label set with the external labels.
    pub fn set(&mut self, entity: &[u8], external: &ExternalLabels) {
        self.before_name.clear();
        self.name_to_le.clear();
        self.own_le.clear();
        self.after_le.clear();
        let mut external = external
            .0
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .peekable();
        for (name, value) in Labels(entity) {
            while let Some((other, text)) = external.next_if(|(other, _)| *other < name) {
                self.put(other, text);
            }
            if external.peek().is_none_or(|(other, _)| *other != name) {
                self.put(name, value);
            }
        }
        for (name, value) in external {
            self.put(name, value);
        }
    }

    fn put(&mut self, name: &[u8], value: &[u8]) {
        if value.is_empty() || name == NAME {
            return;
        }
        let part = if name < NAME {
            &mut self.before_name
        } else if name < LE {
            &mut self.name_to_le
        } else if name == LE {
            &mut self.own_le
        } else {
            &mut self.after_le
        };
        put_label(part, name, value);
    }
}

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

fn exemplar_len(at_ms: i64, exemplar: &ExemplarOut<'_>) -> usize {
    label_len(exemplar.label.as_bytes(), exemplar.trace.as_bytes()) + sample_len(at_ms)
}

fn put_exemplar(out: &mut Vec<u8>, at_ms: i64, exemplar: &ExemplarOut<'_>) {
    out.push(0x1a);
    put_varint(out, exemplar_len(at_ms, exemplar) as u64);
    put_label(out, exemplar.label.as_bytes(), exemplar.trace.as_bytes());
    put_sample(out, 0x11, 0x18, exemplar.seconds, at_ms);
}

fn sample_len(at_ms: i64) -> usize {
    9 + 1 + varint_len(at_ms as u64)
}

/// Encodes series for each output, and cuts them into batches of at most `max_samples` samples, those of native
/// histograms included.
pub struct BatchWriter {
    histogram: HistogramEncoder,
    /// Fields of a series behind its labels, the same for all outputs.
    fields: Vec<u8>,
    outputs: Vec<Output>,
}

/// What one output came to.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The finished batches.
    pub batches: Vec<WriteBatch>,
    /// Series that its rules made impossible to send.
    pub left_out: LeftOut,
}

/// A `TimeSeries` message without its labels: where its fields are, and what is in them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) fields: Range<usize>,
    pub(crate) samples: usize,
    pub(crate) histograms: usize,
    pub(crate) exemplars: usize,
}

impl BatchWriter {
    /// Begin, with one output that takes every series as it is.
    ///
    /// A batch is closed before an entity that might not fit. One entity is never divided, however big.
    pub fn new(max_samples: usize) -> Self {
        Self::with_outputs(max_samples, &[None])
    }

    /// Begin, with an output for each of the rules; `None`: every series as it is. Without any, nothing is encoded.
    pub fn with_outputs(max_samples: usize, rules: &[Option<Arc<Relabel>>]) -> Self {
        let output = |rules: &Option<Arc<Relabel>>| Output {
            max_samples: max_samples.max(1),
            relabelled: rules.clone().map(RelabelledSeries::new),
            message: Vec::new(),
            open: WriteBatch::default(),
            batches: Vec::new(),
            encoder: Encoder::new(),
        };
        Self {
            histogram: HistogramEncoder::default(),
            fields: Vec::new(),
            outputs: rules.iter().map(output).collect(),
        }
    }

    /// Whether it matters in which order entities come: of series that become the same the first is sent.
    pub fn needs_order(&self) -> bool {
        let relabelled = self
            .outputs
            .iter()
            .filter_map(|output| output.relabelled.as_ref());
        relabelled.into_iter().any(RelabelledSeries::may_collide)
    }

    /// Call between entities: all series of one histogram share a batch (remote-write §2.5 point 9).
    ///
    /// `most_samples` is what the entity may write.
    pub fn next_entity(&mut self, most_samples: usize) {
        for output in &mut self.outputs {
            output.make_room(most_samples);
        }
    }

    /// Write one series with its samples, oldest first.
    pub fn series(
        &mut self,
        labels: &SeriesLabels,
        name: &[u8],
        le: Option<&str>,
        samples: &[(i64, f64)],
        exemplar: Option<&ExemplarOut<'_>>,
    ) {
        if self.outputs.is_empty() {
            return;
        }
        let fields = &mut self.fields;
        fields.clear();
        for (at_ms, value) in samples {
            fields.push(0x12);
            put_varint(fields, sample_len(*at_ms) as u64);
            put_sample(fields, 0x09, 0x10, *value, *at_ms);
        }
        let last = samples.last();
        if let Some(exemplar) = exemplar {
            put_exemplar(fields, last.map_or(0, |(at_ms, _)| *at_ms), exemplar);
        }
        let message = Message {
            fields: 0..fields.len(),
            samples: samples.len(),
            histograms: 0,
            exemplars: usize::from(exemplar.is_some()),
        };
        let ends = last.is_some_and(|(_, value)| value.to_bits() == STALE.to_bits());
        self.put(
            &Series {
                labels,
                name,
                le,
                ends,
            },
            &[message],
        );
    }

    /// Write one series of native histograms, oldest first, and exemplars each at its own time, ascending.
    ///
    /// Prometheus takes the exemplars of a message before its histograms, and none for a series that it does not know.
    /// What precedes the last histogram therefore goes ahead in a message of its own if there are exemplars: the empty
    /// histogram of a new series makes it known.
    pub fn native_series(
        &mut self,
        labels: &SeriesLabels,
        name: &[u8],
        form: CountForm,
        histograms: &[NativeSample<'_>],
        exemplars: &[(i64, ExemplarOut<'_>)],
    ) {
        if self.outputs.is_empty() {
            return;
        }
        self.fields.clear();
        let last = histograms.last();
        let series = Series {
            labels,
            name,
            le: None,
            ends: last.is_some_and(|sample| matches!(sample.value, NativeValue::Stale)),
        };
        if let [ahead @ .., last] = histograms
            && !ahead.is_empty()
            && !exemplars.is_empty()
        {
            let ahead = self.native_message(form, ahead, &[]);
            let last = self.native_message(form, &[*last], exemplars);
            self.put(&series, &[ahead, last]);
        } else {
            let message = self.native_message(form, histograms, exemplars);
            self.put(&series, &[message]);
        }
    }

    fn native_message(
        &mut self,
        form: CountForm,
        histograms: &[NativeSample<'_>],
        exemplars: &[(i64, ExemplarOut<'_>)],
    ) -> Message {
        let start = self.fields.len();
        for (at_ms, exemplar) in exemplars {
            put_exemplar(&mut self.fields, *at_ms, exemplar);
        }
        for sample in histograms {
            self.histogram.append(&mut self.fields, sample, form);
        }
        Message {
            fields: start..self.fields.len(),
            samples: 0,
            histograms: histograms.len(),
            exemplars: exemplars.len(),
        }
    }

    fn put(&mut self, series: &Series<'_>, messages: &[Message]) {
        for output in &mut self.outputs {
            output.put(series, messages, &self.fields);
        }
    }

    /// The finished batches of the first output.
    pub fn finish(self) -> Vec<WriteBatch> {
        let encoded = self.finish_each().into_iter().next();
        encoded.unwrap_or_default().batches
    }

    /// What each output came to.
    pub fn finish_each(self) -> Vec<Encoded> {
        self.outputs.into_iter().map(Output::finish).collect()
    }
}

/// What tells a series from others, and whether it ends.
pub(crate) struct Series<'s> {
    labels: &'s SeriesLabels,
    name: &'s [u8],
    le: Option<&'s str>,
    pub(crate) ends: bool,
}

impl<'s> Series<'s> {
    /// All its labels, sorted.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'s [u8], &'s [u8])> {
        let own_le = if self.le.is_some() {
            &[][..]
        } else {
            &self.labels.own_le
        };
        read_labels(&self.labels.before_name)
            .chain([(NAME, self.name)])
            .chain(read_labels(&self.labels.name_to_le))
            .chain(self.le.map(|le| (LE, le.as_bytes())))
            .chain(read_labels(own_le))
            .chain(read_labels(&self.labels.after_le))
    }
}

/// Read what [`put_label`] has written.
fn read_labels(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut labels = Cursor::new(encoded, "labels");
    std::iter::from_fn(move || {
        let is_label = labels.tag().ok()? == bytes_tag(1);
        let mut label = Cursor::new(labels.bytes().ok().filter(|_| is_label)?, "label");
        let mut part = || label.tag().and_then(|_| label.bytes()).ok();
        Some((part()?, part()?))
    })
}

/// The batches of one output.
struct Output {
    max_samples: usize,
    /// `None`: series are sent as they are.
    relabelled: Option<RelabelledSeries>,
    message: Vec<u8>,
    open: WriteBatch,
    batches: Vec<WriteBatch>,
    encoder: Encoder,
}

impl Output {
    fn make_room(&mut self, most_samples: usize) {
        let samples = self.open.samples + self.open.histograms;
        if samples > 0 && samples + most_samples > self.max_samples {
            self.close();
        }
    }

    fn put(&mut self, series: &Series<'_>, messages: &[Message], fields: &[u8]) {
        if let Some(relabelled) = &mut self.relabelled {
            if let Some(labels) = relabelled.take(series, messages, fields) {
                for message in messages {
                    write_message(&mut self.message, labels, fields, message);
                    count(&mut self.open, message);
                }
            }
            return;
        }
        for message in messages {
            let fields = fields.get(message.fields.clone()).unwrap_or_default();
            self.begin_series(series.labels, series.name, series.le, fields.len());
            self.message.extend_from_slice(fields);
            count(&mut self.open, message);
        }
    }

    /// Write a series up to its labels; `fields_len` bytes must follow.
    fn begin_series(&mut self, labels: &SeriesLabels, name: &[u8], le: Option<&str>, fields_len: usize) {
        let le_len = le.map_or(labels.own_le.len(), |le| label_len(LE, le.as_bytes()));
        let length = labels.before_name.len()
            + label_len(NAME, name)
            + labels.name_to_le.len()
            + le_len
            + labels.after_le.len()
            + fields_len;
        let out = &mut self.message;
        out.push(0x0a);
        put_varint(out, length as u64);
        out.extend_from_slice(&labels.before_name);
        put_label(out, NAME, name);
        out.extend_from_slice(&labels.name_to_le);
        match le {
            Some(le) => put_label(out, LE, le.as_bytes()),
            None => out.extend_from_slice(&labels.own_le),
        }
        out.extend_from_slice(&labels.after_le);
    }

    fn close(&mut self) {
        // The encoder refuses only messages of 4 GiB; a batch is far below.
        if let Ok(body) = self.encoder.compress_vec(&self.message) {
            self.open.body = body;
            self.batches.push(std::mem::take(&mut self.open));
        }
        self.message.clear();
    }

    fn finish(mut self) -> Encoded {
        let mut left_out = LeftOut::default();
        if let Some(mut relabelled) = self.relabelled.take() {
            for ended in relabelled.take_ended() {
                let samples = ended
                    .messages
                    .iter()
                    .map(|each| each.samples + each.histograms)
                    .sum();
                self.make_room(samples);
                for message in &ended.messages {
                    write_message(&mut self.message, &ended.labels, &ended.fields, message);
                    count(&mut self.open, message);
                }
            }
            left_out = relabelled.left_out;
        }
        if self.open.series > 0 {
            self.close();
        }
        Encoded {
            batches: self.batches,
            left_out,
        }
    }
}

fn write_message(out: &mut Vec<u8>, labels: &[u8], fields: &[u8], message: &Message) {
    let fields = fields.get(message.fields.clone()).unwrap_or_default();
    out.push(0x0a);
    put_varint(out, (labels.len() + fields.len()) as u64);
    out.extend_from_slice(labels);
    out.extend_from_slice(fields);
}

fn count(open: &mut WriteBatch, message: &Message) {
    open.series += 1;
    open.samples += message.samples;
    open.histograms += message.histograms;
    open.exemplars += message.exemplars;
}

fn put_sample(out: &mut Vec<u8>, value_tag: u8, time_tag: u8, value: f64, at_ms: i64) {
    out.push(value_tag);
    out.extend_from_slice(&value.to_le_bytes());
    out.push(time_tag);
    put_varint(out, at_ms as u64);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::native_schema::Schema;

    fn fields(message: &[u8], wanted: u32) -> Vec<&[u8]> {
        let mut cursor = Cursor::new(message, "test");
        let mut found = Vec::new();
        loop {
            match cursor.tag().unwrap() {
                0 => return found,
                tag if tag == bytes_tag(wanted) => found.push(cursor.bytes().unwrap()),
                tag => cursor.skip(tag).unwrap(),
            }
        }
    }

    fn labels_of(series: &[u8]) -> Vec<(String, String)> {
        let text = |label, field| String::from_utf8(fields(label, field)[0].to_vec()).unwrap();
        let labels = fields(series, 1);
        labels
            .iter()
            .map(|label| (text(label, 1), text(label, 2)))
            .collect()
    }

    type LabelTexts = Vec<(String, String)>;

    /// Labels and values of each series of a batch.
    pub(crate) fn series_of(batch: &WriteBatch) -> Vec<(LabelTexts, Vec<f64>)> {
        let message = snap::raw::Decoder::new().decompress_vec(&batch.body).unwrap();
        let value = |sample: &&[u8]| f64::from_le_bytes(sample[1..9].try_into().unwrap());
        let samples = |series| fields(series, 2).iter().map(value).collect();
        let each = fields(&message, 1);
        each.iter()
            .map(|series| (labels_of(series), samples(series)))
            .collect()
    }

    fn written(
        entity: &[(&str, &str)],
        external: &[(&str, &str)],
        le: Option<&str>,
    ) -> Vec<(String, String)> {
        let pairs = entity
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let entity = label_set(pairs.collect());
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let external = ExternalLabels::new(&external.iter().map(owned).collect::<Vec<_>>());
        let mut labels = SeriesLabels::default();
        labels.set(&entity, &external);
        let mut writer = BatchWriter::new(10);
        writer.series(&labels, b"m", le, &[(1, 0.0), (2, 1.5)], None);
        let batches = writer.finish();
        let message = snap::raw::Decoder::new()
            .decompress_vec(&batches[0].body)
            .unwrap();
        let series = fields(&message, 1);
        assert_eq!(series.len(), 1);
        labels_of(series[0])
    }

    #[test]
    fn labels_are_sorted_and_external_ones_replace() {
        let labels = written(
            &[("A", "1"), ("client", "c"), ("server", "s"), ("zone", "z")],
            &[("cluster", "k"), ("zone", "y"), ("client", ""), ("__x", "u")],
            Some("0.1"),
        );
        let expected = [
            ("A", "1"),
            ("__name__", "m"),
            ("__x", "u"),
            ("cluster", "k"),
            ("le", "0.1"),
            ("server", "s"),
            ("zone", "y"),
        ];
        assert_eq!(
            labels,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn an_own_label_called_le_gives_way_on_bucket_series_only() {
        assert_eq!(written(&[("le", "own")], &[], None)[1].1, "own");
        assert_eq!(written(&[("le", "own")], &[], Some("+Inf"))[1].1, "+Inf");
    }

    #[test]
    fn a_full_batch_is_closed_between_entities() {
        let mut writer = BatchWriter::new(2);
        for _ in 0..5 {
            writer.next_entity(1);
            writer.series(&SeriesLabels::default(), b"m", None, &[(1, 1.0)], None);
        }
        let sizes: Vec<usize> = writer.finish().iter().map(|batch| batch.samples).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn the_empty_histogram_of_a_new_series_goes_ahead_of_its_exemplars() {
        let exemplar = |trace: &str, seconds| ExemplarOut {
            label: "traceID",
            trace: trace.to_owned(),
            seconds,
        };
        let value = NativeValue::Empty(Schema::FINEST);
        let samples = [1, 300].map(|at_ms| NativeSample { at_ms, value });
        let exemplars = [(299, exemplar("a", 0.5)), (300, exemplar("b", 2.0))];
        let mut writer = BatchWriter::new(10);
        let labels = SeriesLabels::default();
        writer.native_series(&labels, b"m", CountForm::Integer, &samples, &exemplars);
        writer.native_series(&labels, b"n", CountForm::Integer, &samples, &[]);
        let batch = writer.finish().remove(0);
        assert_eq!(
            (batch.series, batch.samples, batch.histograms, batch.exemplars),
            (3, 0, 4, 2)
        );
        let message = snap::raw::Decoder::new().decompress_vec(&batch.body).unwrap();
        let series = fields(&message, 1);
        let written: Vec<_> = series
            .iter()
            .map(|series| {
                (
                    labels_of(series)[0].1.clone(),
                    fields(series, 4).len(),
                    fields(series, 3).len(),
                )
            })
            .collect();
        assert_eq!(
            written,
            [("m".into(), 1, 0), ("m".into(), 1, 2), ("n".into(), 2, 0)]
        );
        let exemplars = fields(series[1], 3);
        let times = exemplars.iter().map(|exemplar| &exemplar[exemplar.len() - 2..]);
        assert_eq!(times.collect::<Vec<_>>(), [[0xab, 2], [0xac, 2]]);
        assert_eq!(labels_of(exemplars[1]), [("traceID".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn native_samples_fill_a_batch_like_others() {
        let value = NativeValue::Stale;
        let mut writer = BatchWriter::new(3);
        for at_ms in 1..=2 {
            writer.next_entity(2);
            let sample = NativeSample { at_ms, value };
            let labels = SeriesLabels::default();
            writer.native_series(&labels, b"m", CountForm::Float, &[sample, sample], &[]);
        }
        let sizes: Vec<usize> = writer.finish().iter().map(|batch| batch.histograms).collect();
        assert_eq!(sizes, [2, 2]);
    }
}

//! Remote-Write 1.0 messages, written straight from the registry (remote-write §1.1, §1.3, §1.4).

use snap::raw::Encoder;

use crate::labels::Labels;
use crate::remote_write_histogram::{CountForm, HistogramEncoder, NativeSample};
use crate::wire::{delimited_len, put_varint, varint_len};

const NAME: &[u8] = b"__name__";
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

fn put_label(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
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

/// Cuts what it is given into batches of at most `max_samples` samples, those of native histograms included.
pub struct BatchWriter {
    max_samples: usize,
    message: Vec<u8>,
    histogram: HistogramEncoder,
    /// Fields of a series behind its labels, while their length is not known.
    fields: Vec<u8>,
    open: WriteBatch,
    batches: Vec<WriteBatch>,
    encoder: Encoder,
}

impl BatchWriter {
    /// Begin; a batch is closed before an entity that might not fit. One entity is never divided, however big.
    pub fn new(max_samples: usize) -> Self {
        Self {
            max_samples: max_samples.max(1),
            message: Vec::new(),
            histogram: HistogramEncoder::default(),
            fields: Vec::new(),
            open: WriteBatch::default(),
            batches: Vec::new(),
            encoder: Encoder::new(),
        }
    }

    /// Call between entities: all series of one histogram share a batch (remote-write §2.5 point 9).
    ///
    /// `most_samples` is what the entity may write.
    pub fn next_entity(&mut self, most_samples: usize) {
        let samples = self.open.samples + self.open.histograms;
        if samples > 0 && samples + most_samples > self.max_samples {
            self.close();
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
        let at_ms = samples.last().map_or(0, |(at_ms, _)| *at_ms);
        let samples_len: usize = samples
            .iter()
            .map(|(at_ms, _)| delimited_len(sample_len(*at_ms)))
            .sum();
        let exemplar_len = exemplar.map_or(0, |exemplar| delimited_len(exemplar_len(at_ms, exemplar)));
        self.begin_series(labels, name, le, samples_len + exemplar_len);
        let out = &mut self.message;
        for (at_ms, value) in samples {
            out.push(0x12);
            put_varint(out, sample_len(*at_ms) as u64);
            put_sample(out, 0x09, 0x10, *value, *at_ms);
        }
        if let Some(exemplar) = exemplar {
            put_exemplar(out, at_ms, exemplar);
            self.open.exemplars += 1;
        }
        self.open.samples += samples.len();
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
        if let [ahead @ .., last] = histograms
            && !ahead.is_empty()
            && !exemplars.is_empty()
        {
            self.native_message(labels, name, form, ahead, &[]);
            self.native_message(labels, name, form, &[*last], exemplars);
        } else {
            self.native_message(labels, name, form, histograms, exemplars);
        }
    }

    fn native_message(
        &mut self,
        labels: &SeriesLabels,
        name: &[u8],
        form: CountForm,
        histograms: &[NativeSample<'_>],
        exemplars: &[(i64, ExemplarOut<'_>)],
    ) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        for (at_ms, exemplar) in exemplars {
            put_exemplar(&mut fields, *at_ms, exemplar);
        }
        for sample in histograms {
            self.histogram.append(&mut fields, sample, form);
        }
        self.begin_series(labels, name, None, fields.len());
        self.message.extend_from_slice(&fields);
        self.fields = fields;
        self.open.histograms += histograms.len();
        self.open.exemplars += exemplars.len();
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
        self.open.series += 1;
    }

    fn close(&mut self) {
        // The encoder refuses only messages of 4 GiB; a batch is far below.
        if let Ok(body) = self.encoder.compress_vec(&self.message) {
            self.open.body = body;
            self.batches.push(std::mem::take(&mut self.open));
        }
        self.message.clear();
    }

    /// The finished batches.
    pub fn finish(mut self) -> Vec<WriteBatch> {
        if self.open.series > 0 {
            self.close();
        }
        self.batches
    }
}

fn put_sample(out: &mut Vec<u8>, value_tag: u8, time_tag: u8, value: f64, at_ms: i64) {
    out.push(value_tag);
    out.extend_from_slice(&value.to_le_bytes());
    out.push(time_tag);
    put_varint(out, at_ms as u64);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::native_schema::Schema;
    use crate::remote_write_histogram::NativeValue;
    use crate::wire::{Cursor, bytes_tag};

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

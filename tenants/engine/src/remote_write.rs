//! Remote-write messages, written straight from the registry: what is common to both protocols (remote-write §1).

use std::ops::Range;
use std::sync::Arc;

use snap::raw::Encoder;
use xxhash_rust::xxh3::xxh3_64;

use crate::family::{Family, Metadata, MetricKind};
use crate::labels::Labels;
use crate::relabel::Relabel;
use crate::relabelled_series::{LeftOut, RelabelledSeries};
use crate::remote_write_1::{self, Fields};
use crate::remote_write_2::{self, Request};
use crate::remote_write_histogram::{CountForm, HistogramEncoder, NativeSample, NativeValue};
use crate::wire::{Cursor, bytes_tag, fixed64_tag, varint_tag};

/// Label that holds the name of the metric.
pub(crate) const NAME: &[u8] = b"__name__";
pub(crate) const LE: &[u8] = b"le";
/// A batch whose message has become larger takes no further entity. Usual ones have not even a quarter when they are full
/// of samples; long label values would otherwise make them larger than receivers take (32 MiB, remote-write §1.3).
const MOST_MESSAGE_BYTES: usize = 4 << 20;
/// Receivers drop an exemplar whose label is longer, name and value together (remote-write §1.2).
const MOST_EXEMPLAR_CHARACTERS: usize = 128;

/// The one NaN that says "this series ended" (remote-write §1.5).
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Which message a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Remote-Write 1.0.
    #[default]
    One,
    /// Remote-Write 2.0.
    Two,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::One, Self::Two];

    /// The name of its message, which tells them apart in the content type (remote-write §1.3).
    pub fn message(self) -> &'static str {
        match self {
            Self::One => "prometheus.WriteRequest",
            Self::Two => "io.prometheus.write.v2.Request",
        }
    }

    /// The protocol whose message has this name.
    pub fn of(message: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.message() == message)
    }
}

/// One compressed message.
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
    /// Of the samples, those with a later one of their series behind them.
    pub ahead: usize,
    /// Which part of the series it is of.
    pub lane: usize,
    /// How many parts there are; 0 counts as 1.
    pub lanes: usize,
}

/// The labels of one entity's series, external labels included, encoded once for all its metrics.
#[derive(Debug, Default)]
pub struct SeriesLabels {
    pub(crate) before_name: Vec<u8>,
    pub(crate) name_to_le: Vec<u8>,
    /// A label of the entity that is itself called `le`: `_bucket` series put theirs in its place.
    pub(crate) own_le: Vec<u8>,
    pub(crate) after_le: Vec<u8>,
}

/// A metric of an entity.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    /// Name of the series.
    pub name: &'a [u8],
    /// What is said of its family.
    pub metadata: Metadata,
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

impl ExemplarOut<'_> {
    fn fits(&self) -> bool {
        self.label.chars().count() + self.trace.chars().count() <= MOST_EXEMPLAR_CHARACTERS
    }
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
        remote_write_1::put_label(part, name, value);
    }

    pub(crate) fn len_without_le(&self) -> usize {
        self.before_name.len() + self.name_to_le.len() + self.after_le.len()
    }
}

/// Encodes series for each output, and cuts them into batches of at most `max_samples` samples, those of native
/// histograms included, and of about [`MOST_MESSAGE_BYTES`].
pub struct BatchWriter {
    labels: SeriesLabels,
    histogram: HistogramEncoder,
    /// Samples or histograms of a series, and its exemplars, the same for all outputs of a protocol.
    one: Vec<u8>,
    two: Vec<u8>,
    exemplars: Vec<u8>,
    outputs: Vec<Output>,
}

/// What an output asks for.
#[derive(Debug, Clone, Default)]
pub struct OutputSpec {
    /// `None`: every series as it is.
    pub rules: Option<Arc<Relabel>>,
    /// Which messages.
    pub protocol: Protocol,
    /// Counters carry exemplars too.
    pub counter_exemplars: bool,
    /// Into how many parts label sets are divided, each with batches of its own: always the same one in the same part.
    /// 0 counts as 1, and so does any number where rules change labels: there several may become one.
    pub lanes: usize,
}

/// What one output came to.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The finished batches.
    pub batches: Vec<WriteBatch>,
    /// Series that its rules made impossible to send.
    pub left_out: LeftOut,
}

/// A `TimeSeries` message without its labels: where its parts are in [`Fields`], and what is in them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) points: Range<usize>,
    pub(crate) exemplars: Range<usize>,
    /// Since when the series counts; 0: it does not count, or that is not known.
    pub(crate) start_ms: i64,
    pub(crate) samples: usize,
    pub(crate) histograms: usize,
    pub(crate) exemplar_count: usize,
}

impl BatchWriter {
    /// Begin, with one output that takes every series as it is.
    ///
    /// A batch is closed before an entity that might not fit. One entity is never divided, however big.
    pub fn new(max_samples: usize, protocol: Protocol) -> Self {
        let output = OutputSpec {
            protocol,
            ..OutputSpec::default()
        };
        Self::with_outputs(max_samples, &[output])
    }

    /// Begin, with these outputs. Without any, nothing is encoded.
    pub fn with_outputs(max_samples: usize, outputs: &[OutputSpec]) -> Self {
        let output = |asked: &OutputSpec| {
            let relabelled = asked.rules.clone().map(RelabelledSeries::new);
            let may_collide = relabelled.as_ref().is_some_and(RelabelledSeries::may_collide);
            let lanes = if may_collide { 1 } else { asked.lanes.max(1) };
            Output {
                max_samples: max_samples.max(1),
                relabelled,
                counter_exemplars: asked.counter_exemplars,
                message: OpenMessage::new(asked.protocol),
                metadata: Vec::new(),
                open: WriteBatch::default(),
                lane: 0,
                parked: (0..lanes)
                    .map(|_| (OpenMessage::new(asked.protocol), WriteBatch::default()))
                    .collect(),
                batches: Vec::new(),
                whole: Vec::new(),
                encoder: Encoder::new(),
            }
        };
        Self {
            labels: SeriesLabels::default(),
            histogram: HistogramEncoder::default(),
            one: Vec::new(),
            two: Vec::new(),
            exemplars: Vec::new(),
            outputs: outputs.iter().map(output).collect(),
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

    /// Whether exemplars of counters would be sent.
    pub fn has_counter_exemplars(&self) -> bool {
        self.outputs.iter().any(|output| output.counter_exemplars)
    }

    /// Call between entities: all series of one histogram share a batch (remote-write §2.5 point 9).
    ///
    /// `entity` is its canonical label set; `most_samples` is what it may write.
    pub fn next_entity(&mut self, entity: &[u8], external: &ExternalLabels, most_samples: usize) {
        if self.outputs.is_empty() {
            return;
        }
        self.labels.set(entity, external);
        for output in &mut self.outputs {
            output.turn_to(entity);
            output.make_room(most_samples);
            if let OpenMessage::Two(request) = &mut output.message {
                request.forget_entity();
            }
        }
    }

    /// Write one series with its samples, oldest first. `start_ms` is since when it counts, 0 if it does not.
    pub fn series(
        &mut self,
        metric: &Metric<'_>,
        le: Option<&str>,
        samples: &[(i64, f64)],
        start_ms: i64,
        exemplar: Option<&ExemplarOut<'_>>,
    ) {
        let [has_one, has_two] = Protocol::ALL.map(|protocol| self.writes(protocol));
        self.one.clear();
        self.two.clear();
        self.exemplars.clear();
        for (at_ms, value) in samples {
            if has_one {
                remote_write_1::put_sample(&mut self.one, *at_ms, *value);
            }
            if has_two {
                remote_write_2::put_sample(&mut self.two, *at_ms, *value, start_ms);
            }
        }
        let last = samples.last();
        let exemplar = exemplar.filter(|exemplar| exemplar.fits());
        if let Some(exemplar) = exemplar {
            let at_ms = last.map_or(0, |(at_ms, _)| *at_ms);
            remote_write_1::put_exemplar(&mut self.exemplars, at_ms, exemplar);
        }
        let message = |points: &[u8]| Message {
            points: 0..points.len(),
            exemplars: 0..self.exemplars.len(),
            start_ms,
            samples: samples.len(),
            histograms: 0,
            exemplar_count: usize::from(exemplar.is_some()),
        };
        let messages = [message(&self.one), message(&self.two)];
        let series = Series {
            labels: &self.labels,
            metric: *metric,
            le,
            ends: last.is_some_and(|(_, value)| value.to_bits() == STALE.to_bits()),
        };
        for output in &mut self.outputs {
            let [one, two] = &messages;
            let (message, points) = match output.message {
                OpenMessage::One(_) => (one, &self.one),
                OpenMessage::Two(_) => (two, &self.two),
            };
            let fields = Fields {
                points,
                exemplars: &self.exemplars,
            };
            output.put(&series, std::slice::from_ref(message), &fields);
        }
    }

    /// Write one series of native histograms, oldest first, and exemplars each at its own time, ascending.
    ///
    /// With 1.0 Prometheus takes the exemplars of a message before its histograms, and none for a series that it does not
    /// know. What precedes the last histogram therefore goes ahead in a message of its own if there are exemplars: the
    /// empty histogram of a new series makes it known. With 2.0 exemplars come last, and one message says it all.
    pub fn native_series(
        &mut self,
        metric: &Metric<'_>,
        form: CountForm,
        histograms: &[NativeSample<'_>],
        start_ms: i64,
        exemplars: &[(i64, ExemplarOut<'_>)],
    ) {
        self.one.clear();
        self.two.clear();
        self.exemplars.clear();
        let [has_one, has_two] = Protocol::ALL.map(|protocol| self.writes(protocol));
        let mut ahead_len = 0;
        for sample in histograms {
            if has_one {
                ahead_len = self.one.len();
                self.histogram
                    .append(&mut self.one, sample, form, Protocol::One, start_ms);
            }
            if has_two {
                self.histogram
                    .append(&mut self.two, sample, form, Protocol::Two, start_ms);
            }
        }
        let fitting = exemplars.iter().filter(|(_, exemplar)| exemplar.fits());
        let mut exemplar_count = 0;
        for (at_ms, exemplar) in fitting {
            remote_write_1::put_exemplar(&mut self.exemplars, *at_ms, exemplar);
            exemplar_count += 1;
        }
        let series = Series {
            labels: &self.labels,
            metric: *metric,
            le: None,
            ends: histograms
                .last()
                .is_some_and(|sample| matches!(sample.value, NativeValue::Stale)),
        };
        let whole = |points: &[u8]| Message {
            points: 0..points.len(),
            exemplars: 0..self.exemplars.len(),
            start_ms,
            samples: 0,
            histograms: histograms.len(),
            exemplar_count,
        };
        let two = [whole(&self.two)];
        let one = whole(&self.one);
        let one = if exemplar_count > 0 && ahead_len > 0 {
            let ahead = Message {
                points: 0..ahead_len,
                exemplars: 0..0,
                histograms: histograms.len() - 1,
                exemplar_count: 0,
                ..one
            };
            let last = Message {
                points: ahead_len..self.one.len(),
                histograms: 1,
                ..one
            };
            vec![ahead, last]
        } else {
            vec![one]
        };
        for output in &mut self.outputs {
            let (messages, points) = match output.message {
                OpenMessage::One(_) => (&*one, &self.one),
                OpenMessage::Two(_) => (&two[..], &self.two),
            };
            let fields = Fields {
                points,
                exemplars: &self.exemplars,
            };
            output.put(&series, messages, &fields);
        }
    }

    fn writes(&self, protocol: Protocol) -> bool {
        self.outputs
            .iter()
            .any(|output| output.message.protocol() == protocol)
    }

    /// Say what a metric is: with 1.0 once in a collection, in its last batch; with 2.0 every series has said it. Not
    /// where rules may have renamed it.
    pub fn describe(&mut self, family: &Family) {
        for output in &mut self.outputs {
            let may_rename = output
                .relabelled
                .as_ref()
                .is_some_and(RelabelledSeries::may_collide);
            if let OpenMessage::One(_) = output.message
                && !may_rename
            {
                remote_write_1::put_metadata(&mut output.metadata, family.name.as_bytes(), &family.metadata);
            }
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
    pub(crate) labels: &'s SeriesLabels,
    pub(crate) metric: Metric<'s>,
    pub(crate) le: Option<&'s str>,
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
            .chain([(NAME, self.metric.name)])
            .chain(read_labels(&self.labels.name_to_le))
            .chain(self.le.map(|le| (LE, le.as_bytes())))
            .chain(read_labels(own_le))
            .chain(read_labels(&self.labels.after_le))
    }
}

/// Read what [`remote_write_1::put_label`] has written, up to the first field that is no label.
pub(crate) fn read_labels(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut labels = Cursor::new(encoded, "labels");
    std::iter::from_fn(move || {
        let is_label = labels.tag().ok()? == bytes_tag(1);
        let mut label = Cursor::new(labels.bytes().ok().filter(|_| is_label)?, "label");
        let mut part = || label.tag().and_then(|_| label.bytes()).ok();
        Some((part()?, part()?))
    })
}

/// Time and value of an exemplar of a 1.0 message.
pub(crate) fn read_exemplar(encoded: &[u8]) -> Option<(i64, f64)> {
    let mut cursor = Cursor::new(encoded, "exemplar");
    let (mut at_ms, mut value) = (0, 0.0);
    loop {
        match cursor.tag().ok()? {
            0 => return Some((at_ms, value)),
            tag if tag == fixed64_tag(2) => value = f64::from_bits(cursor.fixed64().ok()?),
            tag if tag == varint_tag(3) => at_ms = cursor.varint().ok()? as i64,
            tag => cursor.skip(tag).ok()?,
        }
    }
}

/// The message that is being written.
enum OpenMessage {
    One(Vec<u8>),
    Two(Box<Request>),
}

impl OpenMessage {
    fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::One => Self::One(Vec::new()),
            Protocol::Two => Self::Two(Box::default()),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Self::One(_) => Protocol::One,
            Self::Two(_) => Protocol::Two,
        }
    }

    /// Bytes it has so far, uncompressed.
    fn size(&self) -> usize {
        match self {
            Self::One(message) => message.len(),
            Self::Two(request) => request.size(),
        }
    }

    fn put_series(&mut self, series: &Series<'_>, message: &Message, fields: &Fields<'_>) {
        match self {
            Self::One(out) => remote_write_1::put_series(out, series, message, fields),
            Self::Two(request) => request.put_series(series, message, fields),
        }
    }

    /// Write a series whose labels are encoded as in 1.0.
    fn put_encoded(&mut self, labels: &[u8], metadata: &Metadata, message: &Message, fields: &Fields<'_>) {
        match self {
            Self::One(out) => remote_write_1::put_encoded(out, labels, message, fields),
            Self::Two(request) => request.put_encoded(labels, metadata, message, fields),
        }
    }
}

/// The batches of one output.
struct Output {
    max_samples: usize,
    /// `None`: series are sent as they are.
    relabelled: Option<RelabelledSeries>,
    counter_exemplars: bool,
    message: OpenMessage,
    /// What the last batch says of metrics.
    metadata: Vec<u8>,
    open: WriteBatch,
    /// The lane of `message` and `open`; those of the others are parked, and nothing is at this one's place.
    lane: usize,
    parked: Vec<(OpenMessage, WriteBatch)>,
    batches: Vec<WriteBatch>,
    /// Held for reuse.
    whole: Vec<u8>,
    encoder: Encoder,
}

impl Output {
    /// Go on in the lane of a label set. Its hash must be the same in every process: what waits on disk is in lanes too.
    fn turn_to(&mut self, entity: &[u8]) {
        if self.parked.len() > 1 {
            self.park((xxh3_64(entity) % self.parked.len() as u64) as usize);
        }
    }

    fn park(&mut self, next: usize) {
        if next == self.lane {
            return;
        }
        for place in [self.lane, next] {
            if let Some((message, open)) = self.parked.get_mut(place) {
                std::mem::swap(message, &mut self.message);
                std::mem::swap(open, &mut self.open);
            }
        }
        self.lane = next;
    }

    fn make_room(&mut self, most_samples: usize) {
        let samples = self.open.samples + self.open.histograms;
        let is_full = samples + most_samples > self.max_samples || self.message.size() > MOST_MESSAGE_BYTES;
        if samples > 0 && is_full {
            self.close();
        }
    }

    fn put(&mut self, series: &Series<'_>, messages: &[Message], fields: &Fields<'_>) {
        let points: usize = messages
            .iter()
            .map(|message| message.samples + message.histograms)
            .sum();
        let bare: Vec<Message>;
        let mut messages = messages;
        if !self.counter_exemplars
            && series.metric.metadata.kind == MetricKind::Counter
            && messages.iter().any(|message| message.exemplar_count > 0)
        {
            bare = messages.iter().map(Message::without_exemplars).collect();
            messages = &bare;
        }
        if let Some(relabelled) = &mut self.relabelled {
            let Some(labels) = relabelled.take(series, messages, fields) else {
                return;
            };
            for message in messages {
                self.message
                    .put_encoded(labels, &series.metric.metadata, message, fields);
                count(&mut self.open, message);
            }
            self.open.ahead += points.saturating_sub(1);
            return;
        }
        for message in messages {
            self.message.put_series(series, message, fields);
            count(&mut self.open, message);
        }
        self.open.ahead += points.saturating_sub(1);
    }

    fn close(&mut self) {
        let whole = match &mut self.message {
            OpenMessage::One(message) => message,
            OpenMessage::Two(request) => {
                self.whole.clear();
                request.write(&mut self.whole);
                request.clear();
                &mut self.whole
            }
        };
        // The encoder refuses only messages of 4 GiB; a batch is far below.
        if let Ok(body) = self.encoder.compress_vec(whole) {
            self.open.body = body;
            self.open.lane = self.lane;
            self.open.lanes = self.parked.len();
            self.batches.push(std::mem::take(&mut self.open));
        }
        whole.clear();
    }

    fn finish(mut self) -> Encoded {
        let mut left_out = LeftOut::default();
        if let Some(mut relabelled) = self.relabelled.take() {
            for ended in relabelled.take_ended() {
                let samples: usize = ended
                    .messages
                    .iter()
                    .map(|each| each.samples + each.histograms)
                    .sum();
                self.make_room(samples);
                for message in &ended.messages {
                    self.message
                        .put_encoded(&ended.labels, &ended.metadata, message, &ended.fields());
                    count(&mut self.open, message);
                }
                self.open.ahead += samples.saturating_sub(1);
            }
            left_out = relabelled.left_out;
        }
        for lane in 0..self.parked.len() {
            self.park(lane);
            if self.open.series > 0 {
                if let OpenMessage::One(message) = &mut self.message {
                    message.append(&mut self.metadata);
                }
                self.close();
            }
        }
        Encoded {
            batches: self.batches,
            left_out,
        }
    }
}

impl Message {
    fn without_exemplars(&self) -> Self {
        Self {
            exemplars: 0..0,
            exemplar_count: 0,
            ..self.clone()
        }
    }
}

fn count(open: &mut WriteBatch, message: &Message) {
    open.series += 1;
    open.samples += message.samples;
    open.histograms += message.histograms;
    open.exemplars += message.exemplar_count;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::native_schema::Schema;

    /// A metric of which nothing is said.
    pub(crate) fn metric(name: &[u8]) -> Metric<'_> {
        Metric {
            name,
            metadata: Metadata {
                kind: MetricKind::Histogram,
                ..Metadata::default()
            },
        }
    }

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
        let mut writer = BatchWriter::new(10, Protocol::One);
        writer.next_entity(&entity, &external, 2);
        writer.series(&metric(b"m"), le, &[(1, 0.0), (2, 1.5)], 0, None);
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
        let mut writer = BatchWriter::new(2, Protocol::One);
        for _ in 0..5 {
            writer.next_entity(&[], &ExternalLabels::default(), 1);
            writer.series(&metric(b"m"), None, &[(1, 1.0)], 0, None);
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
        let mut writer = BatchWriter::new(10, Protocol::One);
        writer.native_series(&metric(b"m"), CountForm::Integer, &samples, 0, &exemplars);
        writer.native_series(&metric(b"n"), CountForm::Integer, &samples, 0, &[]);
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
        let mut writer = BatchWriter::new(3, Protocol::One);
        for at_ms in 1..=2 {
            writer.next_entity(&[], &ExternalLabels::default(), 2);
            let sample = NativeSample { at_ms, value };
            writer.native_series(&metric(b"m"), CountForm::Float, &[sample, sample], 0, &[]);
        }
        let sizes: Vec<usize> = writer.finish().iter().map(|batch| batch.histograms).collect();
        assert_eq!(sizes, [2, 2]);
    }

    #[test]
    fn an_exemplar_with_too_long_a_label_is_left_out_in_both_protocols() {
        let label = "l".repeat(126);
        for (trace, is_sent) in [("ab", true), ("abc", false)] {
            let exemplar = ExemplarOut {
                label: &label,
                trace: trace.to_owned(),
                seconds: 1.0,
            };
            for protocol in Protocol::ALL {
                let mut writer = BatchWriter::new(10, protocol);
                writer.series(&metric(b"m"), None, &[(5, 1.0)], 2, Some(&exemplar));
                let exemplars = [(5, exemplar.clone())];
                let value = NativeValue::Empty(Schema::FINEST);
                let samples = [NativeSample { at_ms: 5, value }];
                writer.native_series(&metric(b"n"), CountForm::Integer, &samples, 2, &exemplars);
                let batch = writer.finish().remove(0);
                assert_eq!(batch.exemplars, if is_sent { 2 } else { 0 }, "{trace}");
            }
        }
    }

    #[test]
    fn counters_have_exemplars_only_where_they_are_asked_for() {
        let counter = Metric {
            name: b"m_total",
            metadata: Metadata::default(),
        };
        let exemplar = ExemplarOut {
            label: "traceID",
            trace: "a".to_owned(),
            seconds: 1.0,
        };
        let output = |counter_exemplars| OutputSpec {
            counter_exemplars,
            ..OutputSpec::default()
        };
        let mut writer = BatchWriter::with_outputs(10, &[output(true), output(false)]);
        writer.series(&counter, None, &[(5, 1.0)], 2, Some(&exemplar));
        let counts = writer
            .finish_each()
            .into_iter()
            .map(|encoded| encoded.batches[0].exemplars);
        assert_eq!(counts.collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_message_of_2_0_to_the_byte() {
        let mut writer = BatchWriter::new(10, Protocol::Two);
        let entity = label_set(vec![(b"a", b"1".as_slice()), (b"z", b"2")]);
        writer.next_entity(&entity, &ExternalLabels::default(), 2);
        let metric = Metric {
            name: b"m_bucket",
            metadata: Metadata {
                kind: MetricKind::Histogram,
                help: "Help.",
                unit: "seconds",
            },
        };
        writer.series(&metric, Some("+Inf"), &[(3, 0.0), (300, 1.5)], 3, None);
        let batch = writer.finish().remove(0);
        let message = snap::raw::Decoder::new().decompress_vec(&batch.body).unwrap();
        let mut expected = Vec::new();
        let symbols: [&[u8]; 11] = [
            b"",
            b"__name__",
            b"le",
            b"a",
            b"1",
            b"z",
            b"2",
            b"m_bucket",
            b"+Inf",
            b"Help.",
            b"seconds",
        ];
        for symbol in symbols {
            expected.extend([0x22, symbol.len() as u8]);
            expected.extend(symbol);
        }
        let series = [
            &[0x0a, 8, 1, 7, 3, 4, 2, 8, 5, 6][..],
            &[0x2a, 6, 0x08, 3, 0x18, 9, 0x20, 10],
            &[0x30, 3],
            &[0x12, 11, 0x10, 3, 0x09],
            &0f64.to_le_bytes(),
            &[0x12, 14, 0x10, 0xac, 2, 0x18, 3, 0x09],
            &1.5f64.to_le_bytes(),
        ]
        .concat();
        expected.extend([0x2a, series.len() as u8]);
        expected.extend(series);
        assert_eq!(message, expected);
    }
}

//! Batches read back: to say one in the older protocol, to divide one that its receiver does not take whole, and one that
//! no receiver would take twice.
//!
//! Only what [`crate::remote_write`] has written is read; everything else is refused.

use std::collections::BTreeMap;

use snap::raw::{Decoder, Encoder, decompress_len};

use crate::error::{FrameError, WireError};
use crate::remote_write::{NAME, Protocol, WriteBatch};
use crate::remote_write_1::{put_described, put_label, put_sample};
use crate::symbols::Symbols;
use crate::wire::{Cursor, bytes_tag, delimited_len, fixed64_tag, put_varint, varint_tag};

/// Bytes that one byte of snappy's format can stand for are fewer: a copy of 64 takes two.
const MOST_EXPANSION: usize = 64;
/// The number of histograms in the enumeration of types.
const HISTOGRAM: u64 = 3;
/// Series that belong to the metric without this ending.
const PARTS: [&[u8]; 3] = [b"_bucket", b"_count", b"_sum"];

type Result<T> = std::result::Result<T, FrameError>;

/// Say a 2.0 batch in 1.0, for a receiver that knows only that. Samples, histograms, exemplars and metadata are the
/// same; since when a series counts cannot be said there.
pub fn as_remote_write_1(body: &[u8]) -> Result<WriteBatch> {
    let message = decompressed(body)?;
    let request = Request::read(&message, Protocol::Two)?;
    let mut out = Vec::with_capacity(2 * message.len());
    let mut metadata = Vec::new();
    let mut described: Vec<&[u8]> = Vec::new();
    let mut batch = WriteBatch::default();
    for series in &request.series {
        let series = Series::read(series)?;
        let mut labels = Vec::new();
        let mut name = &[][..];
        let refs = request.texts(&series.refs)?;
        for pair in refs.chunks(2) {
            let [label, value] = pair else {
                return Err(refuse("a label has no value"));
            };
            if *label == NAME {
                name = value;
            }
            put_label(&mut labels, label, value);
        }
        let mut exemplars = Vec::new();
        for exemplar in &series.exemplars {
            request.put_exemplar_1(&mut exemplars, exemplar)?;
        }
        let mut points = Vec::new();
        for sample in &series.samples {
            let (at_ms, value) = read_sample(sample)?;
            put_sample(&mut points, at_ms, value);
        }
        // What is ahead makes a native series known, see `BatchWriter::native_series`.
        let mut ahead_len = 0;
        for histogram in &series.histograms {
            ahead_len = points.len();
            put_histogram_1(&mut points, histogram)?;
        }
        if ahead_len > 0 && !exemplars.is_empty() {
            put_message(
                &mut out,
                0x0a,
                &[&labels, points.get(..ahead_len).unwrap_or_default()],
            );
            points.drain(..ahead_len);
            batch.series += 1;
        }
        put_message(&mut out, 0x0a, &[&labels, &points, &exemplars]);
        series.count(&mut batch);
        let family = series.family(name);
        let (help, unit) = (request.text(series.help)?, request.text(series.unit)?);
        if !described.contains(&family) {
            described.push(family);
            put_described(&mut metadata, family, series.kind as u8, help, unit);
        }
    }
    out.extend_from_slice(&metadata);
    compressed(&out, batch)
}

/// Divide a batch by its series; one of a single series stays whole. Sent in this order, the samples of a series stay in
/// theirs.
///
/// One that has both kinds of series becomes those with samples and those with native histograms: a receiver that takes
/// none of the latter refuses each of them, and halves would have some everywhere. Any other is halved.
pub fn split_batch(body: &[u8], protocol: Protocol) -> Result<Vec<WriteBatch>> {
    let message = decompressed(body)?;
    let request = Request::read(&message, protocol)?;
    let (mut first, mut second): (Vec<&[u8]>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    for series in &request.series {
        let kind = if has_histograms(series, protocol)? {
            &mut second
        } else {
            &mut first
        };
        kind.push(series);
    }
    if first.is_empty() || second.is_empty() {
        let (earlier, later) = request.series.split_at(request.series.len() / 2);
        (first, second) = (earlier.to_vec(), later.to_vec());
    }
    let parts = [(first, &*request.metadata), (second, &[])];
    let parts = parts.into_iter().filter(|(series, _)| !series.is_empty());
    parts
        .map(|(series, metadata)| match protocol {
            Protocol::One => part_1(&series, metadata),
            Protocol::Two => request.part_2(&series),
        })
        .collect()
}

fn has_histograms(series: &[u8], protocol: Protocol) -> Result<bool> {
    let wanted = match protocol {
        Protocol::One => 4,
        Protocol::Two => 3,
    };
    let mut cursor = Cursor::new(series, "series");
    while let Some((number, _, _)) = next_field(&mut cursor)? {
        if number == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A batch in the steps that it has to be sent in. Each holds one sample of a series at most, so that it can be sent
/// again: a receiver that has it already takes it for the newest of its series.
#[derive(Debug, Default)]
pub struct Steps {
    /// What precedes the last samples, such as zeros: oldest first.
    pub ahead: Vec<WriteBatch>,
    /// The series that have no more than one sample.
    pub alone: Option<WriteBatch>,
    /// The last samples of the series that have more; when one is sent nothing of `ahead` can be sent any more.
    pub last: Option<WriteBatch>,
}

/// Divide a batch into its steps.
pub fn steps(body: &[u8], protocol: Protocol) -> Result<Steps> {
    let message = decompressed(body)?;
    let request = Request::read(&message, protocol)?;
    let mut ahead: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
    let (mut alone, mut last): (Vec<&[u8]>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut dated = Vec::with_capacity(request.series.len());
    for series in &request.series {
        dated.push((*series, Dated::read(series, protocol)?));
    }
    let now_ms = dated
        .iter()
        .flat_map(|(_, series)| series.points.iter().map(|(at_ms, _)| *at_ms))
        .max()
        .unwrap_or_default();
    // A native series may be two messages, one behind the other: what is ahead of the last, and that.
    let mut goes_on: &[u8] = &[];
    for (bytes, series) in &dated {
        let (now, before): (Vec<_>, Vec<_>) = series.points.iter().partition(|(at_ms, _)| *at_ms >= now_ms);
        for (at_ms, point) in &before {
            let one = [&series.labels, *point, &series.said].concat();
            ahead.entry(*at_ms).or_default().push(one);
        }
        if before.is_empty() && goes_on != series.labels {
            alone.push(bytes);
        } else if !now.is_empty() {
            let points: Vec<&[u8]> = now.iter().map(|(_, point)| *point).collect();
            last.push([&series.labels, &*points.concat(), &series.exemplars, &series.said].concat());
        }
        goes_on = if now.is_empty() { &series.labels } else { &[] };
    }
    let mut metadata = &*request.metadata;
    let mut part = |series: &[&[u8]]| {
        let said = std::mem::take(&mut metadata);
        match protocol {
            _ if series.is_empty() => Ok(None),
            Protocol::One => part_1(series, said).map(Some),
            Protocol::Two => request.part_2(series).map(Some),
        }
    };
    // What is said of metrics is in the first part that there is.
    let mut steps = Steps::default();
    for series in ahead.values() {
        steps.ahead.extend(part(&borrowed(series))?);
    }
    steps.alone = part(&alone)?;
    steps.last = part(&borrowed(&last))?;
    Ok(steps)
}

fn borrowed(series: &[Vec<u8>]) -> Vec<&[u8]> {
    series.iter().map(|bytes| &**bytes).collect()
}

/// A series of a message of either protocol, by its samples and their times.
#[derive(Default)]
struct Dated<'m> {
    labels: Vec<u8>,
    points: Vec<(i64, &'m [u8])>,
    exemplars: Vec<u8>,
    /// Metadata, and since when it counts.
    said: Vec<u8>,
}

impl<'m> Dated<'m> {
    fn read(message: &'m [u8], protocol: Protocol) -> Result<Self> {
        let mut series = Self::default();
        let mut cursor = Cursor::new(message, "series");
        while let Some((number, raw, bytes)) = next_field(&mut cursor)? {
            match (protocol, number, bytes) {
                (_, 1, Some(_)) => series.labels.extend_from_slice(raw),
                (_, 2, Some(sample)) => series.points.push((read_sample(sample)?.0, raw)),
                (Protocol::One, 4, Some(histogram)) | (Protocol::Two, 3, Some(histogram)) => {
                    series.points.push((histogram_ms(histogram)?, raw));
                }
                (Protocol::One, 3, Some(_)) | (Protocol::Two, 4, Some(_)) => {
                    series.exemplars.extend_from_slice(raw);
                }
                (Protocol::Two, 5, Some(_)) | (Protocol::Two, 6, None) => series.said.extend_from_slice(raw),
                _ => return Err(refuse("a series has an unknown field")),
            }
        }
        Ok(series)
    }
}

fn histogram_ms(histogram: &[u8]) -> Result<i64> {
    let mut cursor = Cursor::new(histogram, "histogram");
    loop {
        match cursor.tag().map_err(unreadable)? {
            0 => return Ok(0),
            tag if tag == varint_tag(15) => return Ok(cursor.varint().map_err(unreadable)? as i64),
            tag => cursor.skip(tag).map_err(unreadable)?,
        }
    }
}

fn part_1(series: &[&[u8]], metadata: &[&[u8]]) -> Result<WriteBatch> {
    let mut out = Vec::new();
    let mut batch = WriteBatch::default();
    for bytes in series {
        put_message(&mut out, 0x0a, &[bytes]);
        batch.series += 1;
        let mut cursor = Cursor::new(bytes, "series");
        while let Some((number, _, _)) = next_field(&mut cursor)? {
            match number {
                2 => batch.samples += 1,
                3 => batch.exemplars += 1,
                4 => batch.histograms += 1,
                _ => {}
            }
        }
    }
    for bytes in metadata {
        put_message(&mut out, 0x1a, &[bytes]);
    }
    compressed(&out, batch)
}

/// The parts of a message, of either protocol.
struct Request<'m> {
    symbols: Vec<&'m [u8]>,
    series: Vec<&'m [u8]>,
    metadata: Vec<&'m [u8]>,
}

impl<'m> Request<'m> {
    fn read(message: &'m [u8], protocol: Protocol) -> Result<Self> {
        let mut request = Self {
            symbols: Vec::new(),
            series: Vec::new(),
            metadata: Vec::new(),
        };
        let mut cursor = Cursor::new(message, "request");
        while let Some((number, _, bytes)) = next_field(&mut cursor)? {
            let list = match (protocol, number) {
                (Protocol::One, 1) | (Protocol::Two, 5) => &mut request.series,
                (Protocol::One, 3) => &mut request.metadata,
                (Protocol::Two, 4) => &mut request.symbols,
                _ => return Err(refuse("it is not of this protocol")),
            };
            list.push(bytes.ok_or(refuse("a part of it is no message"))?);
        }
        Ok(request)
    }

    fn text(&self, number: u64) -> Result<&'m [u8]> {
        let text = usize::try_from(number)
            .ok()
            .and_then(|number| self.symbols.get(number));
        match text {
            Some(text) => Ok(text),
            // A message without symbols has nothing to say, and may say so.
            None if number == 0 => Ok(&[]),
            None => Err(refuse("a symbol is missing")),
        }
    }

    fn texts(&self, packed: &[u8]) -> Result<Vec<&'m [u8]>> {
        numbers(packed)?
            .into_iter()
            .map(|number| self.text(number))
            .collect()
    }

    fn put_exemplar_1(&self, out: &mut Vec<u8>, exemplar: &[u8]) -> Result<()> {
        let mut parts = Vec::new();
        let mut cursor = Cursor::new(exemplar, "exemplar");
        while let Some((number, raw, bytes)) = next_field(&mut cursor)? {
            match (number, bytes) {
                (1, Some(refs)) => {
                    for pair in self.texts(refs)?.chunks(2) {
                        let [label, value] = pair else {
                            return Err(refuse("a label has no value"));
                        };
                        put_label(&mut parts, label, value);
                    }
                }
                (2 | 3, None) => parts.extend_from_slice(raw),
                _ => return Err(refuse("an exemplar has an unknown field")),
            }
        }
        put_message(out, 0x1a, &[&parts]);
        Ok(())
    }

    /// A message of some of the series, with a table of the symbols that these use.
    fn part_2(&self, series: &[&[u8]]) -> Result<WriteBatch> {
        let mut symbols = Symbols::default();
        let mut batch = WriteBatch::default();
        let mut out = Vec::new();
        for bytes in series {
            let mut parts = Vec::with_capacity(bytes.len());
            let mut cursor = Cursor::new(bytes, "series");
            while let Some((number, raw, bytes)) = next_field(&mut cursor)? {
                match (number, bytes) {
                    (1, Some(refs)) => {
                        let refs = self.renumbered(refs, &mut symbols)?;
                        put_message(&mut parts, 0x0a, &[&refs]);
                    }
                    (2, Some(_)) => {
                        batch.samples += 1;
                        parts.extend_from_slice(raw);
                    }
                    (3, Some(_)) => {
                        batch.histograms += 1;
                        parts.extend_from_slice(raw);
                    }
                    (4, Some(exemplar)) => {
                        batch.exemplars += 1;
                        let exemplar = self.renumbered_exemplar(exemplar, &mut symbols)?;
                        put_message(&mut parts, 0x22, &[&exemplar]);
                    }
                    (5, Some(metadata)) => {
                        let metadata = self.renumbered_metadata(metadata, &mut symbols)?;
                        put_message(&mut parts, 0x2a, &[&metadata]);
                    }
                    (6, None) => parts.extend_from_slice(raw),
                    _ => return Err(refuse("a series has an unknown field")),
                }
            }
            batch.series += 1;
            put_message(&mut out, 0x2a, &[&parts]);
        }
        let whole = [symbols.encoded(), &out].concat();
        compressed(&whole, batch)
    }

    fn renumbered(&self, packed: &[u8], symbols: &mut Symbols) -> Result<Vec<u8>> {
        let mut refs = Vec::with_capacity(packed.len());
        for text in self.texts(packed)? {
            put_varint(&mut refs, u64::from(symbols.refer(text)));
        }
        Ok(refs)
    }

    fn renumbered_exemplar(&self, exemplar: &[u8], symbols: &mut Symbols) -> Result<Vec<u8>> {
        let mut parts = Vec::with_capacity(exemplar.len());
        let mut cursor = Cursor::new(exemplar, "exemplar");
        while let Some((number, raw, bytes)) = next_field(&mut cursor)? {
            match (number, bytes) {
                (1, Some(refs)) => put_message(&mut parts, 0x0a, &[&self.renumbered(refs, symbols)?]),
                (2 | 3, None) => parts.extend_from_slice(raw),
                _ => return Err(refuse("an exemplar has an unknown field")),
            }
        }
        Ok(parts)
    }

    fn renumbered_metadata(&self, metadata: &[u8], symbols: &mut Symbols) -> Result<Vec<u8>> {
        let mut parts = Vec::with_capacity(metadata.len());
        let mut cursor = Cursor::new(metadata, "metadata");
        loop {
            let tag = cursor.tag().map_err(unreadable)?;
            if tag == 0 {
                return Ok(parts);
            }
            let number = cursor.varint().map_err(unreadable)?;
            let number = match tag {
                KIND => number,
                HELP | UNIT => u64::from(symbols.refer(self.text(number)?)),
                _ => return Err(refuse("metadata has an unknown field")),
            };
            put_varint(&mut parts, u64::from(tag));
            put_varint(&mut parts, number);
        }
    }
}

const KIND: u32 = varint_tag(1);
const HELP: u32 = varint_tag(3);
const UNIT: u32 = varint_tag(4);

/// A series of a 2.0 message.
#[derive(Default)]
struct Series<'m> {
    refs: Vec<u8>,
    samples: Vec<&'m [u8]>,
    histograms: Vec<&'m [u8]>,
    exemplars: Vec<&'m [u8]>,
    kind: u64,
    help: u64,
    unit: u64,
}

impl<'m> Series<'m> {
    fn read(message: &'m [u8]) -> Result<Self> {
        let mut series = Self::default();
        let mut cursor = Cursor::new(message, "series");
        while let Some((number, _, bytes)) = next_field(&mut cursor)? {
            match (number, bytes) {
                (1, Some(refs)) => series.refs.extend_from_slice(refs),
                (2, Some(sample)) => series.samples.push(sample),
                (3, Some(histogram)) => series.histograms.push(histogram),
                (4, Some(exemplar)) => series.exemplars.push(exemplar),
                (5, Some(metadata)) => series.read_metadata(metadata)?,
                (6, None) => {}
                _ => return Err(refuse("a series has an unknown field")),
            }
        }
        Ok(series)
    }

    fn read_metadata(&mut self, metadata: &[u8]) -> Result<()> {
        let mut cursor = Cursor::new(metadata, "metadata");
        loop {
            let tag = cursor.tag().map_err(unreadable)?;
            if tag == 0 {
                return Ok(());
            }
            let number = cursor.varint().map_err(unreadable)?;
            match tag {
                KIND if number <= 7 => self.kind = number,
                HELP => self.help = number,
                UNIT => self.unit = number,
                _ => return Err(refuse("metadata has an unknown field")),
            }
        }
    }

    fn count(&self, batch: &mut WriteBatch) {
        batch.series += 1;
        batch.samples += self.samples.len();
        batch.histograms += self.histograms.len();
        batch.exemplars += self.exemplars.len();
    }

    /// The metric that the series belongs to.
    fn family<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        if self.kind != HISTOGRAM || !self.histograms.is_empty() {
            return name;
        }
        PARTS
            .iter()
            .find_map(|part| name.strip_suffix(*part))
            .unwrap_or(name)
    }
}

fn numbers(packed: &[u8]) -> Result<Vec<u64>> {
    let mut cursor = Cursor::new(packed, "numbers");
    let mut numbers = Vec::new();
    while !cursor.rest().is_empty() {
        numbers.push(cursor.varint().map_err(unreadable)?);
    }
    Ok(numbers)
}

fn read_sample(sample: &[u8]) -> Result<(i64, f64)> {
    let mut cursor = Cursor::new(sample, "sample");
    let (mut at_ms, mut value) = (0, 0.0);
    loop {
        match cursor.tag().map_err(unreadable)? {
            0 => return Ok((at_ms, value)),
            tag if tag == fixed64_tag(1) => {
                value = f64::from_bits(cursor.fixed64().map_err(unreadable)?);
            }
            tag if tag == varint_tag(2) => at_ms = cursor.varint().map_err(unreadable)? as i64,
            tag => cursor.skip(tag).map_err(unreadable)?,
        }
    }
}

/// A histogram as 1.0 has it: the same but for its start.
fn put_histogram_1(out: &mut Vec<u8>, histogram: &[u8]) -> Result<()> {
    let mut parts = Vec::with_capacity(histogram.len());
    let mut cursor = Cursor::new(histogram, "histogram");
    while let Some((number, raw, _)) = next_field(&mut cursor)? {
        if number != 17 {
            parts.extend_from_slice(raw);
        }
    }
    put_message(out, 0x22, &[&parts]);
    Ok(())
}

/// The next field: its number, all of its bytes, and its content if it has a length.
type Field<'m> = (u32, &'m [u8], Option<&'m [u8]>);

fn next_field<'m>(cursor: &mut Cursor<'m>) -> Result<Option<Field<'m>>> {
    let before = cursor.rest();
    let tag = cursor.tag().map_err(unreadable)?;
    if tag == 0 {
        return Ok(None);
    }
    let mut bytes = None;
    if tag == bytes_tag(tag >> 3) {
        bytes = Some(cursor.bytes().map_err(unreadable)?);
    } else {
        cursor.skip(tag).map_err(unreadable)?;
    }
    let raw = before.get(..before.len() - cursor.rest().len());
    Ok(Some((tag >> 3, raw.unwrap_or_default(), bytes)))
}

fn put_message(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(delimited_len(length));
    out.push(tag);
    put_varint(out, length as u64);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn decompressed(body: &[u8]) -> Result<Vec<u8>> {
    let fault = refuse("it is not in snappy's block format");
    let length = decompress_len(body).map_err(|_| fault)?;
    if length > MOST_EXPANSION * body.len() {
        return Err(fault);
    }
    Decoder::new().decompress_vec(body).map_err(|_| fault)
}

fn compressed(message: &[u8], mut batch: WriteBatch) -> Result<WriteBatch> {
    let body = Encoder::new().compress_vec(message);
    batch.body = body.map_err(|_| refuse("it is too large"))?;
    Ok(batch)
}

fn refuse(fault: &'static str) -> FrameError {
    FrameError { what: "batch", fault }
}

#[allow(clippy::needless_pass_by_value, reason = "as a function for map_err")]
fn unreadable(_: Box<WireError>) -> FrameError {
    refuse("it is not the message that it should be")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::remote_write::tests::metric;
    use crate::remote_write::{BatchWriter, ExternalLabels, STALE};

    /// A batch with these series.
    fn batch(protocol: Protocol, series: &[&[(i64, f64)]]) -> WriteBatch {
        let mut writer = BatchWriter::new(1000, protocol);
        for (number, samples) in series.iter().enumerate() {
            let number = number.to_string();
            let entity = label_set(vec![(&b"number"[..], number.as_bytes())]);
            writer.next_entity(&entity, &ExternalLabels::default(), samples.len());
            writer.series(&metric(b"calls"), None, samples, 1, None);
        }
        writer.finish().pop().unwrap()
    }

    fn counts(batch: &WriteBatch) -> (usize, usize) {
        (batch.series, batch.samples)
    }

    #[test]
    fn each_step_holds_one_sample_of_a_series() {
        let series: [&[(i64, f64)]; 4] = [
            &[(11, 0.0), (20, 5.0)],
            &[(20, 7.0)],
            &[(11, 0.0), (19, 5.0), (20, STALE)],
            &[(20, STALE)],
        ];
        for protocol in Protocol::ALL {
            let whole = batch(protocol, &series);
            assert_eq!(whole.ahead, 3);
            let steps = steps(&whole.body, protocol).unwrap();
            let ahead: Vec<_> = steps.ahead.iter().map(counts).collect();
            assert_eq!(
                ahead,
                [(2, 2), (1, 1)],
                "zeros, then what comes just before a marker"
            );
            assert_eq!(steps.alone.as_ref().map(counts), Some((2, 2)));
            assert_eq!(steps.last.as_ref().map(counts), Some((2, 2)));
        }
    }

    #[test]
    fn a_batch_without_anything_ahead_is_one_step() {
        for protocol in Protocol::ALL {
            let whole = batch(protocol, &[&[(20, 1.0)], &[(20, 2.0)]]);
            assert_eq!(whole.ahead, 0);
            let steps = steps(&whole.body, protocol).unwrap();
            assert!(steps.ahead.is_empty() && steps.last.is_none());
            assert_eq!(steps.alone.as_ref().map(counts), Some((2, 2)));
        }
    }
}

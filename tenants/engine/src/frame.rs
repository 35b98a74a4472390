//! The frame: what a gateway tells one shard about one request. Private to the engine.
//!
//! A frame is a projection of the request: label sets and service-graph halves are dictionary-encoded once, then each
//! span is a row of fixed width. Layout, little-endian: version and counts, the ends of the dictionaries' entries, their
//! arenas, the names of the halves' dimension slots, rows of the ledger, what became of each span, the hashes of those
//! that have no row, span rows, edge rows, weights where any is not one, XXH3 of all that.

use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::FrameError;
use crate::hash::hash_of_trace;
use crate::intern::Dictionary;
use crate::ledger::{ALL_ENTRIES, Entry, LedgerRows, Row};
use crate::multiplier::MAX_MULTIPLIER;
use crate::span::{SPAN_ID_LEN, TRACE_ID_LEN};

const VERSION: u32 = 3;
const DICTIONARIES: usize = 5;
const COUNTS: usize = 1 + 2 * DICTIONARIES + 8;
const HEADER: usize = COUNTS * 4;
const CHECKSUM: usize = 8;
const SPAN_ROW: usize = 36;
const EDGE_ROW: usize = 48;
const WEIGHT: usize = 8;
const FATE: usize = 4;
const HASH: usize = 8;

/// What span metrics need of one span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpanRow {
    /// Number of the label set in the frame's dictionary.
    pub set: u32,
    /// Canonical size of the span in bytes.
    pub size: u32,
    /// Duration.
    pub duration_ns: u64,
    /// Trace id as a number; zero: no exemplar.
    pub trace: u128,
    /// The span's status is ERROR.
    pub is_error: bool,
    /// What the span counts for (processors §0.7).
    pub weight: f64,
}

/// What service graphs need of one span.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EdgeRow {
    /// Number of the half in the frame's dictionary.
    pub half: u32,
    /// What the two halves of an edge have in common.
    pub key: EdgeKey,
    /// `SpanKind`: SERVER, CLIENT, PRODUCER or CONSUMER.
    pub kind: u8,
    /// The span's status is ERROR.
    pub is_error: bool,
    /// A client span that called a database (processors §2.6).
    pub is_database: bool,
    /// A filter kept the span out: its other half waits in vain (processors §2.5). Such a row has no half.
    pub is_marker: bool,
    /// The span's duration.
    pub duration_ns: u64,
    /// End of a client-side span, start of a server-side one.
    pub at_ns: u64,
    /// What the edge counts for, as far as this side knows.
    pub weight: f64,
}

/// Trace id, and the client-side span's id: its own, or the server-side span's parent. Lengths are part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeKey {
    /// Trace id as a number.
    pub trace: u128,
    /// Span id, padded with zeros.
    pub span: [u8; 8],
    /// Length of the trace id in bytes.
    pub trace_len: u8,
    /// Length of the span id in bytes; zero: the server-side span is a root.
    pub span_len: u8,
}

impl Hash for EdgeKey {
    /// The lengths tell keys apart only where senders do not keep to OTLP; they are left to the comparison.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64((self.trace >> 64) as u64);
        state.write_u64(self.trace as u64);
        state.write_u64(u64::from_le_bytes(self.span));
    }
}

impl SpanRow {
    /// The hash that decides which shard counts it, of a trace id of 16 bytes: what shards were cut anew for is told
    /// apart only where ids are OTLP's (`strict_ids` of a split).
    #[inline]
    pub fn trace_hash(&self) -> u64 {
        hash_of_trace(self.trace, TRACE_ID_LEN as u8)
    }
}

impl EdgeKey {
    /// The hash that decides which shard pairs it.
    #[inline]
    pub fn trace_hash(&self) -> u64 {
        hash_of_trace(self.trace, self.trace_len)
    }

    /// Whether the ids are no longer than a key can hold.
    #[inline]
    pub fn has_short_ids(&self) -> bool {
        usize::from(self.trace_len) <= TRACE_ID_LEN && usize::from(self.span_len) <= SPAN_ID_LEN
    }

    /// Build the key from raw ids of at most 16 and 8 bytes.
    pub fn new(trace_id: &[u8], span_id: &[u8]) -> Self {
        let span = <[u8; 8]>::try_from(span_id).unwrap_or_else(|_| {
            let mut padded = [0; 8];
            for (to, from) in padded.iter_mut().zip(span_id) {
                *to = *from;
            }
            padded
        });
        Self {
            trace: trace_number(trace_id),
            span,
            trace_len: trace_id.len() as u8,
            span_len: span_id.len() as u8,
        }
    }
}

/// A trace id of at most 16 bytes as a big-endian number: leading zeros do not count (processors §0.6).
#[inline]
pub fn trace_number(trace_id: &[u8]) -> u128 {
    if let Ok(bytes) = <[u8; 16]>::try_from(trace_id) {
        return u128::from_be_bytes(bytes);
    }
    trace_id
        .iter()
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What the rows of a kind count for; empty while all count for one.
#[derive(Debug, Default)]
struct Weights(Vec<f64>);

impl Weights {
    #[inline]
    fn push(&mut self, rows_before: usize, weight: f64) {
        if self.0.is_empty() {
            if weight.to_bits() == 1f64.to_bits() {
                return;
            }
            self.0.resize(rows_before, 1.0);
        }
        self.0.push(weight);
    }
}

/// Collects the rows of one shard.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// Label sets of span metrics.
    pub sets: Dictionary,
    /// Service-graph halves.
    pub halves: Dictionary,
    /// Label sets of `traces_target_info`.
    pub target_infos: Dictionary,
    /// Label sets of host info.
    pub host_infos: Dictionary,
    /// What the dimension slots of the halves hold, in the form of [`crate::service_graph_plan::ServiceGraphPlan`].
    pub slot_names: Vec<u8>,
    spans: Vec<u8>,
    edges: Vec<u8>,
    span_weights: Weights,
    edge_weights: Weights,
    /// Number of the service in the request, what becomes of the span in span metrics and in service graphs.
    fates: Vec<[u8; FATE]>,
    /// Trace hashes of the spans that have neither a span row nor the row of a half.
    hashes: Vec<u64>,
}

/// What became of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Number of its service.
    pub service: u32,
    /// In span metrics, or before both processors.
    pub in_metrics: Entry,
    /// In service graphs, or as `in_metrics`.
    pub in_graph: Entry,
}

impl FrameBuilder {
    /// Note what became of a span, after its rows were added.
    #[inline]
    pub fn note(&mut self, fate: Fate, trace_hash: u64) {
        // There are fewer services than that.
        let [low, high, ..] = fate.service.to_le_bytes();
        self.fates
            .push([low, high, fate.in_metrics as u8, fate.in_graph as u8]);
        if !fate.has_row() {
            self.hashes.push(trace_hash);
        }
    }

    /// Add a row for span metrics.
    #[inline]
    pub fn push_span(&mut self, row: &SpanRow) {
        self.span_weights.push(self.spans.len() / SPAN_ROW, row.weight);
        let mut bytes = [0u8; SPAN_ROW];
        bytes[0..4].copy_from_slice(&row.set.to_le_bytes());
        // The top bit of the size carries the error flag: a request, and so a span, is far below 2 GiB.
        let size = row.size & (u32::MAX >> 1) | u32::from(row.is_error) << 31;
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        bytes[8..16].copy_from_slice(&row.duration_ns.to_le_bytes());
        bytes[16..32].copy_from_slice(&row.trace.to_le_bytes());
        self.spans.extend_from_slice(&bytes);
    }

    /// Add a row for service graphs.
    #[inline]
    pub fn push_edge(&mut self, row: &EdgeRow) {
        self.edge_weights.push(self.edges.len() / EDGE_ROW, row.weight);
        let mut bytes = [0u8; EDGE_ROW];
        bytes[0..4].copy_from_slice(&row.half.to_le_bytes());
        bytes[4] = row.kind;
        bytes[5] = u8::from(row.is_error) | u8::from(row.is_database) << 1 | u8::from(row.is_marker) << 2;
        bytes[6] = row.key.trace_len;
        bytes[7] = row.key.span_len;
        bytes[8..24].copy_from_slice(&row.key.trace.to_le_bytes());
        bytes[24..32].copy_from_slice(&row.key.span);
        bytes[32..40].copy_from_slice(&row.duration_ns.to_le_bytes());
        bytes[40..48].copy_from_slice(&row.at_ns.to_le_bytes());
        self.edges.extend_from_slice(&bytes);
    }

    /// Whether there is nothing to tell a shard.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
            && self.edges.is_empty()
            && self.target_infos.ends().is_empty()
            && self.host_infos.ends().is_empty()
            && self.fates.is_empty()
    }

    /// Begin anew, in the memory that the last frame took.
    pub fn clear(&mut self) {
        for dictionary in [
            &mut self.sets,
            &mut self.halves,
            &mut self.target_infos,
            &mut self.host_infos,
        ] {
            dictionary.clear();
        }
        self.slot_names.clear();
        self.spans.clear();
        self.edges.clear();
        self.span_weights.0.clear();
        self.edge_weights.0.clear();
        self.fates.clear();
        self.hashes.clear();
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        let dictionaries = self.dictionaries().map(Dictionary::state_bytes);
        let weights = self.span_weights.0.capacity() + self.edge_weights.0.capacity();
        let fates = FATE * self.fates.capacity() + HASH * self.hashes.capacity();
        dictionaries.iter().sum::<usize>()
            + self.spans.capacity()
            + self.edges.capacity()
            + WEIGHT * weights
            + fates
    }

    fn dictionaries(&self) -> [&Dictionary; DICTIONARIES - 1] {
        [&self.sets, &self.halves, &self.target_infos, &self.host_infos]
    }

    /// The finished frame.
    ///
    /// `services` of the request, as [`Self::note`] numbers them.
    pub fn finish(&self, services: &Dictionary) -> Vec<u8> {
        self.finished(services, &[])
    }

    /// A frame that tells nothing but a ledger, as [`crate::ledger::Ledger::write`] wrote it.
    pub fn of_ledger(ledger: &[u8]) -> Vec<u8> {
        Self::default().finished(&Dictionary::default(), ledger)
    }

    fn finished(&self, services: &Dictionary, ledger: &[u8]) -> Vec<u8> {
        let [sets, halves, target_infos, host_infos] = self.dictionaries();
        let dictionaries = [sets, halves, target_infos, host_infos, services];
        let mut counts = vec![VERSION as usize];
        for dictionary in dictionaries {
            counts.extend([dictionary.ends().len(), dictionary.arena().len()]);
        }
        let (span_weights, edge_weights) = (&self.span_weights.0, &self.edge_weights.0);
        counts.extend([
            self.slot_names.len(),
            ledger.len(),
            self.fates.len(),
            self.hashes.len(),
            self.spans.len() / SPAN_ROW,
            self.edges.len() / EDGE_ROW,
            span_weights.len(),
            edge_weights.len(),
        ]);
        let of_dictionaries: usize = dictionaries
            .map(|dictionary| 4 * dictionary.ends().len() + dictionary.arena().len())
            .iter()
            .sum();
        let rows = self.spans.len() + self.edges.len() + WEIGHT * (span_weights.len() + edge_weights.len());
        let texts = of_dictionaries + self.slot_names.len() + ledger.len();
        let fates = FATE * self.fates.len() + HASH * self.hashes.len();
        let mut out = Vec::with_capacity(HEADER + texts + fates + rows + CHECKSUM);
        for count in counts {
            out.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for dictionary in dictionaries {
            for end in dictionary.ends() {
                out.extend_from_slice(&end.to_le_bytes());
            }
            out.extend_from_slice(dictionary.arena());
        }
        out.extend_from_slice(&self.slot_names);
        out.extend_from_slice(ledger);
        out.extend_from_slice(self.fates.as_flattened());
        for hash in &self.hashes {
            out.extend_from_slice(&hash.to_le_bytes());
        }
        out.extend_from_slice(&self.spans);
        out.extend_from_slice(&self.edges);
        for weight in span_weights.iter().chain(edge_weights) {
            out.extend_from_slice(&weight.to_le_bytes());
        }
        out.extend_from_slice(&xxh3_64(&out).to_le_bytes());
        out
    }
}

/// A frame whose structure was checked: every number in it is in range.
#[derive(Debug)]
pub struct Frame<'a> {
    dictionaries: [Entries<'a>; DICTIONARIES],
    slot_names: &'a [u8],
    ledger: &'a [u8],
    fates: &'a [u8],
    hashes: &'a [u8],
    spans: &'a [u8],
    edges: &'a [u8],
    span_weights: &'a [u8],
    edge_weights: &'a [u8],
}

#[derive(Debug, Clone, Copy, Default)]
struct Entries<'a> {
    ends: &'a [u8],
    arena: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Check `bytes` from end to end.
    pub fn read(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let refuse = |fault| FrameError { what: "frame", fault };
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(refuse("too short"))?;
        if xxh3_64(content) != u64::from_le_bytes(*checksum) {
            return Err(refuse("checksum differs"));
        }
        let (header, mut rest) = content.split_at_checked(HEADER).ok_or(refuse("too short"))?;
        let count = |index: usize| u32_at(header, index) as usize;
        if count(0) != VERSION as usize {
            return Err(refuse("made by another version of the engine"));
        }
        let mut take = |length: Option<usize>| {
            let (taken, left) = length.and_then(|length| rest.split_at_checked(length))?;
            rest = left;
            Some(taken)
        };
        let parts = (|| {
            let mut dictionaries = [Entries::default(); DICTIONARIES];
            for (index, dictionary) in dictionaries.iter_mut().enumerate() {
                dictionary.ends = take(count(1 + 2 * index).checked_mul(4))?;
                dictionary.arena = take(Some(count(2 + 2 * index)))?;
            }
            let after = 1 + 2 * DICTIONARIES;
            Some(Self {
                dictionaries,
                slot_names: take(Some(count(after)))?,
                ledger: take(Some(count(after + 1)))?,
                fates: take(count(after + 2).checked_mul(FATE))?,
                hashes: take(count(after + 3).checked_mul(HASH))?,
                spans: take(count(after + 4).checked_mul(SPAN_ROW))?,
                edges: take(count(after + 5).checked_mul(EDGE_ROW))?,
                span_weights: take(count(after + 6).checked_mul(WEIGHT))?,
                edge_weights: take(count(after + 7).checked_mul(WEIGHT))?,
            })
        })();
        let frame = parts.ok_or(refuse("counts exceed its length"))?;
        if !rest.is_empty() {
            return Err(refuse("counts fall short of its length"));
        }
        let [sets, halves, _, _, services] = &frame.dictionaries;
        let (sets, halves, services) = (sets.len(), halves.len(), services.len());
        let rows_in_range = frame.spans().all(|row| (row.set as usize) < sets)
            && frame
                .edges()
                .all(|row| (row.is_marker || (row.half as usize) < halves) && row.key.has_short_ids());
        let fits = |weights: &[u8], rows: usize| weights.is_empty() || weights.len() / WEIGHT == rows;
        let weights_fit = fits(frame.span_weights, frame.spans.len() / SPAN_ROW)
            && fits(frame.edge_weights, frame.edges.len() / EDGE_ROW);
        let weights = || {
            frame
                .span_weights
                .as_chunks()
                .0
                .iter()
                .chain(frame.edge_weights.as_chunks().0)
        };
        let weights_in_range =
            weights().all(|weight| (0.0..=MAX_MULTIPLIER).contains(&f64::from_le_bytes(*weight)));
        let are_ascending = frame.dictionaries.iter().all(Entries::is_ascending);
        let (fates, _) = frame.fates.as_chunks::<FATE>();
        let fates_in_range = fates
            .iter()
            .all(|bytes| Fate::of(*bytes).is_some_and(|fate| (fate.service as usize) < services));
        if !rows_in_range || !weights_fit || !weights_in_range || !are_ascending || !fates_in_range {
            return Err(refuse("a number is out of range"));
        }
        LedgerRows::new(frame.ledger, "frame").try_for_each(|row| row.map(drop))?;
        Ok(frame)
    }

    /// The canonical label sets of span metrics.
    pub fn sets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.dictionaries[0].iter()
    }

    /// The service-graph halves.
    pub fn halves(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.dictionaries[1].iter()
    }

    /// The canonical label sets of `traces_target_info`.
    pub fn target_infos(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.dictionaries[2].iter()
    }

    /// The canonical label sets of host info.
    pub fn host_infos(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.dictionaries[3].iter()
    }

    /// What the dimension slots of the halves hold.
    pub fn slot_names(&self) -> &'a [u8] {
        self.slot_names
    }

    /// The names of the services that fates refer to.
    pub fn services(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let [.., services] = self.dictionaries;
        services.iter()
    }

    /// What became of each span.
    pub fn fates(&self) -> impl Iterator<Item = Fate> + use<'a> {
        let (fates, _) = self.fates.as_chunks();
        fates.iter().filter_map(|bytes| Fate::of(*bytes))
    }

    /// As [`Self::fates`], with the hash of the span's trace.
    pub fn hashed_fates(&self) -> impl Iterator<Item = (Fate, u64)> + use<'a> {
        let mut spans = self.spans();
        let mut halves = self.edges().filter(|row| !row.is_marker);
        let mut hashes = self.hashes.as_chunks::<HASH>().0.iter();
        self.fates().map(move |fate| {
            let span = (fate.in_metrics == Entry::Generated)
                .then(|| spans.next())
                .flatten();
            let half = (fate.in_graph == Entry::Offered).then(|| halves.next()).flatten();
            let hash = span
                .map(|row| row.trace_hash())
                .or_else(|| half.map(|row| row.key.trace_hash()))
                .or_else(|| hashes.next().map(|hash| u64::from_le_bytes(*hash)));
            (fate, hash.unwrap_or_default())
        })
    }

    /// What the frame says of spans that it does not tell apart, by service.
    pub fn ledger(&self) -> impl Iterator<Item = (&'a [u8], Row)> + use<'a> {
        LedgerRows::new(self.ledger, "frame").filter_map(Result::ok)
    }

    /// The rows of span metrics, in the order of the request.
    #[inline]
    pub fn spans(&self) -> impl Iterator<Item = SpanRow> + use<'a> {
        let (rows, _) = self.spans.as_chunks::<SPAN_ROW>();
        let mut weights = self.span_weights.as_chunks::<WEIGHT>().0.iter();
        rows.iter().map(move |row| {
            let size = u32_at(row, 1);
            SpanRow {
                set: u32_at(row, 0),
                size: size & (u32::MAX >> 1),
                duration_ns: u64_at(row, 8),
                trace: u128_at(row, 16),
                is_error: size >> 31 != 0,
                weight: weights.next().map_or(1.0, |weight| f64::from_le_bytes(*weight)),
            }
        })
    }

    /// The rows of service graphs, in the order of the request.
    #[inline]
    pub fn edges(&self) -> impl Iterator<Item = EdgeRow> + use<'a> {
        let (rows, _) = self.edges.as_chunks::<EDGE_ROW>();
        let mut weights = self.edge_weights.as_chunks::<WEIGHT>().0.iter();
        rows.iter().map(move |row| EdgeRow {
            half: u32_at(row, 0),
            key: EdgeKey {
                trace: u128_at(row, 8),
                span: u64_at(row, 24).to_le_bytes(),
                trace_len: row[6],
                span_len: row[7],
            },
            kind: row[4],
            is_error: row[5] & 1 != 0,
            is_database: row[5] & 2 != 0,
            is_marker: row[5] & 4 != 0,
            duration_ns: u64_at(row, 32),
            at_ns: u64_at(row, 40),
            weight: weights.next().map_or(1.0, |weight| f64::from_le_bytes(*weight)),
        })
    }
}

impl Fate {
    /// Whether the span has a row of its own in the frame.
    #[inline]
    fn has_row(self) -> bool {
        self.in_metrics == Entry::Generated || self.in_graph == Entry::Offered
    }

    #[inline]
    fn of([low, high, in_metrics, in_graph]: [u8; FATE]) -> Option<Self> {
        Some(Self {
            service: u32::from(low) | u32::from(high) << 8,
            in_metrics: *ALL_ENTRIES.get(usize::from(in_metrics))?,
            in_graph: *ALL_ENTRIES.get(usize::from(in_graph))?,
        })
    }
}

impl<'a> Entries<'a> {
    fn len(&self) -> usize {
        self.ends.len() / 4
    }

    fn ends(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (ends, _) = self.ends.as_chunks::<4>();
        ends.iter().map(|end| u32::from_le_bytes(*end) as usize)
    }

    fn is_ascending(&self) -> bool {
        self.ends().is_sorted() && self.ends().last().unwrap_or_default() == self.arena.len()
    }

    fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let arena = self.arena;
        self.ends().scan(0, move |start, end| {
            let entry = arena.get(*start..end).unwrap_or_default();
            *start = end;
            Some(entry)
        })
    }
}

/// Which entries of a dictionary of this length some rows refer to.
pub fn used_entries(numbers: impl Iterator<Item = u32>, length: usize) -> Vec<bool> {
    let mut is_used = vec![false; length];
    for number in numbers {
        if let Some(is_used) = is_used.get_mut(number as usize) {
            *is_used = true;
        }
    }
    is_used
}

#[inline]
fn u32_at(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |chunk| u128::from_le_bytes(*chunk))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn builder() -> FrameBuilder {
        let mut builder = FrameBuilder::default();
        let set = builder.sets.number(b"set", |_| true).unwrap();
        let half = builder.halves.number(b"half", |_| true).unwrap();
        builder.push_span(&SpanRow {
            set,
            size: 300,
            duration_ns: 7,
            trace: 1 << 100,
            is_error: true,
            weight: 1.0,
        });
        builder.target_infos.number(b"target", |_| true);
        builder.host_infos.number(b"host", |_| true);
        builder.push_edge(&EdgeRow {
            half,
            key: EdgeKey::new(&[1; 16], &[2; 8]),
            kind: 3,
            is_error: false,
            is_database: true,
            is_marker: false,
            duration_ns: 8,
            at_ns: 9,
            weight: 2.5,
        });
        builder
    }

    #[test]
    fn rows_survive_the_journey() {
        let bytes = builder().finish(&Dictionary::default());
        let frame = Frame::read(&bytes).unwrap();
        assert_eq!(frame.sets().collect::<Vec<_>>(), [b"set"]);
        assert_eq!(frame.halves().collect::<Vec<_>>(), [b"half"]);
        let span = frame.spans().next().unwrap();
        assert_eq!(
            (span.set, span.size, span.duration_ns, span.is_error),
            (0, 300, 7, true)
        );
        assert_eq!((span.trace, span.weight), (1 << 100, 1.0));
        assert_eq!(frame.target_infos().collect::<Vec<_>>(), [b"target"]);
        assert_eq!(frame.host_infos().collect::<Vec<_>>(), [b"host"]);
        let edge = frame.edges().next().unwrap();
        assert_eq!(edge.key, EdgeKey::new(&[1; 16], &[2; 8]));
        assert_eq!(
            (edge.kind, edge.is_error, edge.is_database, edge.at_ns),
            (3, false, true, 9)
        );
        assert_eq!(edge.weight.to_bits(), 2.5f64.to_bits());
    }

    #[test]
    fn a_marker_needs_no_half_and_weights_begin_when_one_is_not_one() {
        let mut builder = FrameBuilder::default();
        let row = |weight| EdgeRow {
            half: 0,
            key: EdgeKey::new(&[1; 16], &[2; 8]),
            kind: 3,
            is_error: false,
            is_database: false,
            is_marker: true,
            duration_ns: 8,
            at_ns: 9,
            weight,
        };
        for weight in [1.0, 1.0, 0.25, 1.0] {
            builder.push_edge(&row(weight));
        }
        let bytes = builder.finish(&Dictionary::default());
        let weights: Vec<f64> = Frame::read(&bytes)
            .unwrap()
            .edges()
            .map(|row| row.weight)
            .collect();
        assert_eq!(weights, [1.0, 1.0, 0.25, 1.0]);
        builder.push_edge(&row(f64::NAN));
        assert!(Frame::read(&builder.finish(&Dictionary::default())).is_err());
        let mut builder = FrameBuilder::default();
        let mut long = row(1.0);
        long.key.trace_len = 17;
        builder.push_edge(&long);
        assert!(Frame::read(&builder.finish(&Dictionary::default())).is_err());
    }

    #[test]
    fn leading_zeros_and_short_ids_keep_their_lengths_apart() {
        assert_eq!(trace_number(&[0, 0, 1]), trace_number(&[1]));
        assert_ne!(EdgeKey::new(&[0, 1], &[]), EdgeKey::new(&[1], &[]));
        assert_ne!(EdgeKey::new(&[1], &[0]), EdgeKey::new(&[1], &[]));
    }

    proptest! {
        #[test]
        fn a_damaged_frame_is_refused(at in 0usize..200, bit in 0u8..8, cut in 0usize..200) {
            let bytes = builder().finish(&Dictionary::default());
            let mut flipped = bytes.clone();
            let at = at % bytes.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(Frame::read(&flipped).is_err());
            prop_assert!(Frame::read(&bytes[..cut % bytes.len()]).is_err());
        }

        #[test]
        fn counts_are_checked_even_when_the_checksum_fits(mut content: Vec<u8>) {
            let checksum = xxh3_64(&content).to_le_bytes();
            content.extend(checksum);
            let _ = Frame::read(&content);
        }
    }
}

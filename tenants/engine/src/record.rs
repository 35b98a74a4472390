//! The record: what a shard counted since its last flush, on its way to the collector. Private to the engine.
//!
//! One atomic unit of three parts (`record_envelope.rs`). Counts, here: shard counters, ledger, then one block for each group:
//! its shape, retired entities, new definitions, deltas by ascending number. State: `shard_state.rs`. Exemplars, here: of
//! each delta that has any, how many before it have none. Numbers are varints; a record describes its own buckets, so it
//! can be merged into a registry whose settings have moved on.

use crate::byte_reader::ByteReader;
use crate::error::FrameError;
use crate::exemplar::{Exemplar, ExemplarRank};
use crate::group::{NativePart, Shape};
use crate::ledger::{Ledger, LedgerRows, Row};
use crate::native_buckets::NativeBuckets;
use crate::native_schema::Schema;
use crate::record_envelope::{Envelope, HEADER, refuse, seal};
use crate::wire::put_varint;

const SUM_FRACTION_BITS: u32 = crate::duration_sum::FRACTION_BITS;
/// Stands for the schema of a histogram without native buckets; schemas are from -4 to 8.
const NO_SCHEMA: u8 = 0x7f;
/// Integers up to here are exact in a double, and written as varints.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Things a shard counts besides series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardCounters {
    /// Edges begun, those complete at once included (processors §2.3).
    pub edges: u64,
    /// Edges that ended without producing anything, by the kind of their last span (index as in `SpanKind`).
    pub expired_edges: [u64; 6],
    /// Spans not taken because the edge buffer was full.
    pub dropped_spans: u64,
    /// Edges whose labels were not UTF-8.
    pub invalid_utf8_edges: u64,
    /// Edges given up because a filter kept their other side out (processors §2.5).
    pub dropped_edges: u64,
    /// Spans kept out that could not be remembered, because there were too many.
    pub marker_overflow: u64,
}

impl ShardCounters {
    const LEN: usize = 11;

    fn to_array(self) -> [u64; Self::LEN] {
        let mut array = [0; Self::LEN];
        array[..6].copy_from_slice(&self.expired_edges);
        array[6..].copy_from_slice(&[
            self.edges,
            self.dropped_spans,
            self.invalid_utf8_edges,
            self.dropped_edges,
            self.marker_overflow,
        ]);
        array
    }

    fn from_array(array: [u64; Self::LEN]) -> Self {
        let mut expired_edges = [0; 6];
        expired_edges.copy_from_slice(&array[..6]);
        Self {
            edges: array[6],
            expired_edges,
            dropped_spans: array[7],
            invalid_utf8_edges: array[8],
            dropped_edges: array[9],
            marker_overflow: array[10],
        }
    }

    /// Add what another record counted.
    pub fn add(&mut self, other: &Self) {
        let mut sum = self.to_array();
        for (total, more) in sum.iter_mut().zip(other.to_array()) {
            *total = total.saturating_add(more);
        }
        *self = Self::from_array(sum);
    }

    /// Whether there is nothing to tell.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// Writes a record.
#[derive(Debug)]
pub struct GroupWriter {
    out: Vec<u8>,
    /// Number of the group's last delta.
    last: Option<u32>,
    exemplars: Vec<u8>,
    /// Deltas since the last one with exemplars.
    deltas_without: u64,
    /// Histogram, place and exemplar of the delta at hand.
    filled: Vec<(u8, u8, Exemplar)>,
}

/// One entity's delta, borrowed for writing.
#[derive(Debug)]
pub struct DeltaWriter<'a> {
    /// The entity's number in its shard; above that of the group's last delta.
    pub number: u32,
    /// Times it was counted in.
    pub updates: u32,
    /// The group's shape.
    pub shape: &'a Shape,
    /// Counters, then buckets.
    pub values: &'a [f64],
    /// One sum for each histogram.
    pub sums: &'a [u128],
    /// One slot for each bucket, or none at all.
    pub exemplars: &'a [Exemplar],
    /// One for each histogram, or none at all.
    pub natives: &'a [NativePart],
}

impl GroupWriter {
    /// Begin a record of `groups` groups.
    pub fn new(counters: &ShardCounters, ledger: &Ledger, groups: usize) -> Self {
        let mut out = vec![0; HEADER];
        for counter in counters.to_array() {
            put_varint(&mut out, counter);
        }
        let mut rows = Vec::new();
        ledger.write(&mut rows);
        put_varint(&mut out, rows.len() as u64);
        out.extend_from_slice(&rows);
        put_varint(&mut out, groups as u64);
        Self {
            out,
            last: None,
            exemplars: Vec::new(),
            deltas_without: 0,
            filled: Vec::new(),
        }
    }

    /// Begin a group.
    pub fn begin(&mut self, shape: &Shape, retired: &[u32]) {
        self.last = None;
        self.count(shape.counters);
        self.count(shape.histograms.len());
        for histogram in &shape.histograms {
            self.count(histogram.bounds.seconds.len());
            for bound in &histogram.bounds.seconds {
                self.out.extend_from_slice(&bound.to_le_bytes());
            }
            let schema = histogram.native.as_ref().map(|finder| finder.schema().number());
            self.out.push(schema.map_or(NO_SCHEMA, |schema| schema as u8));
        }
        self.count(retired.len());
        for number in retired {
            put_varint(&mut self.out, u64::from(*number));
        }
    }

    /// Write a group that has nothing to say: no counters, histograms, retired numbers, definitions or deltas.
    pub fn absent(&mut self) {
        for _ in 0..5 {
            self.count(0);
        }
    }

    /// Write a count.
    pub fn count(&mut self, count: usize) {
        put_varint(&mut self.out, count as u64);
    }

    /// Write a definition.
    pub fn definition(&mut self, number: u32, labels: &[u8]) {
        put_varint(&mut self.out, u64::from(number));
        self.count(labels.len());
        self.out.extend_from_slice(labels);
    }

    /// Write a delta.
    pub fn delta(&mut self, delta: &DeltaWriter<'_>) {
        put_ascending(&mut self.out, self.last, delta.number);
        self.last = Some(delta.number);
        put_varint(&mut self.out, u64::from(delta.updates));
        let (counters, mut buckets) = delta
            .values
            .split_at(delta.shape.counters.min(delta.values.len()));
        for value in counters {
            self.amount(*value);
        }
        for (index, (histogram, sum)) in delta.shape.histograms.iter().zip(delta.sums).enumerate() {
            self.sum(*sum);
            let (own, rest) = buckets.split_at(histogram.bounds.buckets().min(buckets.len()));
            buckets = rest;
            self.count(own.iter().filter(|count| **count != 0.0).count());
            for (index, count) in own.iter().enumerate().filter(|(_, count)| **count != 0.0) {
                self.out.push(index as u8);
                self.amount(*count);
            }
            if histogram.native.is_some() {
                self.native(delta.natives.get(index).map(|part| &part.buckets));
            }
        }
        self.exemplars(delta);
    }

    fn native(&mut self, delta: Option<&NativeBuckets>) {
        self.amount(delta.map_or(0.0, NativeBuckets::zero_count));
        self.count(delta.map_or(0, NativeBuckets::len));
        for (index, count) in delta.into_iter().flat_map(NativeBuckets::iter) {
            put_varint(&mut self.out, u64::from(zigzag(index)));
            self.amount(count);
        }
    }

    fn exemplars(&mut self, delta: &DeltaWriter<'_>) {
        self.filled.clear();
        let mut slots = delta.exemplars.iter();
        for (histogram, shape) in delta.shape.histograms.iter().enumerate() {
            for (bucket, held) in slots.by_ref().take(shape.bounds.buckets()).enumerate() {
                if held.trace() != 0 {
                    self.filled.push((histogram as u8, bucket as u8, *held));
                }
            }
        }
        for (histogram, native) in delta.natives.iter().enumerate() {
            for (range, held) in &native.exemplars {
                self.filled.push((histogram as u8, *range, *held));
            }
        }
        if self.filled.is_empty() {
            self.deltas_without += 1;
            return;
        }
        put_varint(&mut self.exemplars, std::mem::take(&mut self.deltas_without));
        put_varint(&mut self.exemplars, self.filled.len() as u64);
        for (histogram, place, exemplar) in &self.filled {
            self.exemplars.extend_from_slice(&[*histogram, *place]);
            self.exemplars.extend_from_slice(&exemplar.rank.0.to_le_bytes());
            self.exemplars.extend_from_slice(&exemplar.trace().to_le_bytes());
        }
    }

    /// The fraction is last: it is nearly always zero, and then takes one byte.
    fn sum(&mut self, sum: u128) {
        let whole = sum >> SUM_FRACTION_BITS;
        put_varint(&mut self.out, whole as u64);
        put_varint(&mut self.out, (whole >> 64) as u64);
        put_varint(&mut self.out, sum as u64 & ((1 << SUM_FRACTION_BITS) - 1));
    }

    fn amount(&mut self, value: f64) {
        if value.fract() == 0.0 && (0.0..EXACT).contains(&value) {
            put_varint(&mut self.out, (value as u64) << 1);
        } else {
            put_varint(&mut self.out, 1);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// The finished record, of a shard whose state did not change.
    pub fn finish(self) -> Vec<u8> {
        self.finish_with(&[])
    }

    /// The finished record, with what [`crate::shard_state::StateWriter`] wrote.
    pub fn finish_with(self, state: &[u8]) -> Vec<u8> {
        seal(self.out, state, &self.exemplars)
    }
}

/// Write a number of an ascending list, as [`ByteReader::ascending`] reads it.
pub fn put_ascending(out: &mut Vec<u8>, before: Option<u32>, number: u32) {
    let least = before.map_or(0, |before| before.wrapping_add(1));
    put_varint(out, u64::from(number.wrapping_sub(least)));
}

/// A record being read. The checksum has been verified; a count that does not fit ends the reading with an error.
#[derive(Debug, Clone)]
pub struct RecordReader<'a> {
    rest: ByteReader<'a>,
    exemplars: ByteReader<'a>,
    /// Deltas before the next one with exemplars; `None`: no more have any.
    until_exemplars: Option<u64>,
    /// Number of the group's last delta.
    last: Option<u32>,
    /// What the shard counted besides series.
    pub counters: ShardCounters,
    ledger: &'a [u8],
    /// How many groups follow.
    pub groups: usize,
}

/// The shape of a group as the shard knew it.
#[derive(Debug, PartialEq)]
pub struct RecordShape {
    /// Counters of each entity.
    pub counters: usize,
    /// The histograms.
    pub histograms: Vec<RecordHistogram>,
}

/// The buckets of a histogram as the shard knew them.
#[derive(Debug, PartialEq)]
pub struct RecordHistogram {
    /// Upper bounds in seconds, +Inf left out.
    pub bounds: Vec<f64>,
    /// Resolution of native buckets, if there are any.
    pub native: Option<Schema>,
}

/// One entity's delta, as read. Reused for every delta of a group.
#[derive(Debug, Default)]
pub struct Delta {
    /// The entity's number in its shard.
    pub number: u32,
    /// Times it was counted in.
    pub updates: u32,
    /// Counters.
    pub counters: Vec<f64>,
    /// One for each histogram.
    pub histograms: Vec<HistogramDelta>,
    /// Histogram, bucket and exemplar.
    pub exemplars: Vec<(usize, usize, Exemplar)>,
}

/// One histogram's delta.
#[derive(Debug, Default)]
pub struct HistogramDelta {
    /// Sum of observations, see [`crate::duration_sum`].
    pub sum: u128,
    /// Bucket and count, ascending by bucket.
    pub buckets: Vec<(usize, f64)>,
    /// Native buckets; empty without.
    pub native: NativeBuckets,
    /// The resolution that they were counted in, if the shard counted any.
    pub native_schema: Option<Schema>,
}

impl<'a> RecordReader<'a> {
    /// Check the record's envelope.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let parts = Envelope::open(bytes)?;
        let mut rest = ByteReader::new(parts.counts, "record");
        let mut counters = [0; ShardCounters::LEN];
        for counter in &mut counters {
            *counter = rest.varint()?;
        }
        let length = rest.count()?;
        let ledger = rest.bytes(length)?;
        LedgerRows::new(ledger, "record").try_for_each(|row| row.map(drop))?;
        let groups = rest.count()?;
        let mut reader = Self {
            rest,
            exemplars: ByteReader::new(parts.exemplars, "record"),
            until_exemplars: None,
            last: None,
            counters: ShardCounters::from_array(counters),
            ledger,
            groups,
        };
        reader.find_exemplars()?;
        Ok(reader)
    }

    /// What the ledger says, by service.
    pub fn ledger(&self) -> impl Iterator<Item = (&'a [u8], Row)> + use<'a> {
        LedgerRows::new(self.ledger, "record").filter_map(Result::ok)
    }

    fn find_exemplars(&mut self) -> Result<(), FrameError> {
        self.until_exemplars = if self.exemplars.is_at_end() {
            None
        } else {
            Some(self.exemplars.varint()?)
        };
        Ok(())
    }

    /// The next group's shape; then come its retired numbers, definitions and deltas, each behind a [`Self::count`].
    pub fn shape(&mut self) -> Result<RecordShape, FrameError> {
        self.last = None;
        let counters = self.count()?;
        let mut histograms = Vec::new();
        for _ in 0..self.count()? {
            let mut bounds = Vec::new();
            for _ in 0..self.count()? {
                bounds.push(f64::from_le_bytes(self.rest.array()?));
            }
            let native = match self.rest.byte()? {
                NO_SCHEMA => None,
                schema => Some(Schema::new(schema as i8).ok_or(refuse("a schema is out of range"))?),
            };
            histograms.push(RecordHistogram { bounds, native });
        }
        Ok(RecordShape { counters, histograms })
    }

    /// The next count.
    pub fn count(&mut self) -> Result<usize, FrameError> {
        self.rest.count()
    }

    /// The next entity number.
    pub fn number(&mut self) -> Result<u32, FrameError> {
        self.rest.number()
    }

    /// The next definition.
    pub fn definition(&mut self) -> Result<(u32, &'a [u8]), FrameError> {
        let number = self.number()?;
        let length = self.count()?;
        Ok((number, self.rest.bytes(length)?))
    }

    /// Read the next delta into `delta`.
    pub fn delta(&mut self, shape: &RecordShape, delta: &mut Delta) -> Result<(), FrameError> {
        delta.number = self.rest.ascending(self.last)?;
        self.last = Some(delta.number);
        delta.updates = self.number()?;
        delta.counters.clear();
        for _ in 0..shape.counters {
            let amount = self.amount()?;
            delta.counters.push(amount);
        }
        delta
            .histograms
            .resize_with(shape.histograms.len(), HistogramDelta::default);
        for (shape, histogram) in shape.histograms.iter().zip(&mut delta.histograms) {
            histogram.sum = self.sum()?;
            histogram.buckets.clear();
            for _ in 0..self.count()? {
                let bucket = usize::from(self.rest.byte()?);
                if bucket > shape.bounds.len() {
                    return Err(refuse("a bucket is out of range"));
                }
                histogram.buckets.push((bucket, self.amount()?));
            }
            histogram.native.clear();
            if let Some(schema) = shape.native {
                self.native_delta(schema, &mut histogram.native)?;
            }
        }
        delta.exemplars.clear();
        match &mut self.until_exemplars {
            None => Ok(()),
            Some(0) => self.delta_exemplars(shape, delta),
            Some(deltas) => {
                *deltas -= 1;
                Ok(())
            }
        }
    }

    fn delta_exemplars(&mut self, shape: &RecordShape, delta: &mut Delta) -> Result<(), FrameError> {
        for _ in 0..self.exemplars.count()? {
            let [histogram, place] = self.exemplars.array()?.map(usize::from);
            if histogram >= shape.histograms.len() {
                return Err(refuse("a histogram is out of range"));
            }
            let rank = ExemplarRank(u64::from_le_bytes(self.exemplars.array()?));
            let trace = u128::from_le_bytes(self.exemplars.array()?);
            delta
                .exemplars
                .push((histogram, place, Exemplar::new(rank, trace)));
        }
        self.find_exemplars()
    }

    fn native_delta(&mut self, schema: Schema, native: &mut NativeBuckets) -> Result<(), FrameError> {
        let zero = self.amount()?;
        if zero != 0.0 {
            native.observe(None, zero);
        }
        for _ in 0..self.count()? {
            let index = i16::try_from(unzigzag(self.number()?)).ok();
            let index = index
                .filter(|index| schema.has(*index))
                .ok_or(refuse("a bucket is out of range"))?;
            let count = self.amount()?;
            native.observe(Some(index), count);
        }
        Ok(())
    }

    fn sum(&mut self) -> Result<u128, FrameError> {
        let (low, high, fraction) = (self.rest.varint()?, self.rest.varint()?, self.rest.varint()?);
        let whole = u128::from(high) << 64 | u128::from(low);
        if high >> (64 - SUM_FRACTION_BITS) != 0 || fraction >> SUM_FRACTION_BITS != 0 {
            return Err(refuse("a sum is out of range"));
        }
        Ok(whole << SUM_FRACTION_BITS | u128::from(fraction))
    }

    /// Whether everything was read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_at_end() && self.until_exemplars.is_none()
    }

    fn amount(&mut self) -> Result<f64, FrameError> {
        let raw = self.rest.varint()?;
        let amount = if raw & 1 == 0 {
            (raw >> 1) as f64
        } else {
            f64::from_le_bytes(self.rest.array()?)
        };
        // Counters only grow.
        if amount.is_finite() && amount >= 0.0 {
            Ok(amount)
        } else {
            Err(refuse("an amount is out of range"))
        }
    }
}

fn zigzag(value: i16) -> u32 {
    let value = i32::from(value);
    (value << 1 ^ value >> 31) as u32
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

//! What a shard needs to go on, as changes: in its records, in what a successor begins with, and in checkpoints.
//!
//! Layout: flags, a time that other times are told against, fingerprints by the second of their application, those not
//! applied to the shard's whole range, halves of edges with the names of their slots, slots of the edge store that
//! closed, slots that are open with their edges, markers. Empty bytes: nothing changed.

use crate::byte_reader::ByteReader;
use crate::edge_store::Edge;
use crate::error::FrameError;
use crate::fingerprint::Fingerprint;
use crate::fingerprints::Applied;
use crate::frame::EdgeKey;
use crate::hash_range::{HashRange, HashRanges};
use crate::intern::Dictionary;
use crate::markers::Side;
use crate::multiplier::MAX_MULTIPLIER;
use crate::record::put_ascending;
use crate::sealed_bytes::{open_sealed, seal};
use crate::wire::put_varint;

const VERSION: u8 = 1;
const FORGETS_GRAPH: u8 = 1;

const IS_FAILED: u16 = 1;
const IS_MESSAGING: u16 = 1 << 1;
const IS_DATABASE: u16 = 1 << 2;
const HAS_CLIENT: u16 = 1 << 3;
const HAS_SERVER: u16 = 1 << 4;
const IS_CLIENT_FAILED: u16 = 1 << 5;
const IS_CLIENT_MESSAGING: u16 = 1 << 6;
const IS_TEMPLATE: u16 = 1 << 7;
/// The ids have the lengths that OTLP wants.
const HAS_FULL_IDS: u16 = 1 << 8;
const TRACE_IS_OF_KEY: u16 = 1 << 9;
const HAS_NO_TRACE: u16 = 1 << 10;
const CLIENT_HALF_IS_HALF: u16 = 1 << 11;
const CLIENT_WEIGHS_ONE: u16 = 1 << 12;
const SERVER_WEIGHS_ONE: u16 = 1 << 13;
const IS_CLIENT_DATABASE: u16 = 1 << 14;

const TRACE_ID: u8 = 16;
const SPAN_ID: u8 = 8;

/// A half of an edge as a shard knows it, with the names of its slots (as in a frame).
pub type NamedHalf<'a> = (&'a [u8], &'a [u8]);

/// Writes changes of a shard's state. Slots and fingerprints are put in ascending order.
#[derive(Debug)]
pub struct StateWriter {
    now_ns: u64,
    forgets_graph: bool,
    seconds: Vec<u8>,
    runs: u64,
    /// The second of the run at hand, how many it has, and they.
    run: (u64, u64, Vec<u8>),
    fingerprints: u32,
    partial: Vec<u8>,
    partials: u64,
    last_partial: Option<u32>,
    names: Dictionary,
    halves: Dictionary,
    closed: Vec<u8>,
    closings: u64,
    last_closed: Option<u32>,
    open: Vec<u8>,
    openings: u64,
    last_open: Option<u32>,
    markers: Vec<u8>,
    marks: u64,
}

impl StateWriter {
    /// Nothing has changed yet.
    pub fn new(now_ns: u64) -> Self {
        Self {
            now_ns,
            forgets_graph: false,
            seconds: Vec::new(),
            runs: 0,
            run: (0, 0, Vec::new()),
            fingerprints: 0,
            partial: Vec::new(),
            partials: 0,
            last_partial: None,
            names: Dictionary::default(),
            halves: Dictionary::default(),
            closed: Vec::new(),
            closings: 0,
            last_closed: None,
            open: Vec::new(),
            openings: 0,
            last_open: None,
            markers: Vec::new(),
            marks: 0,
        }
    }

    /// All edges and markers that were told of are gone.
    pub fn forget_graph(&mut self) {
        self.forgets_graph = true;
    }

    /// A request was applied.
    pub fn applied(&mut self, at_s: u64, fingerprint: Fingerprint, applied: Applied<'_>) {
        if at_s != self.run.0 {
            self.end_run();
            self.run.0 = at_s;
        }
        self.run.1 += 1;
        self.run.2.extend_from_slice(&fingerprint.to_bytes());
        if let Applied::Part(ranges) = applied {
            put_ascending(&mut self.partial, self.last_partial, self.fingerprints);
            self.last_partial = Some(self.fingerprints);
            self.partials += 1;
            put_ranges(&mut self.partial, ranges);
        }
        self.fingerprints += 1;
    }

    fn end_run(&mut self) {
        let (second, count, fingerprints) = &mut self.run;
        if *count > 0 {
            put_varint(&mut self.seconds, *second);
            put_varint(&mut self.seconds, *count);
            self.seconds.append(fingerprints);
            *count = 0;
            self.runs += 1;
        }
    }

    /// The edge in a slot that was told of is gone.
    pub fn close(&mut self, slot: u32) {
        put_ascending(&mut self.closed, self.last_closed, slot);
        self.last_closed = Some(slot);
        self.closings += 1;
    }

    /// An edge waits in a slot: all that is known of it. `half` and `client_half` stand for the numbers in `edge`.
    pub fn open(&mut self, slot: u32, edge: &Edge, half: NamedHalf<'_>, client_half: NamedHalf<'_>) {
        put_ascending(&mut self.open, self.last_open, slot);
        self.last_open = Some(slot);
        self.openings += 1;
        let number = self.half(half);
        let client_number = if half == client_half {
            number
        } else {
            self.half(client_half)
        };
        put_edge(&mut self.open, edge, number, client_number, self.now_ns);
    }

    fn half(&mut self, (names, bytes): NamedHalf<'_>) -> u32 {
        let names = self.names.number(names, |_| true).unwrap_or_default();
        let write = |arena: &mut Vec<u8>| {
            put_varint(arena, u64::from(names));
            arena.extend_from_slice(bytes);
        };
        self.halves.number_of(write, |_| true).unwrap_or_default()
    }

    /// A side of an edge is kept out until a time.
    pub fn marker(&mut self, (key, is_client): Side, until_ns: u64) {
        let has_full_ids = has_full_ids(&key);
        self.markers
            .push(u8::from(is_client) | u8::from(has_full_ids) << 1);
        put_key(&mut self.markers, &key, has_full_ids);
        put_time(&mut self.markers, self.now_ns, until_ns);
        self.marks += 1;
    }

    /// All that was put; empty if that is nothing.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_run();
        let changes = self.runs + self.closings + self.openings + self.marks;
        if changes == 0 && !self.forgets_graph {
            return Vec::new();
        }
        let mut out = vec![if self.forgets_graph { FORGETS_GRAPH } else { 0 }];
        put_varint(&mut out, self.now_ns);
        let mut part = |count: u64, bytes: &[u8]| {
            put_varint(&mut out, count);
            out.extend_from_slice(bytes);
        };
        part(self.runs, &self.seconds);
        part(self.partials, &self.partial);
        for dictionary in [&self.names, &self.halves] {
            part(dictionary.ends().len() as u64, &[]);
            let mut start = 0;
            for end in dictionary.ends() {
                let entry = dictionary.arena().get(start..*end as usize).unwrap_or_default();
                part(entry.len() as u64, entry);
                start = *end as usize;
            }
        }
        part(self.closings, &self.closed);
        part(self.openings, &self.open);
        part(self.marks, &self.markers);
        out
    }
}

/// Changes of a shard's state, as read. Everything in it is in range.
#[derive(Debug, Default, PartialEq)]
pub struct StateChanges<'a> {
    /// When they were told.
    pub now_ns: u64,
    /// All edges and markers that were told of before are gone.
    pub forgets_graph: bool,
    /// Requests that were applied, oldest first; `None` instead of ranges: to the whole range of the shard.
    pub fingerprints: Vec<(Fingerprint, u64, Option<HashRanges>)>,
    /// The halves that edges refer to by their position.
    pub halves: Vec<NamedHalf<'a>>,
    /// Slots whose edge is gone.
    pub closed: Vec<u32>,
    /// Edges by slot, ascending.
    pub open: Vec<(u32, Edge)>,
    /// Markers and until when they live.
    pub markers: Vec<(Side, u64)>,
}

impl<'a> StateChanges<'a> {
    /// The service whose span waits in an edge, if one does: what is left of an edge that was counted waits for nothing.
    pub fn service_waiting(&self, edge: &Edge) -> Option<&'a [u8]> {
        let (_, half) = self.halves.get(edge.half as usize)?;
        (!edge.is_template).then(|| edge.service_waiting(half))
    }

    /// Read what [`StateWriter`] wrote; errors say that `what` is damaged.
    pub fn read(bytes: &'a [u8], what: &'static str) -> Result<Self, FrameError> {
        let mut changes = Self::default();
        if bytes.is_empty() {
            return Ok(changes);
        }
        let mut reader = ByteReader::new(bytes, what);
        changes.forgets_graph = match reader.byte()? {
            0 => false,
            FORGETS_GRAPH => true,
            _ => return Err(reader.refuse("a flag is out of range")),
        };
        changes.now_ns = reader.varint()?;
        for _ in 0..reader.count()? {
            let second = reader.varint()?;
            for _ in 0..reader.count()? {
                let fingerprint = Fingerprint::from_bytes(reader.array()?);
                changes.fingerprints.push((fingerprint, second, None));
            }
        }
        let mut last = None;
        for _ in 0..reader.count()? {
            let number = reader.ascending(last)?;
            last = Some(number);
            let ranges = read_ranges(&mut reader)?;
            match changes.fingerprints.get_mut(number as usize) {
                Some((_, _, whole)) => *whole = Some(ranges),
                None => return Err(reader.refuse("a number is out of range")),
            }
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for _ in 0..reader.count()? {
            let length = reader.count()?;
            names.push(reader.bytes(length)?);
        }
        for _ in 0..reader.count()? {
            let length = reader.count()?;
            let mut half = ByteReader::new(reader.bytes(length)?, what);
            let number = half.number()?;
            let names = names
                .get(number as usize)
                .ok_or(half.refuse("a number is out of range"))?;
            changes.halves.push((names, half.rest()));
        }
        last = None;
        for _ in 0..reader.count()? {
            let slot = reader.ascending(last)?;
            last = Some(slot);
            changes.closed.push(slot);
        }
        last = None;
        for _ in 0..reader.count()? {
            let slot = reader.ascending(last)?;
            last = Some(slot);
            let edge = read_edge(&mut reader, changes.halves.len(), changes.now_ns)?;
            changes.open.push((slot, edge));
        }
        for _ in 0..reader.count()? {
            let flags = reader.byte()?;
            let key = read_key(&mut reader, flags & 2 != 0)?;
            let until_ns = read_time(&mut reader, changes.now_ns)?;
            changes.markers.push(((key, flags & 1 != 0), until_ns));
        }
        reader.finish()?;
        Ok(changes)
    }
}

/// Write ranges, as [`read_ranges`] reads them.
pub fn put_ranges(out: &mut Vec<u8>, ranges: &HashRanges) {
    put_varint(out, ranges.len() as u64);
    for range in ranges.iter() {
        out.extend_from_slice(&range.first().to_le_bytes());
        out.extend_from_slice(&range.last().to_le_bytes());
    }
}

/// Read ranges that are not none.
pub fn read_ranges(reader: &mut ByteReader<'_>) -> Result<HashRanges, FrameError> {
    let mut ranges = Vec::new();
    for _ in 0..reader.count()? {
        let (first, last) = (reader.array()?, reader.array()?);
        let range = HashRange::new(u64::from_le_bytes(first), u64::from_le_bytes(last));
        ranges.push(range.ok_or(reader.refuse("a range is out of order"))?);
    }
    if ranges.is_empty() {
        return Err(reader.refuse("a range is missing"));
    }
    Ok(ranges.into_iter().collect())
}

fn has_full_ids(key: &EdgeKey) -> bool {
    (key.trace_len, key.span_len) == (TRACE_ID, SPAN_ID)
}

fn put_key(out: &mut Vec<u8>, key: &EdgeKey, has_full_ids: bool) {
    out.extend_from_slice(&key.trace.to_le_bytes());
    out.extend_from_slice(&key.span);
    if !has_full_ids {
        out.extend_from_slice(&[key.trace_len, key.span_len]);
    }
}

fn read_key(reader: &mut ByteReader<'_>, has_full_ids: bool) -> Result<EdgeKey, FrameError> {
    let trace = u128::from_le_bytes(reader.array()?);
    let span = reader.array()?;
    let [trace_len, span_len] = if has_full_ids {
        [TRACE_ID, SPAN_ID]
    } else {
        reader.array()?
    };
    let key = EdgeKey {
        trace,
        span,
        trace_len,
        span_len,
    };
    if !key.has_short_ids() {
        return Err(reader.refuse("an id is too long"));
    }
    Ok(key)
}

/// Most times are near the one of writing, before or after it.
fn put_time(out: &mut Vec<u8>, now_ns: u64, at_ns: u64) {
    let before = now_ns.wrapping_sub(at_ns) as i64;
    put_varint(out, (before << 1 ^ before >> 63) as u64);
}

fn read_time(reader: &mut ByteReader<'_>, now_ns: u64) -> Result<u64, FrameError> {
    let zigzag = reader.varint()?;
    let before = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
    Ok(now_ns.wrapping_sub(before))
}

fn put_edge(out: &mut Vec<u8>, edge: &Edge, half: u32, client_half: u32, now_ns: u64) {
    let one = 1f64.to_bits();
    let flags = [
        (IS_FAILED, edge.is_failed),
        (IS_MESSAGING, edge.is_messaging),
        (IS_DATABASE, edge.is_database),
        (HAS_CLIENT, edge.has_client),
        (HAS_SERVER, edge.has_server),
        (IS_CLIENT_FAILED, edge.is_client_failed),
        (IS_CLIENT_MESSAGING, edge.is_client_messaging),
        (IS_CLIENT_DATABASE, edge.is_client_database),
        (IS_TEMPLATE, edge.is_template),
        (HAS_FULL_IDS, has_full_ids(&edge.key)),
        (TRACE_IS_OF_KEY, edge.trace == edge.key.trace),
        (HAS_NO_TRACE, edge.trace == 0),
        (CLIENT_HALF_IS_HALF, client_half == half),
        (CLIENT_WEIGHS_ONE, edge.client_weight.to_bits() == one),
        (SERVER_WEIGHS_ONE, edge.server_weight.to_bits() == one),
    ];
    let flags = flags
        .iter()
        .filter(|(_, is_set)| *is_set)
        .fold(0, |all, (flag, _)| all | flag);
    out.extend_from_slice(&flags.to_le_bytes());
    out.push(edge.last_kind);
    put_key(out, &edge.key, flags & HAS_FULL_IDS != 0);
    put_varint(out, u64::from(half));
    if flags & CLIENT_HALF_IS_HALF == 0 {
        put_varint(out, u64::from(client_half));
    }
    put_time(out, now_ns, edge.opened_at_ns);
    if flags & (TRACE_IS_OF_KEY | HAS_NO_TRACE) == 0 {
        out.extend_from_slice(&edge.trace.to_le_bytes());
    }
    // A database's client span fills it, too.
    put_varint(out, edge.server_ns);
    if edge.has_client {
        put_varint(out, edge.client_ns);
        put_time(out, now_ns, edge.client_end_ns);
        if flags & CLIENT_WEIGHS_ONE == 0 {
            out.extend_from_slice(&edge.client_weight.to_le_bytes());
        }
    }
    if edge.has_server {
        put_time(out, now_ns, edge.server_start_ns);
        if flags & SERVER_WEIGHS_ONE == 0 {
            out.extend_from_slice(&edge.server_weight.to_le_bytes());
        }
    }
}

fn read_edge(reader: &mut ByteReader<'_>, halves: usize, now_ns: u64) -> Result<Edge, FrameError> {
    let flags = u16::from_le_bytes(reader.array()?);
    let has = |flag| flags & flag != 0;
    let last_kind = reader.byte()?;
    let key = read_key(reader, has(HAS_FULL_IDS))?;
    let half = read_half(reader, halves)?;
    let mut edge = Edge::new(key, half, 0);
    if !has(CLIENT_HALF_IS_HALF) {
        edge.client_half = read_half(reader, halves)?;
    }
    edge.opened_at_ns = read_time(reader, now_ns)?;
    edge.trace = if has(TRACE_IS_OF_KEY) {
        key.trace
    } else if has(HAS_NO_TRACE) {
        0
    } else {
        u128::from_le_bytes(reader.array()?)
    };
    edge.last_kind = last_kind;
    edge.is_failed = has(IS_FAILED);
    edge.is_messaging = has(IS_MESSAGING);
    edge.is_database = has(IS_DATABASE);
    edge.has_client = has(HAS_CLIENT);
    edge.has_server = has(HAS_SERVER);
    edge.is_client_failed = has(IS_CLIENT_FAILED);
    edge.is_client_messaging = has(IS_CLIENT_MESSAGING);
    edge.is_client_database = has(IS_CLIENT_DATABASE);
    edge.is_template = has(IS_TEMPLATE);
    edge.server_ns = reader.varint()?;
    if edge.has_client {
        edge.client_ns = reader.varint()?;
        edge.client_end_ns = read_time(reader, now_ns)?;
        edge.client_weight = read_weight(reader, has(CLIENT_WEIGHS_ONE))?;
    }
    if edge.has_server {
        edge.server_start_ns = read_time(reader, now_ns)?;
        edge.server_weight = read_weight(reader, has(SERVER_WEIGHS_ONE))?;
    }
    Ok(edge)
}

fn read_half(reader: &mut ByteReader<'_>, halves: usize) -> Result<u32, FrameError> {
    let half = reader.number()?;
    if half as usize >= halves {
        return Err(reader.refuse("a number is out of range"));
    }
    Ok(half)
}

fn read_weight(reader: &mut ByteReader<'_>, is_one: bool) -> Result<f64, FrameError> {
    let weight = if is_one {
        1.0
    } else {
        f64::from_le_bytes(reader.array()?)
    };
    if (0.0..=MAX_MULTIPLIER).contains(&weight) {
        Ok(weight)
    } else {
        Err(reader.refuse("a weight is out of range"))
    }
}

/// Seal the state of a shard for its next owner; slots count from 0.
pub fn seal_state(index: u32, count: u32, state: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_varint(&mut out, u64::from(index));
    put_varint(&mut out, u64::from(count));
    out.extend_from_slice(state);
    seal(out)
}

/// Read the state of shard `index` of `count`, as [`seal_state`] sealed it; no bytes at all: nothing is known.
pub fn open_state(sealed: &[u8], index: u32, count: u32) -> Result<StateChanges<'_>, FrameError> {
    const WHAT: &str = "state";
    if sealed.is_empty() {
        return Ok(StateChanges::default());
    }
    let mut reader = open_sealed(sealed, VERSION, WHAT)?;
    if (reader.number()?, reader.number()?) != (index, count) {
        return Err(reader.refuse("it is of another hash range"));
    }
    let state = StateChanges::read(reader.rest(), WHAT)?;
    if (0..).zip(&state.open).any(|(place, (slot, _))| place != *slot) {
        return Err(reader.refuse("slots do not follow each other"));
    }
    Ok(state)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALVES: [NamedHalf<'static>; 3] = [(b"names", b"one"), (b"names", b"two"), (b"", b"two")];

    prop_compose! {
        fn keys()(trace in prop::sample::select(vec![0, 7, u128::MAX]), span: [u8; 8], full: bool) -> EdgeKey {
            let (trace_len, span_len) = if full { (TRACE_ID, SPAN_ID) } else { (3, 0) };
            EdgeKey { trace, span, trace_len, span_len }
        }
    }

    prop_compose! {
        fn edges()(
            key in keys(),
            flags: [bool; 9],
            times: [u64; 5],
            halves in (0u32..3, 0u32..3),
            trace in prop::sample::select(vec![0, 7, 99]),
            weights in (prop::sample::select(vec![0.0, 1.0, 0.3]), prop::sample::select(vec![1.0, 2.5])),
            last_kind: u8,
        ) -> Edge {
            let mut edge = Edge::new(key, halves.0, times[0]);
            edge.client_half = halves.1;
            edge.trace = trace;
            edge.last_kind = last_kind;
            edge.server_ns = times[1];
            [
                edge.is_failed, edge.is_messaging, edge.is_database, edge.has_client, edge.has_server,
                edge.is_client_failed, edge.is_client_messaging, edge.is_client_database, edge.is_template,
            ] = flags;
            if edge.has_client {
                (edge.client_ns, edge.client_end_ns, edge.client_weight) = (times[2], times[3], weights.0);
            }
            if edge.has_server {
                (edge.server_start_ns, edge.server_weight) = (times[4], weights.1);
            }
            edge
        }
    }

    proptest! {
        #[test]
        fn changes_survive_the_journey(
            now_ns: u64,
            forgets_graph: bool,
            open in prop::collection::btree_map(any::<u32>(), edges(), 0..5),
            closed in prop::collection::btree_set(any::<u32>(), 0..5),
            markers in prop::collection::vec(((keys(), any::<bool>()), any::<u64>()), 0..3),
            fingerprints in prop::collection::vec((any::<[u8; 16]>(), 0u64..3, any::<bool>()), 0..6),
        ) {
            let ranges = [HashRange::new(3, 9), HashRange::new(11, u64::MAX)];
            let ranges: HashRanges = ranges.into_iter().flatten().collect();
            let mut fingerprints: Vec<_> = fingerprints
                .into_iter()
                .map(|(bytes, second, is_part)| {
                    (Fingerprint::from_bytes(bytes), second, is_part.then(|| ranges.clone()))
                })
                .collect();
            fingerprints.sort_by_key(|(_, second, _)| *second);
            let mut writer = StateWriter::new(now_ns);
            if forgets_graph {
                writer.forget_graph();
            }
            for (name, second, ranges) in &fingerprints {
                writer.applied(*second, *name, ranges.as_ref().map_or(Applied::Whole, Applied::Part));
            }
            for slot in &closed {
                writer.close(*slot);
            }
            for (slot, edge) in &open {
                writer.open(*slot, edge, HALVES[edge.half as usize], HALVES[edge.client_half as usize]);
            }
            for (side, until_ns) in &markers {
                writer.marker(*side, *until_ns);
            }
            let bytes = writer.finish();
            let read = StateChanges::read(&bytes, "state").unwrap();
            prop_assert_eq!(bytes.is_empty(), read == StateChanges::default());
            prop_assert_eq!(read.forgets_graph, forgets_graph);
            prop_assert_eq!(read.fingerprints, fingerprints);
            prop_assert_eq!(read.closed, Vec::from_iter(closed));
            prop_assert_eq!(read.markers, markers);
            prop_assert_eq!(read.open.len(), open.len());
            for ((slot, mut edge), (number, written)) in read.open.into_iter().zip(open) {
                prop_assert_eq!(slot, number);
                let halves = [edge.half, edge.client_half].map(|half| read.halves[half as usize]);
                let wanted = [written.half, written.client_half].map(|half| HALVES[half as usize]);
                prop_assert_eq!(halves, wanted);
                (edge.half, edge.client_half) = (written.half, written.client_half);
                prop_assert_eq!(edge, written);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = StateChanges::read(&bytes, "state");
        }

        #[test]
        fn a_damaged_state_or_one_of_another_range_is_refused(at in 0usize..80, bit in 0u8..8) {
            let mut writer = StateWriter::new(1);
            writer.forget_graph();
            let sealed = seal_state(1, 3, &writer.finish());
            prop_assert!(open_state(&sealed, 1, 3).unwrap().forgets_graph);
            prop_assert!(open_state(&sealed, 1, 4).is_err());
            let mut flipped = sealed.clone();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(open_state(&flipped, 1, 3).is_err());
        }
    }
}

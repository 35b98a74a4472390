//! What the shards of one tenant would need to go on, kept by the collector: fed by the same records as the registry, and
//! asked when a hash range gets another owner.

use std::collections::BTreeMap;

use crate::byte_reader::ByteReader;
use crate::error::FrameError;
use crate::fingerprint::Fingerprint;
use crate::fingerprints::{Applied, Fingerprints};
use crate::hash_range::{HashRange, HashRanges};
use crate::kept_edges::{KeptEdge, KeptEdges};
use crate::markers::Side;
use crate::record_envelope::Envelope;
use crate::sealed_bytes::{open_sealed, seal};
use crate::shard_state::{StateChanges, StateWriter, put_ranges, read_ranges, seal_state};
use crate::wire::put_varint;

const VERSION: u8 = 1;
const WHAT: &str = "mirror";
const SECOND_NS: u64 = 1_000_000_000;

/// The state of a tenant's shards, by index and count.
#[derive(Debug)]
pub struct Mirror {
    window_ns: u64,
    entries: BTreeMap<(u32, u32), Entry>,
}

/// How big a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorStats {
    /// Half edges that wait.
    pub open_edges: usize,
    /// Requests that are known.
    pub fingerprints: usize,
    /// Sides of edges that are kept out.
    pub markers: usize,
    /// Shards that something is known of, or was.
    pub ranges: usize,
    /// Bytes held.
    pub state_bytes: usize,
}

impl Mirror {
    /// Nothing is known; requests are remembered for `window_ns`.
    pub fn new(window_ns: u64) -> Self {
        Self {
            window_ns,
            entries: BTreeMap::new(),
        }
    }

    /// Take over what a record tells of the state of shard `index` of `count`; the record may be its durable part.
    /// Records of one owner must come in order, each once.
    pub fn apply(&mut self, index: u32, count: u32, record: &[u8], now_ns: u64) -> Result<(), FrameError> {
        let range = hash_range(index, count)?;
        let changes = read(record)?;
        let window_ns = self.window_ns;
        let entry = self
            .entries
            .entry((index, count))
            .or_insert_with(|| Entry::new(range.into(), window_ns));
        // From now on, whenever they were applied: until now whoever sent them could not know that they are safe.
        entry.apply(&changes, Some(now_ns / SECOND_NS));
        entry.expire(now_ns);
        Ok(())
    }

    /// Whether [`Self::apply`] would take the record.
    pub fn check(index: u32, count: u32, record: &[u8]) -> Result<(), FrameError> {
        hash_range(index, count)?;
        read(record).map(drop)
    }

    /// Give shard `index` of `count` to a new owner: the state that it begins with, cut out of all that is known of its
    /// range. What lies outside stays for others.
    ///
    /// The slots of the new entry are those in the bytes, so the new owner's records fit it. To claim again gives the
    /// same again, but for what has expired.
    pub fn claim(&mut self, index: u32, count: u32, now_ns: u64) -> Result<Vec<u8>, FrameError> {
        let range = hash_range(index, count)?;
        let mut carved = Carved::default();
        for entry in self.entries.values_mut() {
            entry.expire(now_ns);
            entry.carve(range, &mut carved);
        }
        self.entries.retain(|_, entry| !entry.ranges.is_empty());
        let entry = carved.into_entry(range, self.window_ns);
        let state = seal_state(index, count, &entry.told());
        self.entries.insert((index, count), entry);
        Ok(state)
    }

    /// Index, count and half edges of every shard that something is known of.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32, usize)> {
        self.entries
            .iter()
            .map(|((index, count), entry)| (*index, *count, entry.edges.len()))
    }

    /// Everything, to go on from with [`Self::restore`].
    pub fn checkpoint(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.window_ns);
        put_varint(&mut out, self.entries.len() as u64);
        for ((index, count), entry) in &self.entries {
            put_varint(&mut out, u64::from(*index));
            put_varint(&mut out, u64::from(*count));
            put_ranges(&mut out, &entry.ranges);
            let state = entry.told();
            put_varint(&mut out, state.len() as u64);
            out.extend_from_slice(&state);
        }
        seal(out)
    }

    /// The mirror of a checkpoint; from then on the same calls give the same bytes.
    pub fn restore(checkpoint: &[u8]) -> Result<Self, FrameError> {
        let mut reader = open_sealed(checkpoint, VERSION, WHAT)?;
        let mut mirror = Self::new(reader.varint()?);
        for _ in 0..reader.count()? {
            let key = (reader.number()?, reader.number()?);
            hash_range(key.0, key.1)?;
            let entry = read_entry(&mut reader, mirror.window_ns)?;
            if mirror.entries.insert(key, entry).is_some() {
                return Err(reader.refuse("a range is told of twice"));
            }
        }
        reader.finish()?;
        Ok(mirror)
    }

    /// How big the mirror is.
    pub fn stats(&self) -> MirrorStats {
        let sum = |of: fn(&Entry) -> usize| self.entries.values().map(of).sum();
        MirrorStats {
            open_edges: sum(|entry| entry.edges.len()),
            fingerprints: sum(|entry| entry.fingerprints.len()),
            markers: sum(|entry| entry.markers.len()),
            ranges: self.entries.len(),
            state_bytes: sum(Entry::state_bytes),
        }
    }
}

fn hash_range(index: u32, count: u32) -> Result<HashRange, FrameError> {
    HashRange::of(index, count).ok_or(FrameError {
        what: WHAT,
        fault: "there is no such hash range",
    })
}

fn read(record: &[u8]) -> Result<StateChanges<'_>, FrameError> {
    StateChanges::read(Envelope::open(record)?.state, "record")
}

fn read_entry(reader: &mut ByteReader<'_>, window_ns: u64) -> Result<Entry, FrameError> {
    let mut entry = Entry::new(read_ranges(reader)?, window_ns);
    let length = reader.count()?;
    entry.apply(&StateChanges::read(reader.bytes(length)?, WHAT)?, None);
    Ok(entry)
}

/// What is known of one shard.
#[derive(Debug)]
struct Entry {
    /// The shard's range without what others have claimed of it; a fingerprint's whole range is this one.
    ranges: HashRanges,
    edges: KeptEdges,
    markers: BTreeMap<Side, u64>,
    /// No marker ends before.
    next_end_ns: u64,
    fingerprints: Fingerprints,
}

impl Entry {
    fn new(ranges: HashRanges, window_ns: u64) -> Self {
        Self {
            ranges,
            edges: KeptEdges::default(),
            markers: BTreeMap::new(),
            next_end_ns: u64::MAX,
            fingerprints: Fingerprints::new(window_ns),
        }
    }

    /// Take over changes; their requests are of this second, or else of that which is told.
    fn apply(&mut self, changes: &StateChanges<'_>, second: Option<u64>) {
        if changes.forgets_graph {
            self.edges = KeptEdges::default();
            self.markers.clear();
        }
        self.edges.apply(changes);
        for (side, until_ns) in &changes.markers {
            self.mark(*side, *until_ns);
        }
        for (fingerprint, at_s, part) in &changes.fingerprints {
            let part = part.clone().filter(|part| *part != self.ranges);
            self.fingerprints
                .put_at(*fingerprint, part, second.unwrap_or(*at_s));
        }
    }

    fn mark(&mut self, side: Side, until_ns: u64) {
        self.markers.insert(side, until_ns);
        self.next_end_ns = self.next_end_ns.min(until_ns);
    }

    fn expire(&mut self, now_ns: u64) {
        self.fingerprints.expire(now_ns);
        if self.next_end_ns <= now_ns {
            self.markers.retain(|_, until_ns| now_ns < *until_ns);
            self.next_end_ns = self.markers.values().copied().min().unwrap_or(u64::MAX);
        }
    }

    /// Hand over what lies in a range.
    fn carve(&mut self, range: HashRange, carved: &mut Carved) {
        let taken = self.ranges.within(range);
        if taken.is_empty() {
            return;
        }
        self.ranges = self.ranges.without(&range.into());
        carved.edges.extend(self.edges.take(range));
        let sides = std::mem::take(&mut self.markers);
        let (inside, outside): (BTreeMap<_, _>, _) = sides
            .into_iter()
            .partition(|((key, _), _)| range.contains(key.trace_hash()));
        carved.markers.extend(inside);
        self.markers = outside;
        let window_ns = self.fingerprints.window_ns();
        let former = std::mem::replace(&mut self.fingerprints, Fingerprints::new(window_ns));
        for (at_s, fingerprint, applied) in former.iter() {
            let (inside, outside) = match applied {
                Applied::Whole => (taken.clone(), self.ranges.clone()),
                Applied::Part(part) => (part.within(range), part.without(&range.into())),
            };
            if !inside.is_empty() {
                carved.fingerprints.push((fingerprint, at_s, inside));
            }
            if !outside.is_empty() {
                let part = (outside != self.ranges).then_some(outside);
                self.fingerprints.put_at(fingerprint, part, at_s);
            }
        }
    }

    /// All of it, as changes of nothing.
    fn told(&self) -> Vec<u8> {
        let mut out = StateWriter::new(self.edges.newest_ns());
        for (at_s, fingerprint, applied) in self.fingerprints.iter() {
            out.applied(at_s, fingerprint, applied);
        }
        self.edges.tell(&mut out);
        for (side, until_ns) in &self.markers {
            out.marker(*side, *until_ns);
        }
        out.finish()
    }

    fn state_bytes(&self) -> usize {
        self.edges.state_bytes()
            + self.markers.len() * size_of::<(Side, u64)>()
            + self.fingerprints.state_bytes()
            + self.ranges.heap_bytes()
    }
}

/// What a claim finds in a range.
#[derive(Debug, Default)]
struct Carved {
    edges: Vec<KeptEdge>,
    markers: BTreeMap<Side, u64>,
    fingerprints: Vec<(Fingerprint, u64, HashRanges)>,
}

impl Carved {
    fn into_entry(mut self, range: HashRange, window_ns: u64) -> Entry {
        let mut entry = Entry::new(range.into(), window_ns);
        // The order in which they will expire.
        self.edges.sort_by_key(|kept| kept.edge.opened_at_ns);
        entry.edges = self.edges.into_iter().collect();
        for (side, until_ns) in self.markers {
            entry.mark(side, until_ns);
        }
        // A request that was applied to several shards is one again.
        self.fingerprints.sort_by_key(|(fingerprint, ..)| *fingerprint);
        self.fingerprints
            .dedup_by(|(other, at_s, ranges), (kept, kept_at_s, kept_ranges)| {
                let is_same = other == kept;
                if is_same {
                    *kept_at_s = (*kept_at_s).max(*at_s);
                    *kept_ranges = kept_ranges.union(ranges);
                }
                is_same
            });
        self.fingerprints
            .sort_by_key(|(fingerprint, at_s, _)| (*at_s, *fingerprint));
        for (fingerprint, at_s, ranges) in self.fingerprints {
            let part = (!ranges.is(range)).then_some(ranges);
            entry.fingerprints.put_at(fingerprint, part, at_s);
        }
        entry
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::edge_store::Edge;
    use crate::frame::EdgeKey;
    use crate::ledger::Ledger;
    use crate::record::{GroupWriter, ShardCounters};
    use crate::shard_state::open_state;
    use proptest::prelude::*;

    const MINUTE_NS: u64 = 60 * SECOND_NS;
    const WINDOW_NS: u64 = 10 * MINUTE_NS;

    fn key(id: u8) -> EdgeKey {
        EdgeKey::new(&[id; 16], &[id; 8])
    }

    /// A record that tells of the request, the edge and the marker of every id.
    fn record(ids: &[u8]) -> Vec<u8> {
        let mut out = StateWriter::new(SECOND_NS);
        for id in ids {
            out.applied(1, Fingerprint::of(&[*id]), Applied::Whole);
        }
        for (slot, id) in (0..).zip(ids) {
            let edge = Edge::new(key(*id), 0, u64::from(*id));
            out.open(slot, &edge, (b"names", &[*id]), (b"names", &[*id]));
            out.marker((key(*id), true), 5 * SECOND_NS);
        }
        GroupWriter::new(&ShardCounters::default(), &Ledger::default(), 0).finish_with(&out.finish())
    }

    /// A record that tells of one request, applied long ago.
    fn request(number: u64) -> Vec<u8> {
        let mut out = StateWriter::new(SECOND_NS);
        out.applied(1, Fingerprint::of(&number.to_be_bytes()), Applied::Whole);
        GroupWriter::new(&ShardCounters::default(), &Ledger::default(), 0).finish_with(&out.finish())
    }

    #[test]
    fn a_request_of_several_ranges_is_one_when_they_are_claimed_together() {
        let mut mirror = Mirror::new(WINDOW_NS);
        for index in 0..3 {
            mirror.apply(index, 3, &record(&[]), SECOND_NS).unwrap();
        }
        assert_eq!(mirror.stats().ranges, 3);
        for index in [0, 2] {
            let mut out = StateWriter::new(SECOND_NS);
            out.applied(0, Fingerprint::of(b"request"), Applied::Whole);
            let record =
                GroupWriter::new(&ShardCounters::default(), &Ledger::default(), 0).finish_with(&out.finish());
            mirror
                .apply(index, 3, &record, u64::from(index) * SECOND_NS)
                .unwrap();
        }
        let state = mirror.claim(0, 1, SECOND_NS).unwrap();
        let ranges = [0, 2].map(|index| HashRange::of(index, 3).unwrap());
        let wanted = (Fingerprint::of(b"request"), 2, Some(ranges.into_iter().collect()));
        assert_eq!(open_state(&state, 0, 1).unwrap().fingerprints, [wanted]);
        // In the range of a shard that counted it, it was applied to all.
        let state = mirror.claim(2, 3, SECOND_NS).unwrap();
        let wanted = (Fingerprint::of(b"request"), 2, None);
        assert_eq!(open_state(&state, 2, 3).unwrap().fingerprints, [wanted]);
    }

    #[test]
    fn markers_and_requests_have_their_time_and_a_refused_record_changes_nothing() {
        let mut mirror = Mirror::new(WINDOW_NS);
        mirror.apply(0, 1, &record(&[1, 2]), SECOND_NS).unwrap();
        let before = mirror.checkpoint();
        let damaged = record(&[3]).split_last().map(|(_, rest)| rest.to_vec()).unwrap();
        assert!(mirror.apply(0, 1, &damaged, u64::MAX).is_err());
        assert!(mirror.apply(3, 3, &record(&[3]), u64::MAX).is_err());
        assert_eq!(mirror.checkpoint(), before);
        let count = |mirror: &Mirror| (mirror.stats().markers, mirror.stats().fingerprints);
        mirror.apply(0, 1, &record(&[]), 5 * SECOND_NS - 1).unwrap();
        assert_eq!(count(&mirror), (2, 2));
        mirror.apply(0, 1, &record(&[]), 5 * SECOND_NS).unwrap();
        assert_eq!(count(&mirror), (0, 2));
        for minute in 1..=11 {
            mirror.apply(0, 1, &request(minute), minute * MINUTE_NS).unwrap();
        }
        assert_eq!((count(&mirror), mirror.stats().open_edges), ((0, 11), 2));
    }

    #[test]
    fn requests_have_their_time_from_when_they_are_safe_and_while_their_range_lives() {
        let mut mirror = Mirror::new(WINDOW_NS);
        // The journal was away for hours: these come late, and one after the other.
        for minute in 0..10 {
            mirror
                .apply(0, 1, &request(minute), 7200 * SECOND_NS + minute * MINUTE_NS)
                .unwrap();
        }
        assert_eq!(mirror.stats().fingerprints, 10);
        // Nobody could be found to count for the range for a day.
        mirror.claim(0, 1, 86_400 * SECOND_NS).unwrap();
        let state = mirror.claim(0, 1, 86_401 * SECOND_NS).unwrap();
        assert_eq!(open_state(&state, 0, 1).unwrap().fingerprints.len(), 10);
        for minute in 10..20 {
            mirror
                .apply(0, 1, &request(minute), 86_400 * SECOND_NS + minute * MINUTE_NS)
                .unwrap();
        }
        assert_eq!(mirror.stats().fingerprints, 11);
    }

    proptest! {
        #[test]
        fn claims_lose_nothing_and_are_the_same_after_a_restart(
            ids in prop::collection::btree_set(any::<u8>(), 0..30),
            claims in prop::collection::vec((0u32..4, 1u32..5), 0..6),
        ) {
            let ids = Vec::from_iter(ids);
            let mut mirror = Mirror::new(WINDOW_NS);
            mirror.apply(0, 1, &record(&ids), SECOND_NS).unwrap();
            for (index, count) in claims {
                let Ok(state) = mirror.claim(index % count, count, SECOND_NS) else {
                    continue;
                };
                let checkpoint = mirror.checkpoint();
                let mut restored = Mirror::restore(&checkpoint).unwrap();
                prop_assert_eq!(restored.checkpoint(), checkpoint);
                prop_assert_eq!(restored.claim(index % count, count, SECOND_NS).unwrap(), state);
                let stats = mirror.stats();
                prop_assert_eq!((stats.open_edges, stats.markers), (ids.len(), ids.len()));
            }
            let state = mirror.claim(0, 1, SECOND_NS).unwrap();
            let state = open_state(&state, 0, 1).unwrap();
            let opened: Vec<u64> = state.open.iter().map(|(_, edge)| edge.opened_at_ns).collect();
            prop_assert_eq!(opened, ids.iter().map(|id| u64::from(*id)).collect::<Vec<_>>());
            prop_assert_eq!(state.fingerprints.len(), ids.len());
            prop_assert!(state.fingerprints.iter().all(|(_, _, part)| part.is_none()));
        }

        #[test]
        fn a_damaged_checkpoint_is_refused(at in 0usize..400, bit in 0u8..8) {
            let mut mirror = Mirror::new(WINDOW_NS);
            mirror.apply(0, 1, &record(&[1, 2]), SECOND_NS).unwrap();
            let mut damaged = mirror.checkpoint();
            let at = at % damaged.len();
            damaged[at] ^= 1 << bit;
            prop_assert!(Mirror::restore(&damaged).is_err());
            prop_assert!(Mirror::restore(&mirror.checkpoint()[..at]).is_err());
        }
    }
}

//! Service graphs in one shard: pair client and server spans into edges and count them (processors §2).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::edge_labels::{Connection, edge_labels};
use crate::edge_store::{Edge, EdgeStore, SlotNews};
use crate::frame::{EdgeRow, Frame, used_entries};
use crate::group::{Group, HistogramShape, NO_ENTITY, Observation, Shape};
use crate::half;
use crate::halves::Halves;
use crate::hash_range::HashRanges;
use crate::labels::Labels;
use crate::ledger::{Entry, Ledger};
use crate::markers::Markers;
use crate::plan::{HistogramPlan, Plan};
use crate::record::ShardCounters;
use crate::service_graph_plan::ServiceGraphPlan;
use crate::shard::histogram_shape;
use crate::shard_state::{StateChanges, StateWriter};
use crate::span::{CLIENT, CONSUMER, PRODUCER};

/// Counter of completed edges.
pub const TOTAL: usize = 0;
/// Counter of failed edges.
pub const FAILED: usize = 1;
/// Counter of completed edges that the connection gauge follows.
pub const CONNECTED: usize = 2;
/// Histogram of server latencies.
pub const SERVER_SECONDS: usize = 0;
/// Histogram of client latencies.
pub const CLIENT_SECONDS: usize = 1;
/// Histogram of the time between a producer's end and the consumer's start.
pub const MESSAGING_SECONDS: usize = 2;

/// How many counters an edge's label set has.
pub const COUNTERS: usize = 3;

/// What becomes of most spans, for the side that they are of: client and server.
const OUTCOMES: usize = 4;
const OUTCOME_ENTRIES: [Entry; OUTCOMES] = [Entry::InEdge, Entry::InEdge, Entry::Unpaired, Entry::Unpaired];

/// The state of the processor in one shard.
#[derive(Debug)]
pub struct ServiceGraph {
    edges: EdgeStore,
    halves: Halves,
    markers: Markers,
    /// The entity of an overlay with its connection; `NO_ENTITY`: its labels are not UTF-8.
    entities: HashMap<(u32, Connection), u32>,
    /// What became of spans since the last record, by number of their half: there are few of these, and many spans.
    outcomes: Vec<[u32; OUTCOMES]>,
    /// What was counted since the last flush.
    pub group: Group,
}

/// The shape of service-graph entities.
pub fn shape(plan: &ServiceGraphPlan, histograms: &HistogramPlan) -> Shape {
    let one: HistogramShape = histogram_shape(&Arc::new(plan.bounds.clone()), histograms);
    Shape {
        counters: COUNTERS,
        histograms: vec![one.clone(), one.clone(), one],
    }
}

/// What every step of counting needs.
struct Work<'w> {
    plan: &'w ServiceGraphPlan,
    now_ns: u64,
    counters: &'w mut ShardCounters,
    ledger: &'w mut Ledger,
}

/// What adding a span to edges that wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// It changed no numbers.
    Nothing,
    /// Its half found no room.
    NoRoom,
    /// An edge was counted, or would have been but for its labels.
    Counted(Entry),
}

/// Where a shard keeps what its processors tell besides series.
pub type Told<'t> = (&'t mut ShardCounters, &'t mut Ledger);

impl ServiceGraph {
    /// An empty processor.
    pub fn new(plan: &ServiceGraphPlan, histograms: &HistogramPlan) -> Self {
        Self {
            edges: EdgeStore::default(),
            halves: Halves::default(),
            markers: Markers::default(),
            entities: HashMap::new(),
            outcomes: Vec::new(),
            group: Group::new(shape(plan, histograms)),
        }
    }

    /// Go on with other settings; `group` must have been flushed. Edges keep what they know of the dimensions that stay.
    pub fn set_plan(
        &mut self,
        before: &ServiceGraphPlan,
        plan: &ServiceGraphPlan,
        histograms: &HistogramPlan,
        now_ns: u64,
    ) {
        self.entities.clear();
        self.group = Group::new(shape(plan, histograms));
        if before.slot_names == plan.slot_names {
            return;
        }
        let former = std::mem::take(&mut self.halves);
        let halves = &mut self.halves;
        let mut moved = |number: u32| {
            let half = half::moved(former.bytes(number), &before.slot_names, &plan.slot_names);
            // There is room: no more halves than before.
            halves.number(&half, now_ns).unwrap_or_default()
        };
        self.edges.for_each(|edge| {
            edge.half = moved(edge.half);
            edge.client_half = moved(edge.client_half);
        });
    }

    /// Go on with what a former owner left, in an empty processor. An edge whose halves find no room is dropped.
    pub fn resume(
        &mut self,
        state: &StateChanges<'_>,
        plan: &ServiceGraphPlan,
        (counters, ledger): Told<'_>,
    ) {
        let numbers: Vec<Option<u32>> = state
            .halves
            .iter()
            .map(|(names, bytes)| {
                if *names == plan.slot_names {
                    self.halves.number(bytes, state.now_ns)
                } else {
                    let moved = half::moved(bytes, names, &plan.slot_names);
                    self.halves.number(&moved, state.now_ns)
                }
            })
            .collect();
        let number = |position: u32| numbers.get(position as usize).copied().flatten();
        let mut dropped = Vec::new();
        for (_, edge) in &state.open {
            let halves = number(edge.half).zip(number(edge.client_half));
            let (half, client_half) = halves.unwrap_or_default();
            let place = self.edges.insert_told(Edge {
                half,
                client_half,
                ..*edge
            });
            if halves.is_none() {
                dropped.push(place);
                if let Some(service) = state.service_waiting(edge) {
                    ledger.add(service, Entry::BufferFull, 1);
                }
            }
        }
        // Not before all have their places, which are those that the collector knows them by.
        for place in dropped {
            self.edges.remove_at(place);
            counters.dropped_spans += 1;
        }
        for (side, until_ns) in &state.markers {
            self.markers.put_told(*side, *until_ns);
        }
    }

    /// Tell what a successor needs and does not know yet.
    pub fn tell(&mut self, plan: &ServiceGraphPlan, out: &mut StateWriter) {
        let halves = &self.halves;
        let named = |number| (&*plan.slot_names, halves.bytes(number));
        self.edges.tell(|slot, news| match news {
            SlotNews::Open(edge) => out.open(slot, &edge, named(edge.half), named(edge.client_half)),
            SlotNews::Closed => out.close(slot),
        });
        self.markers.tell(|side, until_ns| out.marker(side, until_ns));
    }

    /// Whether a record told of an edge or a marker that a successor would go on with.
    pub fn is_told(&self) -> bool {
        self.edges.is_told() || !self.markers.is_empty()
    }

    /// Take one frame's spans in; with `part` only those of its hashes.
    pub fn apply(
        &mut self,
        frame: &Frame<'_>,
        part: Option<&HashRanges>,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        (counters, ledger): Told<'_>,
    ) {
        let is_of_this_plan = frame.slot_names().is_empty() || frame.slot_names() == plan.slot_names;
        let is_taken = |row: &EdgeRow| part.is_none_or(|part| part.contains(row.key.trace_hash()));
        let used = part.map(|_| {
            let rows = frame.edges().filter(|row| !row.is_marker && is_taken(row));
            used_entries(rows.map(|row| row.half), frame.halves().count())
        });
        let numbers: Vec<Option<u32>> = frame
            .halves()
            .enumerate()
            .map(|(position, bytes)| {
                if used
                    .as_ref()
                    .is_some_and(|used| !used.get(position).is_some_and(|is_used| *is_used))
                {
                    return None;
                }
                if is_of_this_plan {
                    return self.halves.number(bytes, now_ns);
                }
                let moved = half::moved(bytes, frame.slot_names(), &plan.slot_names);
                self.halves.number(&moved, now_ns)
            })
            .collect();
        let mut work = Work {
            plan,
            now_ns,
            counters,
            ledger,
        };
        for row in frame.edges().filter(is_taken) {
            if row.is_marker {
                self.mark(&row, &mut work);
                continue;
            }
            if let Some(half) = numbers.get(row.half as usize).copied().flatten() {
                self.upsert(&row, half, &mut work);
            } else {
                work.counters.dropped_spans += 1;
                let half = frame.halves().nth(row.half as usize).unwrap_or_default();
                work.ledger
                    .add(half::service(half, is_client(&row)), Entry::BufferFull, 1);
            }
        }
    }

    /// Remember that a filter kept a span out, and give up the edge that waits for it (processors §2.5).
    fn mark(&mut self, row: &EdgeRow, work: &mut Work<'_>) {
        let is_client = is_client(row);
        for place in self.edges.places(&row.key) {
            let Some(edge) = self.edges.at(place) else {
                continue;
            };
            let has_server = is_named(&self.halves, edge.half, half::SERVER);
            if has_server == is_client && !edge.is_template {
                let service = edge.service_waiting(self.halves.bytes(edge.half));
                work.ledger.add(service, Entry::OtherSideFiltered, 1);
                self.edges.remove_at(place);
                work.counters.dropped_edges += 1;
            }
        }
        let plan = work.plan;
        if !self
            .markers
            .put(row.key, is_client, work.now_ns, plan.wait_ns, plan.max_items)
        {
            work.counters.marker_overflow += 1;
        }
    }

    #[inline]
    fn upsert(&mut self, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        let now_ns = work.now_ns;
        if let Some(place) = self.edges.find(&row.key) {
            if work.plan.counts_every_receiver && row.key.span_len > 0 {
                self.upsert_receiver(row, half, work);
            } else {
                self.join(place, row, half, work);
            }
            return;
        }
        if self.markers.has(row.key, !is_client(row), now_ns) {
            work.counters.dropped_edges += 1;
            self.discard(row, half, Entry::OtherSideFiltered, work);
            return;
        }
        let mut edge = Edge::new(row.key, half, now_ns);
        update(&mut edge, row, half, work.plan);
        if self.halves.is_complete(half) {
            work.counters.edges += 1;
            let outcome = self.emit(&edge, None, work);
            self.end(&edge, outcome, work);
        } else {
            self.insert(edge, row, half, work);
        }
    }

    /// A span will be in no edge.
    #[cold]
    fn discard(&self, row: &EdgeRow, half: u32, entry: Entry, work: &mut Work<'_>) {
        work.ledger
            .add(half::service(self.halves.bytes(half), is_client(row)), entry, 1);
    }

    /// The span that waits in an edge waits no longer.
    #[inline]
    fn end(&mut self, edge: &Edge, outcome: Entry, work: &mut Work<'_>) {
        self.conclude(edge.half, !edge.has_server, outcome, work);
    }

    /// Count what became of a span with this half.
    #[inline]
    fn conclude(&mut self, half: u32, is_client: bool, outcome: Entry, work: &mut Work<'_>) {
        let kind = match outcome {
            Entry::InEdge => 0,
            Entry::Unpaired => 2,
            _ => {
                let service = half::service(self.halves.bytes(half), is_client);
                work.ledger.add(service, outcome, 1);
                return;
            }
        };
        if self.outcomes.len() <= half as usize {
            self.outcomes.resize(half as usize + 1, [0; OUTCOMES]);
        }
        if let Some(outcomes) = self.outcomes.get_mut(half as usize) {
            outcomes[kind + usize::from(!is_client)] += 1;
        }
    }

    /// Move what was counted by half into the ledger, where it is counted by service. Before halves are forgotten.
    pub fn settle(&mut self, ledger: &mut Ledger) {
        for (half, outcomes) in self.outcomes.iter().enumerate() {
            for ((index, entry), spans) in OUTCOME_ENTRIES.iter().enumerate().zip(outcomes) {
                if *spans > 0 {
                    let service = half::service(self.halves.bytes(half as u32), index % 2 == 0);
                    ledger.add(service, *entry, u64::from(*spans));
                }
            }
        }
        self.outcomes.clear();
    }

    /// Count all that waits as lost, for service graphs are turned off; after [`Self::settle`].
    pub fn give_up(&self, ledger: &mut Ledger) {
        for edge in self.edges.iter().filter(|edge| !edge.is_template) {
            ledger.add(
                edge.service_waiting(self.halves.bytes(edge.half)),
                Entry::TurnedOff,
                1,
            );
        }
    }

    /// Add a span to the edge that waits for it.
    #[inline]
    fn join(&mut self, place: u32, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        let Some(before) = self.edges.at(place).copied() else {
            return;
        };
        let Some(overlay) = self.halves.overlay(before.half, half, work.now_ns) else {
            work.counters.dropped_spans += 1;
            self.discard(row, half, Entry::BufferFull, work);
            return;
        };
        let mut edge = before;
        edge.half = overlay;
        update(&mut edge, row, half, work.plan);
        if self.halves.is_complete(overlay) {
            self.edges.remove_at(place);
            let outcome = self.emit(&edge, None, work);
            self.end(&before, outcome, work);
            self.conclude(half, is_client(row), outcome, work);
        } else {
            self.repeat(&before, &edge, row, half, work);
            if let Some(slot) = self.edges.at_mut(place) {
                *slot = edge;
            }
        }
    }

    /// A span was added to one that waits, and one of the two waits on: the other is the repeated one.
    #[cold]
    fn repeat(&self, before: &Edge, after: &Edge, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        let waited = before.service_waiting(self.halves.bytes(before.half));
        let waits = after.service_waiting(self.halves.bytes(after.half));
        let repeated = if waits == waited {
            half::service(self.halves.bytes(half), is_client(row))
        } else {
            waited
        };
        work.ledger.add(repeated, Entry::Repeated, 1);
    }

    /// Let an edge wait, if there is room when those that have waited their time are gone (Q17).
    fn insert(&mut self, edge: Edge, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        if self.edges.len() >= work.plan.max_items
            && let Some(until_ns) = work.now_ns.checked_sub(work.plan.wait_ns)
        {
            self.expire_until(until_ns, work);
        }
        if self.edges.len() >= work.plan.max_items {
            work.counters.dropped_spans += 1;
            self.discard(row, half, Entry::BufferFull, work);
        } else {
            work.counters.edges += 1;
            self.edges.insert(edge);
        }
    }

    /// A span whose key is known, where every server-side span makes an edge (Q13). Server-side spans that come before
    /// their client wait one by one; the client's half stays for those that come after it.
    fn upsert_receiver(&mut self, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        let is_client = is_client(row);
        let places = self.edges.places(&row.key);
        let has_client = places
            .iter()
            .any(|place| self.edges.at(*place).is_some_and(|edge| edge.has_client));
        if !is_client && !has_client {
            let mut edge = Edge::new(row.key, half, work.now_ns);
            update(&mut edge, row, half, work.plan);
            self.insert(edge, row, half, work);
            return;
        }
        let answers = places
            .into_iter()
            .map(|place| self.answer(place, row, half, work))
            .max()
            .unwrap_or(Answer::Nothing);
        match answers {
            Answer::Counted(outcome) => self.conclude(half, is_client, outcome, work),
            Answer::NoRoom => self.discard(row, half, Entry::BufferFull, work),
            Answer::Nothing => self.discard(row, half, Entry::Repeated, work),
        }
        let is_answered = matches!(answers, Answer::Counted(_));
        if is_client && (is_answered || self.edges.find(&row.key).is_none()) {
            let mut edge = Edge::new(row.key, half, work.now_ns);
            update(&mut edge, row, half, work.plan);
            edge.is_template = true;
            if !edge.is_database || work.plan.pairs_databases {
                self.edges.insert(edge);
            }
        }
    }

    /// Add a span to one of the edges with its key.
    fn answer(&mut self, place: u32, row: &EdgeRow, half: u32, work: &mut Work<'_>) -> Answer {
        let Some(before) = self.edges.at(place).copied() else {
            return Answer::Nothing;
        };
        let is_client = is_client(row);
        if is_client && before.is_template {
            self.edges.remove_at(place);
            return Answer::Nothing;
        }
        let Some(overlay) = self.halves.overlay(before.half, half, work.now_ns) else {
            work.counters.dropped_spans += 1;
            return Answer::NoRoom;
        };
        let mut edge = before;
        edge.half = overlay;
        update(&mut edge, row, half, work.plan);
        if !self.halves.is_complete(overlay) {
            // What does not answer a client leaves it as it is for the next.
            if !before.is_template
                && let Some(slot) = self.edges.at_mut(place)
            {
                *slot = edge;
            }
            return Answer::Nothing;
        }
        work.counters.edges += u64::from(before.is_template);
        let outcome = self.emit(&edge, None, work);
        if !before.is_template {
            self.end(&before, outcome, work);
        }
        let stays = !edge.is_database || work.plan.pairs_databases;
        if is_client || !stays {
            self.edges.remove_at(place);
        } else if let Some(slot) = self.edges.at_mut(place) {
            *slot = edge.template();
        }
        Answer::Counted(outcome)
    }

    /// Let edges go that have waited since `until_ns` or longer (processors §2.4).
    pub fn expire(
        &mut self,
        until_ns: u64,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        (counters, ledger): Told<'_>,
    ) {
        self.markers.forget_expired(now_ns);
        let mut work = Work {
            plan,
            now_ns,
            counters,
            ledger,
        };
        self.expire_until(until_ns, &mut work);
    }

    fn expire_until(&mut self, until_ns: u64, work: &mut Work<'_>) {
        while let Some(mut edge) = self.edges.pop_expired(until_ns) {
            if edge.is_template {
                continue;
            }
            let is_named = |slot| is_named(&self.halves, edge.half, slot);
            let missing = match (is_named(half::CLIENT), is_named(half::PEER)) {
                (false, _) if edge.key.span_len == 0 => Some(Connection::VirtualClient),
                (true, _) if edge.is_database && is_named(half::DATABASE) => Some(Connection::Database),
                (true, true) => Some(Connection::VirtualServer),
                _ => None,
            };
            if missing.is_some() {
                if missing == Some(Connection::Database) {
                    // No span of the database came: the client's stands in for it.
                    edge.server_ns = edge.client_ns;
                }
                let outcome = self.emit(&edge, missing, work);
                self.end(&edge, outcome, work);
            } else {
                self.end(&edge, Entry::Unpaired, work);
                if let Some(count) = work.counters.expired_edges.get_mut(usize::from(edge.last_kind)) {
                    *count += 1;
                }
            }
        }
    }

    /// Count an edge; returns what became of its spans.
    fn emit(&mut self, edge: &Edge, missing: Option<Connection>, work: &mut Work<'_>) -> Entry {
        let (plan, now_ns) = (work.plan, work.now_ns);
        let connection = missing.unwrap_or(if edge.is_database {
            Connection::Database
        } else if edge.is_messaging {
            Connection::Messaging
        } else {
            Connection::Direct
        });
        let known = self.entities.get(&(edge.half, connection)).copied();
        let entity = known.unwrap_or_else(|| {
            let bytes = self.halves.bytes(edge.half);
            let labels = edge_labels(bytes, connection, plan);
            let entity = if Labels(&labels).is_valid() {
                self.group.entity(&labels, now_ns)
            } else {
                NO_ENTITY
            };
            self.entities.insert((edge.half, connection), entity);
            entity
        });
        self.group.touch(entity, now_ns);
        let Some(mut update) = self.group.update(entity) else {
            work.counters.invalid_utf8_edges += 1;
            return Entry::EdgeInvalidUtf8;
        };
        if plan.connection_info {
            update.add(CONNECTED, 1.0);
        }
        if plan.request {
            update.add(TOTAL, edge.weight());
            if edge.is_failed {
                update.add(FAILED, edge.weight());
            }
        }
        if !plan.latency {
            return Entry::InEdge;
        }
        let observed = |duration_ns| Observation {
            duration_ns,
            trace: edge.trace,
            is_error: edge.is_failed,
            weight: edge.weight(),
        };
        let is_virtual = matches!(connection, Connection::VirtualClient | Connection::VirtualServer);
        let has_both = plan.has_virtual_latency || !is_virtual;
        if has_both || edge.has_server {
            update.observe(SERVER_SECONDS, &observed(edge.server_ns));
        }
        if has_both || edge.has_client {
            update.observe(CLIENT_SECONDS, &observed(edge.client_ns));
        }
        if plan.messaging && connection == Connection::Messaging && edge.client_end_ns < edge.server_start_ns
        {
            update.observe(
                MESSAGING_SECONDS,
                &observed(edge.server_start_ns - edge.client_end_ns),
            );
        }
        Entry::InEdge
    }

    /// Forget halves not used since `before_ns`, which must lie further back than an edge may wait.
    pub fn retire(&mut self, before_ns: u64) {
        self.group.retire(before_ns);
        self.halves.retire(
            before_ns,
            self.edges.iter().flat_map(|edge| [edge.half, edge.client_half]),
        );
        // Cheaper to find these again than to tell which of them lost its half or its entity.
        self.entities.clear();
    }

    /// How many edges wait.
    pub fn open_edges(&self) -> usize {
        self.edges.len()
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        let entities = self.entities.capacity() * (size_of::<(u32, Connection, u32)>() + 1);
        entities
            + self.halves.state_bytes()
            + self.edges.state_bytes()
            + self.markers.state_bytes()
            + self.outcomes.capacity() * size_of::<[u32; OUTCOMES]>()
            + self.group.state_bytes()
    }
}

/// The processor of a plan, empty; `None`: it is off.
pub fn of_plan(plan: &Plan) -> Option<ServiceGraph> {
    plan.service_graphs
        .as_ref()
        .map(|processor| ServiceGraph::new(processor, &plan.histograms))
}

/// Count the spans of a frame that was made while service graphs were on, for a shard where they are off; with `part` only
/// those of its hashes.
pub fn turn_away(frame: &Frame<'_>, part: Option<&HashRanges>, ledger: &mut Ledger) {
    let mut rows = frame
        .edges()
        .filter(|row| !row.is_marker && part.is_none_or(|part| part.contains(row.key.trace_hash())))
        .peekable();
    if rows.peek().is_some() {
        let halves: Vec<&[u8]> = frame.halves().collect();
        for row in rows {
            let half = halves.get(row.half as usize).copied().unwrap_or_default();
            ledger.add(half::service(half, is_client(&row)), Entry::TurnedOff, 1);
        }
    }
}

fn is_client(row: &EdgeRow) -> bool {
    matches!(i32::from(row.kind), CLIENT | PRODUCER)
}

fn is_named(halves: &Halves, number: u32, slot: usize) -> bool {
    half::slot(halves.bytes(number), slot).is_some_and(|text| !text.is_empty())
}

fn update(edge: &mut Edge, row: &EdgeRow, half: u32, plan: &ServiceGraphPlan) {
    let is_messaging = matches!(i32::from(row.kind), PRODUCER | CONSUMER);
    let is_client = is_client(row);
    edge.last_kind = row.kind;
    edge.is_failed |= row.is_error;
    edge.is_messaging |= is_messaging;
    edge.is_database |= row.is_database;
    if is_client || row.key.span_len == 0 {
        edge.trace = row.key.trace;
    }
    if is_client {
        edge.has_client = true;
        edge.client_half = half;
        edge.is_client_failed = row.is_error;
        edge.is_client_messaging = is_messaging;
        edge.is_client_database = row.is_database;
        edge.client_weight = row.weight;
        edge.client_ns = row.duration_ns;
        edge.client_end_ns = row.at_ns;
        // The database's own span knows better how long the database took (Q12).
        if row.is_database && !(plan.pairs_databases && edge.has_server) {
            edge.server_ns = row.duration_ns;
        }
    } else {
        edge.has_server = true;
        edge.server_weight = row.weight;
        edge.server_start_ns = row.at_ns;
        edge.server_ns = row.duration_ns;
    }
}

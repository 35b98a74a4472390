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

/// The state of the processor in one shard.
#[derive(Debug)]
pub struct ServiceGraph {
    edges: EdgeStore,
    halves: Halves,
    markers: Markers,
    /// The entity of an overlay with its connection; `NO_ENTITY`: its labels are not UTF-8.
    entities: HashMap<(u32, Connection), u32>,
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
}

impl ServiceGraph {
    /// An empty processor.
    pub fn new(plan: &ServiceGraphPlan, histograms: &HistogramPlan) -> Self {
        Self {
            edges: EdgeStore::default(),
            halves: Halves::default(),
            markers: Markers::default(),
            entities: HashMap::new(),
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
        counters: &mut ShardCounters,
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
            dropped.extend(halves.is_none().then_some(place));
        }
        // Not before all have their places, which are those that the collector knows them by.
        for place in dropped {
            self.edges.remove_at(place);
            counters.dropped_spans += 1;
        }
        if state.halves.iter().any(|(names, _)| *names != plan.slot_names) {
            self.edges.for_each(|_| ());
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
        counters: &mut ShardCounters,
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
        };
        for row in frame.edges().filter(is_taken) {
            if row.is_marker {
                self.mark(&row, &mut work);
                continue;
            }
            match numbers.get(row.half as usize).copied().flatten() {
                Some(half) => self.upsert(&row, half, &mut work),
                None => work.counters.dropped_spans += 1,
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
            return;
        }
        let mut edge = Edge::new(row.key, half, now_ns);
        update(&mut edge, row, half, work.plan);
        if self.halves.is_complete(half) {
            work.counters.edges += 1;
            self.emit(&edge, None, work);
        } else {
            self.insert(edge, work);
        }
    }

    /// Add a span to the edge that waits for it.
    #[inline]
    fn join(&mut self, place: u32, row: &EdgeRow, half: u32, work: &mut Work<'_>) {
        let waiting = self.edges.at(place).map_or(half, |edge| edge.half);
        let Some(overlay) = self.halves.overlay(waiting, half, work.now_ns) else {
            work.counters.dropped_spans += 1;
            return;
        };
        if let Some(edge) = self.edges.at_mut(place) {
            edge.half = overlay;
            update(edge, row, half, work.plan);
        }
        if self.halves.is_complete(overlay)
            && let Some(edge) = self.edges.remove_at(place)
        {
            self.emit(&edge, None, work);
        }
    }

    /// Let an edge wait, if there is room when those that have waited their time are gone (Q17).
    fn insert(&mut self, edge: Edge, work: &mut Work<'_>) {
        if self.edges.len() >= work.plan.max_items
            && let Some(until_ns) = work.now_ns.checked_sub(work.plan.wait_ns)
        {
            self.expire_until(until_ns, work);
        }
        if self.edges.len() >= work.plan.max_items {
            work.counters.dropped_spans += 1;
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
            self.insert(edge, work);
            return;
        }
        let mut is_answered = false;
        for place in places {
            is_answered |= self.answer(place, row, half, work);
        }
        if is_client && (is_answered || self.edges.find(&row.key).is_none()) {
            let mut edge = Edge::new(row.key, half, work.now_ns);
            update(&mut edge, row, half, work.plan);
            edge.is_template = true;
            if !edge.is_database || work.plan.pairs_databases {
                self.edges.insert(edge);
            }
        }
    }

    /// Add a span to one of the edges with its key; returns whether that completed it.
    fn answer(&mut self, place: u32, row: &EdgeRow, half: u32, work: &mut Work<'_>) -> bool {
        let Some(before) = self.edges.at(place).copied() else {
            return false;
        };
        let is_client = is_client(row);
        if is_client && before.is_template {
            self.edges.remove_at(place);
            return false;
        }
        let Some(overlay) = self.halves.overlay(before.half, half, work.now_ns) else {
            work.counters.dropped_spans += 1;
            return false;
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
            return false;
        }
        work.counters.edges += u64::from(before.is_template);
        self.emit(&edge, None, work);
        let stays = !edge.is_database || work.plan.pairs_databases;
        if is_client || !stays {
            self.edges.remove_at(place);
        } else if let Some(slot) = self.edges.at_mut(place) {
            *slot = edge.template();
        }
        true
    }

    /// Let edges go that have waited since `until_ns` or longer (processors §2.4).
    pub fn expire(
        &mut self,
        until_ns: u64,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        counters: &mut ShardCounters,
    ) {
        self.markers.forget_expired(now_ns);
        self.expire_until(
            until_ns,
            &mut Work {
                plan,
                now_ns,
                counters,
            },
        );
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
                self.emit(&edge, missing, work);
            } else if let Some(count) = work.counters.expired_edges.get_mut(usize::from(edge.last_kind)) {
                *count += 1;
            }
        }
    }

    fn emit(&mut self, edge: &Edge, missing: Option<Connection>, work: &mut Work<'_>) {
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
            return;
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
            return;
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
            + self.group.state_bytes()
    }
}

/// The processor of a plan, empty; `None`: it is off.
pub fn of_plan(plan: &Plan) -> Option<ServiceGraph> {
    plan.service_graphs
        .as_ref()
        .map(|processor| ServiceGraph::new(processor, &plan.histograms))
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

//! Service graphs in one shard: pair client and server spans into edges and count them (processors §2).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::edge_store::{Edge, EdgeStore};
use crate::frame::{EdgeRow, Frame};
use crate::group::{Group, NO_ENTITY, Shape};
use crate::half;
use crate::halves::Halves;
use crate::labels::{Labels, label_set, truncate};
use crate::plan::ServiceGraphPlan;
use crate::record::ShardCounters;
use crate::span::{CLIENT, CONSUMER, PRODUCER};

/// Counter of completed edges.
pub const TOTAL: usize = 0;
/// Counter of failed edges.
pub const FAILED: usize = 1;
/// Histogram of server latencies.
pub const SERVER_SECONDS: usize = 0;
/// Histogram of client latencies.
pub const CLIENT_SECONDS: usize = 1;
/// Histogram of the time between a producer's end and the consumer's start.
pub const MESSAGING_SECONDS: usize = 2;

/// What an edge's `connection_type` says, and which of its sides is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Connection {
    Direct,
    Messaging,
    Database,
    VirtualClient,
    VirtualServer,
}

/// The state of the processor in one shard.
#[derive(Debug)]
pub struct ServiceGraph {
    edges: EdgeStore,
    halves: Halves,
    /// The entity of an overlay with its connection; `NO_ENTITY`: its labels are not UTF-8.
    entities: HashMap<(u32, Connection), u32>,
    /// What was counted since the last flush.
    pub group: Group,
}

/// The shape of service-graph entities.
pub fn shape(plan: &ServiceGraphPlan) -> Shape {
    let bounds = Arc::new(plan.bounds.clone());
    Shape {
        counters: 2,
        histograms: vec![Arc::clone(&bounds), Arc::clone(&bounds), bounds],
    }
}

impl ServiceGraph {
    /// An empty processor.
    pub fn new(plan: &ServiceGraphPlan) -> Self {
        Self {
            edges: EdgeStore::default(),
            halves: Halves::default(),
            entities: HashMap::new(),
            group: Group::new(shape(plan)),
        }
    }

    /// Go on with other settings; `group` must have been flushed. Edges keep what they know, slot by slot.
    pub fn set_plan(&mut self, plan: &ServiceGraphPlan) {
        self.entities.clear();
        self.group = Group::new(shape(plan));
    }

    /// Take one frame's spans in.
    pub fn apply(
        &mut self,
        frame: &Frame<'_>,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        counters: &mut ShardCounters,
    ) {
        let numbers: Vec<Option<u32>> = frame
            .halves()
            .map(|bytes| self.halves.number(bytes, now_ns))
            .collect();
        for row in frame.edges() {
            match numbers.get(row.half as usize).copied().flatten() {
                Some(half) => self.upsert(&row, half, plan, now_ns, counters),
                None => counters.dropped_spans += 1,
            }
        }
    }

    #[inline]
    fn upsert(
        &mut self,
        row: &EdgeRow,
        half: u32,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        counters: &mut ShardCounters,
    ) {
        if let Some(edge) = self.edges.get_mut(&row.key) {
            let Some(half) = self.halves.overlay(edge.half, half, now_ns) else {
                counters.dropped_spans += 1;
                return;
            };
            edge.half = half;
            update(edge, row);
            if self.halves.is_complete(half)
                && let Some(edge) = self.edges.remove(&row.key)
            {
                self.emit(&edge, None, plan, now_ns, counters);
            }
            return;
        }
        let mut edge = Edge {
            key: row.key,
            half,
            opened_at_ns: now_ns,
            trace: 0,
            client_ns: 0,
            server_ns: 0,
            client_end_ns: 0,
            server_start_ns: 0,
            last_kind: row.kind,
            is_failed: false,
            is_messaging: false,
            is_database: false,
        };
        update(&mut edge, row);
        if self.halves.is_complete(half) {
            counters.edges += 1;
            self.emit(&edge, None, plan, now_ns, counters);
        } else if self.edges.len() >= plan.max_items {
            counters.dropped_spans += 1;
        } else {
            counters.edges += 1;
            self.edges.insert(edge);
        }
    }

    /// Let edges go that have waited since `until_ns` or longer (processors §2.4).
    pub fn expire(
        &mut self,
        until_ns: u64,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        counters: &mut ShardCounters,
    ) {
        while let Some(edge) = self.edges.pop_expired(until_ns) {
            let bytes = self.halves.bytes(edge.half);
            let is_named = |slot| half::slot(bytes, slot).is_some_and(|text| !text.is_empty());
            let is_root = edge.key.span_len == 0;
            let missing = match (is_named(half::CLIENT), is_named(half::PEER)) {
                (false, _) if is_root => Some(Connection::VirtualClient),
                (true, true) => Some(Connection::VirtualServer),
                _ => None,
            };
            if missing.is_some() {
                self.emit(&edge, missing, plan, now_ns, counters);
            } else if let Some(count) = counters.expired_edges.get_mut(usize::from(edge.last_kind)) {
                *count += 1;
            }
        }
    }

    fn emit(
        &mut self,
        edge: &Edge,
        missing: Option<Connection>,
        plan: &ServiceGraphPlan,
        now_ns: u64,
        counters: &mut ShardCounters,
    ) {
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
            counters.invalid_utf8_edges += 1;
            return;
        };
        update.add(TOTAL, 1.0);
        if edge.is_failed {
            update.add(FAILED, 1.0);
        }
        update.observe(SERVER_SECONDS, edge.server_ns, edge.trace, edge.is_failed);
        update.observe(CLIENT_SECONDS, edge.client_ns, edge.trace, edge.is_failed);
        if plan.messaging && connection == Connection::Messaging && edge.client_end_ns < edge.server_start_ns
        {
            let between = edge.server_start_ns - edge.client_end_ns;
            update.observe(MESSAGING_SECONDS, between, edge.trace, edge.is_failed);
        }
    }

    /// Forget halves not used since `before_ns`, which must lie further back than an edge may wait.
    pub fn retire(&mut self, before_ns: u64) {
        self.group.retire(before_ns);
        self.halves
            .retire(before_ns, self.edges.iter().map(|edge| edge.half));
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
        entities + self.halves.state_bytes() + self.edges.state_bytes() + self.group.state_bytes()
    }
}

fn update(edge: &mut Edge, row: &EdgeRow) {
    let kind = i32::from(row.kind);
    let is_client = matches!(kind, CLIENT | PRODUCER);
    edge.last_kind = row.kind;
    edge.is_failed |= row.is_error;
    edge.is_messaging |= matches!(kind, PRODUCER | CONSUMER);
    edge.is_database |= row.is_database;
    if is_client || row.key.span_len == 0 {
        edge.trace = row.key.trace;
    }
    if is_client {
        edge.client_ns = row.duration_ns;
        edge.client_end_ns = row.at_ns;
    } else {
        edge.server_start_ns = row.at_ns;
    }
    if !is_client || row.is_database {
        edge.server_ns = row.duration_ns;
    }
}

fn edge_labels(half: &[u8], connection: Connection, plan: &ServiceGraphPlan) -> Vec<u8> {
    let text = |slot| half::slot(half, slot).unwrap_or_default();
    let peer = text(half::PEER);
    let client = match (connection, peer) {
        (Connection::VirtualClient, b"") => b"user",
        (Connection::VirtualClient, peer) => peer,
        _ => text(half::CLIENT),
    };
    let server = match connection {
        Connection::VirtualServer => peer,
        _ => text(half::SERVER),
    };
    let connection_type: &[u8] = match connection {
        Connection::Direct => b"",
        Connection::Messaging => b"messaging_system",
        Connection::Database => b"database",
        Connection::VirtualClient | Connection::VirtualServer => b"virtual_node",
    };
    let [client_label, server_label, type_label] = &plan.side_labels;
    let mut pairs: Vec<(&[u8], &[u8])> = vec![
        (client_label, client),
        (server_label, server),
        (type_label, connection_type),
    ];
    for (slot, label) in plan.dimension_labels.iter().enumerate() {
        pairs.push((label, text(half::DIMENSIONS + slot)));
    }
    if let Some(label) = &plan.virtual_node_label {
        let missing: &[u8] = match connection {
            Connection::VirtualClient => b"client",
            Connection::VirtualServer => b"server",
            _ if plan.prefixed => b"",
            _ => text(half::DIMENSIONS + plan.dimension_labels.len()),
        };
        pairs.push((label, missing));
    }
    // The texts of halves were cut on their way in; this cuts those that are made here.
    for (_, text) in &mut pairs {
        *text = truncate(text, plan.max_value_len);
    }
    label_set(pairs)
}

//! The label set of a finished edge (processors §2.7 to §2.9).

use crate::half;
use crate::labels::{label_set, truncate};
use crate::service_graph_plan::ServiceGraphPlan;

/// What an edge's `connection_type` says, and which of its sides is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connection {
    /// A call from one service to another.
    Direct,
    /// A message from a producer to a consumer.
    Messaging,
    /// A request to a database.
    Database,
    /// The client sends no spans.
    VirtualClient,
    /// The server sends no spans.
    VirtualServer,
}

/// Build the canonical label set of an edge from its overlay of halves.
pub fn edge_labels(half: &[u8], connection: Connection, plan: &ServiceGraphPlan) -> Vec<u8> {
    let text = |slot| half::slot(half, slot).unwrap_or_default();
    let peer = text(half::PEER);
    let client = match (connection, peer) {
        (Connection::VirtualClient, b"") => b"user",
        (Connection::VirtualClient, peer) => peer,
        _ => text(half::CLIENT),
    };
    let server = match (connection, text(half::SERVER)) {
        (Connection::VirtualServer, _) => peer,
        (Connection::Database, b"") => text(half::DATABASE),
        (_, server) => server,
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
    if plan.keeps_colliding {
        pairs.retain(|(_, text)| !text.is_empty());
    }
    // The texts of halves were cut on their way in; this cuts those that are made here.
    for (_, text) in &mut pairs {
        *text = truncate(text, plan.max_value_len);
    }
    label_set(pairs)
}

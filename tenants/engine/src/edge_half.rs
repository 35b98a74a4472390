//! What one span says of an edge, written as a half (processors §2.3, §2.6, §2.8).

use crate::any_value::AnyValue;
use crate::half::{self, HalfBuilder};
use crate::labels::truncate;
use crate::service_graph_plan::ServiceGraphPlan;
use crate::span_labels::Sight;
use crate::watch::SERVICE_NAME;

/// Write the half of a span that takes part; returns whether the span called a database.
#[inline]
pub fn put_half(
    half: &mut HalfBuilder,
    plan: &ServiceGraphPlan,
    sight: &Sight<'_, '_>,
    is_client: bool,
) -> bool {
    half.clear();
    let limit = plan.max_value_len;
    let service = sight.resource.get(SERVICE_NAME).copied().flatten();
    let service = service.map(AnyValue::text).unwrap_or_default();
    half.put(half::service_slot(is_client), truncate(&service, limit));
    let database = if is_client {
        database(plan, sight)
    } else {
        Database::None
    };
    let waits = plan.pairs_databases;
    if let Database::Named(name) = &database
        && !waits
    {
        half.put(half::SERVER, truncate(name, limit));
    }
    let peer = plan.peers.iter().find_map(|number| sight.find_in_span(*number));
    if let Some(peer) = peer {
        half.put(half::PEER, truncate(&peer.text(), limit));
    }
    if let Database::Named(name) = &database
        && waits
    {
        half.put(half::DATABASE, truncate(name, limit));
    }
    let first_slot = if plan.prefixed && !is_client {
        plan.dimensions.len()
    } else {
        0
    };
    for (slot, number) in plan.dimensions.iter().enumerate() {
        if let Some(value) = sight.find(*number) {
            half.put(
                half::DIMENSIONS + first_slot + slot,
                truncate(&value.text(), limit),
            );
        }
    }
    !matches!(database, Database::None)
}

/// The database that a client span calls.
enum Database {
    /// It calls none.
    None,
    /// It calls one that it does not name.
    Nameless,
    /// Its name, which may be empty.
    Named(Vec<u8>),
}

/// Which database a client span calls (processors §2.6).
fn database(plan: &ServiceGraphPlan, sight: &Sight<'_, '_>) -> Database {
    let Some(fallback) = plan.databases.iter().find_map(|number| sight.find(*number)) else {
        return Database::None;
    };
    let [peer_service, server_address, network_address, network_port] = plan.database_servers;
    if let Some(named) = sight.find(peer_service).or_else(|| sight.find(server_address)) {
        return Database::Named(named.text().into_owned());
    }
    if let Some(address) = sight.find(network_address) {
        let mut name = address.text().into_owned();
        if let Some(port) = sight.find(network_port) {
            name.push(b':');
            name.extend_from_slice(&port.text());
        }
        return Database::Named(name);
    }
    // Alone among these, an empty fallback does not wipe out what the server's own span said.
    let name = fallback.text();
    if name.is_empty() {
        Database::Nameless
    } else {
        Database::Named(name.into_owned())
    }
}

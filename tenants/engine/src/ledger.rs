//! What became of spans, by service (design P5): every span that was received is generated, waits, or was discarded.
//!
//! Gateways count what they decide, in the frame of the span's trace; shards count what becomes of half edges and of
//! repeated requests; registries count what limits fold. All of it travels with the numbers that it explains. A span is
//! counted for its `service.name`. Where one half of an edge has an empty one, it may be counted for the other's.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::byte_reader::ByteReader;
use crate::error::FrameError;
use crate::labels::truncate;
use crate::wire::put_varint;

/// Bytes of a service's name; more is cut off at a character.
pub const MAX_NAME: usize = 256;
/// Services that a registry, or a request, tells apart; later ones are counted together, as [`OTHER_SERVICES`].
pub const MAX_SERVICES: usize = 1024;
/// Services that a shard tells apart between two flushes; later ones are counted together. More than [`MAX_SERVICES`], so
/// that those that the registry knows are found among many that it does not; some 12 MiB at most.
pub const MAX_UNFLUSHED_SERVICES: usize = 16 * MAX_SERVICES;
/// Stands for all services beyond the bound.
pub const OTHER_SERVICES: &[u8] = b"__other__";

/// What is counted. Numbers are never given another meaning: they are written to journals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// Spans in requests, whatever became of them.
    Received,
    /// Of requests that were applied before.
    Duplicate,
    /// Of requests beyond the tenant's rate.
    RateLimited,
    /// Of requests larger than the tenant's burst.
    TooLarge,
    /// Of requests that cannot be read: those before the damage.
    Malformed,
    /// Of requests of a tenant that is blocked.
    Blocked,
    /// Without a valid trace id.
    InvalidTraceId,
    /// Without a valid span id.
    InvalidSpanId,
    /// Ended too far from now.
    OutsideSlack,
    /// Sent with the wish that nothing is generated.
    Skipped,
    /// In the label sets of span metrics, or in those of overflow.
    Generated,
    /// Kept out by the filter.
    MetricsFiltered,
    /// With a label that is not UTF-8.
    MetricsInvalidUtf8,
    /// With a label set beyond the bounds.
    MetricsTooLarge,
    /// While span metrics were off.
    MetricsInactive,
    /// Of the generated ones, those that a limit put into overflow in one metric at least.
    Folded,
    /// Offered to service graphs: counted in an edge, waiting, or discarded for one of the reasons that follow the next
    /// ones.
    Offered,
    /// Of a kind, or of a resource, that has no edges.
    NoEdge,
    /// Kept out by the filter.
    EdgeFiltered,
    /// Saying more than the bounds allow.
    EdgeTooLarge,
    /// While service graphs were off.
    EdgeInactive,
    /// In an edge that was counted.
    InEdge,
    /// Repeats what a waiting span said.
    Repeated,
    /// No room to wait.
    BufferFull,
    /// The filter kept the other side out.
    OtherSideFiltered,
    /// The other side never came.
    Unpaired,
    /// In an edge with a label that is not UTF-8.
    EdgeInvalidUtf8,
    /// Waited when service graphs were turned off.
    TurnedOff,
}

/// How many entries there are.
pub const ENTRIES: usize = 28;

/// Every entry, by its number.
pub const ALL_ENTRIES: [Entry; ENTRIES] = [
    Entry::Received,
    Entry::Duplicate,
    Entry::RateLimited,
    Entry::TooLarge,
    Entry::Malformed,
    Entry::Blocked,
    Entry::InvalidTraceId,
    Entry::InvalidSpanId,
    Entry::OutsideSlack,
    Entry::Skipped,
    Entry::Generated,
    Entry::MetricsFiltered,
    Entry::MetricsInvalidUtf8,
    Entry::MetricsTooLarge,
    Entry::MetricsInactive,
    Entry::Folded,
    Entry::Offered,
    Entry::NoEdge,
    Entry::EdgeFiltered,
    Entry::EdgeTooLarge,
    Entry::EdgeInactive,
    Entry::InEdge,
    Entry::Repeated,
    Entry::BufferFull,
    Entry::OtherSideFiltered,
    Entry::Unpaired,
    Entry::EdgeInvalidUtf8,
    Entry::TurnedOff,
];

/// Stage and outcome of each entry, as users see them.
pub const NAMES: [(&str, &str); ENTRIES] = [
    ("gateway", "received"),
    ("gateway", "duplicate"),
    ("gateway", "rate_limited"),
    ("gateway", "too_large"),
    ("gateway", "malformed"),
    ("gateway", "blocked"),
    ("gateway", "invalid_trace_id"),
    ("gateway", "invalid_span_id"),
    ("gateway", "outside_metrics_ingestion_slack"),
    ("gateway", "skipped"),
    ("span_metrics", "generated"),
    ("span_metrics", "span_metrics_filtered"),
    ("span_metrics", "invalid_utf8"),
    ("span_metrics", "label_set_too_large"),
    ("span_metrics", "inactive"),
    ("span_metrics", "over_limit"),
    ("service_graphs", "offered"),
    ("service_graphs", "no_edge"),
    ("service_graphs", "service_graphs_filtered"),
    ("service_graphs", "label_set_too_large"),
    ("service_graphs", "inactive"),
    ("service_graphs", "generated"),
    ("service_graphs", "repeated"),
    ("service_graphs", "edge_buffer_full"),
    ("service_graphs", "other_side_filtered"),
    ("service_graphs", "unpaired"),
    ("service_graphs", "invalid_utf8"),
    ("service_graphs", "turned_off"),
];

impl Entry {
    /// The entry of spans that a gateway refuses unread, by the name of its outcome.
    pub fn of_refusal(name: &str) -> Option<Self> {
        [Self::RateLimited, Self::TooLarge, Self::Malformed, Self::Blocked]
            .into_iter()
            .find(|entry| NAMES[*entry as usize].1 == name)
    }
}

/// Spans by entry.
pub type Row = [u64; ENTRIES];

/// Rows by service, never more than [`MAX_UNFLUSHED_SERVICES`] and one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger(HashMap<Vec<u8>, Row>);

impl Ledger {
    /// Count spans of a service.
    pub fn add(&mut self, service: &[u8], entry: Entry, spans: u64) {
        let count = &mut self.row(service)[entry as usize];
        *count = count.saturating_add(spans);
    }

    /// Add a whole row.
    pub fn add_row(&mut self, service: &[u8], row: &Row) {
        for (count, more) in self.row(service).iter_mut().zip(row) {
            *count = count.saturating_add(*more);
        }
    }

    /// As [`Self::add_row`], of services beyond [`MAX_SERVICES`] together.
    pub fn add_row_bounded(&mut self, service: &[u8], row: &Row) {
        self.add_row(self.told_as(service, MAX_SERVICES), row);
    }

    /// As [`Self::add`], of services beyond [`MAX_SERVICES`] together.
    pub fn add_bounded(&mut self, service: &[u8], entry: Entry, spans: u64) {
        let mut row = [0; ENTRIES];
        row[entry as usize] = spans;
        self.add_row_bounded(service, &row);
    }

    /// The name under which a service is counted where so many are told apart.
    fn told_as<'s>(&self, service: &'s [u8], max_services: usize) -> &'s [u8] {
        let service = truncate(service, MAX_NAME);
        // The row of the others takes nobody's place: read in any order, rows are the same again.
        let has_room = self.0.len() < max_services
            || self.0.contains_key(service)
            || self.0.len() == max_services && self.0.contains_key(OTHER_SERVICES);
        if has_room { service } else { OTHER_SERVICES }
    }

    fn row(&mut self, service: &[u8]) -> &mut Row {
        self.0
            .entry_ref(self.told_as(service, MAX_UNFLUSHED_SERVICES))
            .or_insert([0; ENTRIES])
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows by name of the service, ascending.
    pub fn rows(&self) -> BTreeMap<&[u8], &Row> {
        self.0
            .iter()
            .map(|(service, row)| (service.as_slice(), row))
            .collect()
    }

    /// All rows together.
    pub fn totals(&self) -> Row {
        let mut totals = [0u64; ENTRIES];
        for row in self.0.values() {
            for (total, more) in totals.iter_mut().zip(row) {
                *total = total.saturating_add(*more);
            }
        }
        totals
    }

    /// Append everything to `out`, as [`LedgerRows`] reads it.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (service, row) in self.rows() {
            put_row(out, service, row);
        }
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        let names: usize = self.0.keys().map(Vec::len).sum();
        names + self.0.capacity() * (size_of::<(Vec<u8>, Row)>())
    }

    /// Everything, for a checkpoint.
    pub fn to_state(&self) -> LedgerState {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        LedgerState(bytes)
    }
}

/// A ledger in a checkpoint: rows as [`put_row`] writes them.
#[derive(Debug, Serialize, Deserialize)]
pub struct LedgerState(Vec<u8>);

impl LedgerState {
    /// The ledger that it was.
    pub fn restored(&self) -> Result<Ledger, FrameError> {
        let mut ledger = Ledger::default();
        for row in LedgerRows::new(&self.0, "checkpoint") {
            let (service, row) = row?;
            ledger.add_row_bounded(service, &row);
        }
        Ok(ledger)
    }
}

/// Append the row of one service: its name, the set of its entries that are not zero, and these.
pub fn put_row(out: &mut Vec<u8>, service: &[u8], row: &Row) {
    let service = truncate(service, MAX_NAME);
    put_varint(out, service.len() as u64);
    out.extend_from_slice(service);
    let filled = row.iter().enumerate().filter(|(_, spans)| **spans > 0);
    put_varint(out, filled.clone().fold(0, |mask, (entry, _)| mask | 1 << entry));
    for (_, spans) in filled {
        put_varint(out, *spans);
    }
}

/// Reads rows that [`put_row`] wrote, to the end; after a fault comes nothing more.
#[derive(Debug)]
pub struct LedgerRows<'a>(ByteReader<'a>);

impl<'a> LedgerRows<'a> {
    /// Read `bytes`; errors say that they are of a damaged `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self(ByteReader::new(bytes, what))
    }

    fn read(&mut self) -> Result<(&'a [u8], Row), FrameError> {
        let reader = &mut self.0;
        let length = reader.count()?;
        let service = reader.bytes(length)?;
        let filled = reader.number()?;
        if service.len() > MAX_NAME || filled >> ENTRIES != 0 {
            return Err(reader.refuse("a number is out of range"));
        }
        let mut row = [0; ENTRIES];
        for (entry, spans) in row.iter_mut().enumerate() {
            if filled >> entry & 1 != 0 {
                *spans = reader.varint()?;
            }
        }
        Ok((service, row))
    }
}

impl<'a> Iterator for LedgerRows<'a> {
    type Item = Result<(&'a [u8], Row), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_at_end() {
            return None;
        }
        let row = self.read();
        if row.is_err() {
            self.0 = ByteReader::new(&[], "");
        }
        Some(row)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(ledger: &Ledger) -> Ledger {
        ledger.to_state().restored().unwrap()
    }

    #[test]
    fn entries_are_found_by_their_numbers() {
        let numbers = ALL_ENTRIES.map(|entry| entry as usize);
        assert_eq!(numbers.to_vec(), (0..ENTRIES).collect::<Vec<_>>());
    }

    #[test]
    fn rows_survive_the_journey() {
        let mut ledger = Ledger::default();
        assert!(ledger.is_empty());
        ledger.add(b"shop", Entry::Received, 3);
        ledger.add(b"shop", Entry::TurnedOff, u64::MAX);
        ledger.add(b"shop", Entry::TurnedOff, 1);
        ledger.add(b"", Entry::Received, 1);
        assert_eq!(again(&ledger), ledger);
        assert_eq!(ledger.rows()[&b"shop"[..]][Entry::TurnedOff as usize], u64::MAX);
    }

    #[test]
    fn services_beyond_the_bound_are_counted_together_and_the_first_stay_apart() {
        let mut ledger = Ledger::default();
        // Before and behind the name of the others: they are read again in order.
        let name = |service| format!("{}{service}", ["a", "A"][service % 2]).into_bytes();
        for service in 0..MAX_SERVICES + 5 {
            ledger.add_bounded(&name(service), Entry::Received, 1);
        }
        ledger.add_bounded(b"A7", Entry::Received, 1);
        assert_eq!(ledger.rows().len(), MAX_SERVICES + 1);
        assert_eq!(ledger.rows()[OTHER_SERVICES][Entry::Received as usize], 5);
        assert_eq!(ledger.rows()[&b"A7"[..]][Entry::Received as usize], 2);
        assert_eq!(again(&ledger), ledger);
    }

    #[test]
    fn what_is_not_flushed_is_bounded_and_nothing_of_it_is_lost() {
        let mut ledger = Ledger::default();
        let mut row = [0; ENTRIES];
        row[Entry::Received as usize] = 1;
        for service in 0..MAX_UNFLUSHED_SERVICES as u32 + 5 {
            ledger.add_row(&service.to_be_bytes(), &row);
            ledger.add(&service.to_be_bytes(), Entry::Generated, 1);
        }
        assert_eq!(ledger.rows().len(), MAX_UNFLUSHED_SERVICES + 1);
        for entry in [Entry::Received as usize, Entry::Generated as usize] {
            assert_eq!(ledger.rows()[OTHER_SERVICES][entry], 5);
            assert_eq!(ledger.totals()[entry], MAX_UNFLUSHED_SERVICES as u64 + 5);
        }
        let full = ledger.state_bytes();
        for service in 0..MAX_UNFLUSHED_SERVICES as u32 {
            ledger.add(&(!service).to_be_bytes(), Entry::Received, 1);
        }
        assert_eq!(ledger.state_bytes(), full);
    }

    #[test]
    fn a_long_name_is_cut_everywhere_alike() {
        let name = "\u{e9}".repeat(MAX_NAME);
        let mut ledger = Ledger::default();
        ledger.add(name.as_bytes(), Entry::Received, 1);
        let mut row = [0; ENTRIES];
        row[Entry::Duplicate as usize] = 1;
        ledger.add_row(name.as_bytes(), &row);
        assert_eq!(ledger.rows().len(), 1);
        assert_eq!(again(&ledger), ledger);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            for row in LedgerRows::new(&bytes, "record") {
                let _ = row;
            }
        }
    }
}

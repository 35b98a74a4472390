//! Half edges that wait for their other half: found by key, expired in order of arrival (processors §2.3 and §2.4).

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::frame::EdgeKey;
use crate::half;

const NIL: u32 = u32::MAX;

/// An edge under construction.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct Edge {
    /// What both halves have in common.
    pub key: EdgeKey,
    /// Number of the overlay of the halves that arrived.
    pub half: u32,
    /// Number of the client's half alone, once it is here.
    pub client_half: u32,
    /// When the first half arrived.
    pub opened_at_ns: u64,
    /// Trace of the exemplar: the client's, or a root server's; zero: none.
    pub trace: u128,
    /// Duration of the client span.
    pub client_ns: u64,
    /// Duration of the server span; of the client span where a database stands in for the server.
    pub server_ns: u64,
    /// End of the client span.
    pub client_end_ns: u64,
    /// Start of the server span.
    pub server_start_ns: u64,
    /// Kind of the last span that arrived.
    pub last_kind: u8,
    /// Either span ended in an error.
    pub is_failed: bool,
    /// Either span is a producer or consumer.
    pub is_messaging: bool,
    /// The client span called a database.
    pub is_database: bool,
    /// A client-side span is here.
    pub has_client: bool,
    /// A server-side span is here.
    pub has_server: bool,
    /// The client span ended in an error.
    pub is_client_failed: bool,
    /// The client-side span is a producer.
    pub is_client_messaging: bool,
    /// The client-side span called a database.
    pub is_client_database: bool,
    /// Counted already; what is left is the client's half, for further server-side spans (Q13).
    pub is_template: bool,
    /// What the client's side says that the edge counts for; 0 while it is not here.
    pub client_weight: f64,
    /// What the server's side says of that.
    pub server_weight: f64,
}

impl Edge {
    /// An edge that nothing is known of.
    pub fn new(key: EdgeKey, half: u32, now_ns: u64) -> Self {
        Self {
            key,
            half,
            client_half: half,
            opened_at_ns: now_ns,
            trace: 0,
            client_ns: 0,
            server_ns: 0,
            client_end_ns: 0,
            server_start_ns: 0,
            last_kind: 0,
            is_failed: false,
            is_messaging: false,
            is_database: false,
            has_client: false,
            has_server: false,
            is_client_failed: false,
            is_client_messaging: false,
            is_client_database: false,
            is_template: false,
            client_weight: 0.0,
            server_weight: 0.0,
        }
    }

    /// The service of the span that waits in it; `half` is what its number stands for.
    pub fn service_waiting<'h>(&self, half: &'h [u8]) -> &'h [u8] {
        half::service(half, !self.has_server)
    }

    /// What the edge counts for: the greater of what its sides say (Q9).
    pub fn weight(&self) -> f64 {
        self.client_weight.max(self.server_weight)
    }

    /// The client's side alone, as it was before a server-side span came.
    pub fn template(&self) -> Self {
        Self {
            half: self.client_half,
            server_ns: 0,
            server_start_ns: 0,
            is_failed: self.is_client_failed,
            is_messaging: self.is_client_messaging,
            is_database: self.is_client_database,
            has_server: false,
            is_template: true,
            server_weight: 0.0,
            ..*self
        }
    }
}

#[derive(Debug)]
struct Slot {
    edge: Edge,
    older: u32,
    newer: u32,
    is_open: bool,
    /// A record told of an open edge here.
    is_told: bool,
    /// It is in the list of slots to tell of.
    is_touched: bool,
}

/// What a record tells of a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SlotNews {
    /// This edge waits in it.
    Open(Edge),
    /// The edge that an earlier record told of is gone.
    Closed,
}

/// The edges of one shard. The caller bounds how many there are.
#[derive(Debug)]
pub struct EdgeStore {
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    slots: Vec<Slot>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    /// Slots that changed since the last record, each once.
    touched: Vec<u32>,
}

impl Default for EdgeStore {
    fn default() -> Self {
        Self {
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            slots: Vec::new(),
            free: Vec::new(),
            oldest: NIL,
            newest: NIL,
            touched: Vec::new(),
        }
    }
}

impl EdgeStore {
    /// How many edges wait.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no edge waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The place of the edge with this key; of any of them if there are several.
    #[inline]
    pub fn find(&self, key: &EdgeKey) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let slots = &self.slots;
        self.index
            .find(hash, |number| has_key(slots, *number, key))
            .copied()
    }

    /// Let a new edge wait. Several may have one key: server-side spans that wait for the same client (Q13).
    #[inline]
    pub fn insert(&mut self, edge: Edge) {
        let number = self.link(edge, false);
        self.touch(number);
    }

    /// Let an edge wait that the collector knows; returns its place. In an empty store places count from 0.
    pub fn insert_told(&mut self, edge: Edge) -> u32 {
        self.link(edge, true)
    }

    #[inline]
    fn link(&mut self, edge: Edge, is_told: bool) -> u32 {
        let hash = self.hasher.hash_one(edge.key);
        let mut slot = Slot {
            edge,
            older: self.newest,
            newer: NIL,
            is_open: true,
            is_told,
            is_touched: false,
        };
        let number = if let Some(number) = self.free.pop() {
            let former = &mut self.slots[number as usize];
            slot.is_told |= former.is_told;
            slot.is_touched = former.is_touched;
            *former = slot;
            number
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        match self.slots.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, number, |number| {
            slots
                .get(*number as usize)
                .map_or(0, |slot| hasher.hash_one(slot.edge.key))
        });
        number
    }

    #[inline]
    fn touch(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(number as usize)
            && !std::mem::replace(&mut slot.is_touched, true)
        {
            self.touched.push(number);
        }
    }

    /// Tell of each slot that changed since the last time, ascending; of an edge that came and went in between nothing.
    pub fn tell(&mut self, mut tell: impl FnMut(u32, SlotNews)) {
        self.touched.sort_unstable();
        for number in self.touched.drain(..) {
            let Some(slot) = self.slots.get_mut(number as usize) else {
                continue;
            };
            slot.is_touched = false;
            let was_told = std::mem::replace(&mut slot.is_told, slot.is_open);
            if slot.is_open {
                tell(number, SlotNews::Open(slot.edge));
            } else if was_told {
                tell(number, SlotNews::Closed);
            }
        }
    }

    /// Whether a record told of an edge that is open, or of one that no record has said is closed.
    pub fn is_told(&self) -> bool {
        self.slots.iter().any(|slot| slot.is_told)
    }

    /// Take the oldest edge out if it has waited since before or at `until_ns`.
    pub fn pop_expired(&mut self, until_ns: u64) -> Option<Edge> {
        let number = self.oldest;
        let oldest = self.slots.get(number as usize)?;
        if oldest.edge.opened_at_ns > until_ns {
            return None;
        }
        self.remove_at(number)
    }

    /// The places of all edges with this key, oldest first.
    pub fn places(&self, key: &EdgeKey) -> Vec<u32> {
        let hash = self.hasher.hash_one(key);
        let mut places: Vec<u32> = self
            .index
            .iter_hash(hash)
            .copied()
            .filter(|number| has_key(&self.slots, *number, key))
            .collect();
        places.sort_by_key(|number| {
            self.slots
                .get(*number as usize)
                .map(|slot| slot.edge.opened_at_ns)
        });
        places
    }

    /// The edge at a place.
    #[inline]
    pub fn at(&self, place: u32) -> Option<&Edge> {
        let slot = self.slots.get(place as usize)?;
        slot.is_open.then_some(&slot.edge)
    }

    /// The edge at a place, to be changed: the next record tells of it. Its key must stay.
    #[inline]
    pub fn at_mut(&mut self, place: u32) -> Option<&mut Edge> {
        self.touch(place);
        let slot = self.slots.get_mut(place as usize)?;
        slot.is_open.then_some(&mut slot.edge)
    }

    /// Take the edge at a place out.
    #[inline]
    pub fn remove_at(&mut self, place: u32) -> Option<Edge> {
        let hash = self.hasher.hash_one(self.slots.get(place as usize)?.edge.key);
        let entry = self.index.find_entry(hash, |other| *other == place).ok()?;
        entry.remove();
        self.unlink(place)
    }

    /// Change every edge in place, oldest first; keys must stay.
    pub fn for_each(&mut self, mut change: impl FnMut(&mut Edge)) {
        let mut next = self.oldest;
        while let Some(slot) = self.slots.get_mut(next as usize) {
            change(&mut slot.edge);
            let number = std::mem::replace(&mut next, slot.newer);
            self.touch(number);
        }
    }

    /// The edges, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Edge> {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(next as usize)?;
            next = slot.newer;
            Some(&slot.edge)
        })
    }

    fn unlink(&mut self, number: u32) -> Option<Edge> {
        self.touch(number);
        let slot = self.slots.get_mut(number as usize)?;
        slot.is_open = false;
        let (edge, older, newer) = (slot.edge, slot.older, slot.newer);
        match self.slots.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        self.free.push(number);
        Some(edge)
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
            + self.index.capacity() * (size_of::<u32>() + 1)
            + (self.free.capacity() + self.touched.capacity()) * size_of::<u32>()
    }
}

fn has_key(slots: &[Slot], number: u32, key: &EdgeKey) -> bool {
    slots
        .get(number as usize)
        .is_some_and(|slot| slot.edge.key == *key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edge(id: u8, opened_at_ns: u64) -> Edge {
        Edge::new(EdgeKey::new(&[id; 16], &[id; 8]), 0, opened_at_ns)
    }

    #[test]
    fn edges_expire_in_order_and_freed_places_are_used_again() {
        let mut store = EdgeStore::default();
        for id in 1..=4 {
            store.insert(edge(id, u64::from(id)));
        }
        let place = store.find(&edge(2, 0).key).unwrap();
        assert!(store.remove_at(place).is_some() && store.remove_at(place).is_none());
        assert!(store.find(&edge(2, 0).key).is_none());
        store.insert(edge(5, 5));
        let waiting: Vec<u64> = store.iter().map(|edge| edge.opened_at_ns).collect();
        assert_eq!(waiting, [1, 3, 4, 5]);
        let expired: Vec<u64> = std::iter::from_fn(|| store.pop_expired(4))
            .map(|edge| edge.opened_at_ns)
            .collect();
        assert_eq!(expired, [1, 3, 4]);
        assert!(store.find(&edge(5, 0).key).is_some());
        assert_eq!((store.len(), store.slots.len()), (1, 4));
        assert!(store.pop_expired(5).is_some());
        assert!(store.is_empty() && store.iter().next().is_none());
    }

    #[test]
    fn a_slot_is_told_of_once_for_each_record_and_never_of_what_came_and_went() {
        let mut store = EdgeStore::default();
        let told = |store: &mut EdgeStore| {
            let mut news = Vec::new();
            store.tell(|slot, what| news.push((slot, what)));
            news
        };
        store.insert_told(edge(1, 1));
        for id in 2..=4 {
            store.insert(edge(id, u64::from(id)));
        }
        store.remove_at(2);
        store.at_mut(1).unwrap().is_failed = true;
        let failed = Edge {
            is_failed: true,
            ..edge(2, 2)
        };
        assert!(store.is_told());
        assert_eq!(
            told(&mut store),
            [(1, SlotNews::Open(failed)), (3, SlotNews::Open(edge(4, 4)))]
        );
        assert_eq!(told(&mut store), []);
        // Another edge takes the place of one that was told of.
        store.remove_at(3);
        store.insert(edge(5, 5));
        store.remove_at(0);
        store.insert(edge(6, 6));
        store.remove_at(0);
        assert_eq!(
            told(&mut store),
            [(0, SlotNews::Closed), (3, SlotNews::Open(edge(5, 5)))]
        );
        store.for_each(|edge| edge.half = 7);
        assert_eq!(told(&mut store).len(), 2);
        while store.pop_expired(u64::MAX).is_some() {}
        assert_eq!(told(&mut store), [(1, SlotNews::Closed), (3, SlotNews::Closed)]);
        assert!(!store.is_told());
    }
}

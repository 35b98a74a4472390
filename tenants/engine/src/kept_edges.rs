//! Half edges of a shard as its collector keeps them: by slot, so that the shard's records fit, and with their halves as
//! text, so that they fit any successor.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashSet;

use crate::edge_store::Edge;
use crate::hash_range::HashRange;
use crate::shard_state::{NamedHalf, StateChanges, StateWriter};

/// Bytes of halves that no edge needs are let be up to here, and up to as many as are needed.
const SPARE_BYTES: usize = 1 << 20;

/// A half with the names of its slots.
#[derive(Debug, PartialEq, Eq, Hash)]
struct KeptHalf {
    names: Arc<[u8]>,
    bytes: Box<[u8]>,
}

impl KeptHalf {
    fn named(&self) -> NamedHalf<'_> {
        (&self.names, &self.bytes)
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

/// An edge; the numbers of its halves mean nothing.
#[derive(Debug, Clone)]
pub struct KeptEdge {
    /// What is known of it.
    pub edge: Edge,
    half: Arc<KeptHalf>,
    client_half: Arc<KeptHalf>,
}

/// The edges of one shard.
#[derive(Debug, Default)]
pub struct KeptEdges {
    slots: BTreeMap<u32, KeptEdge>,
    halves: HashSet<Arc<KeptHalf>>,
    half_bytes: usize,
    /// Of them, when it was last looked, belonged to edges.
    needed_bytes: usize,
}

impl FromIterator<KeptEdge> for KeptEdges {
    /// The edges get the slots from 0 on.
    fn from_iter<I: IntoIterator<Item = KeptEdge>>(edges: I) -> Self {
        let mut kept = Self::default();
        for (slot, mut edge) in (0..).zip(edges) {
            edge.half = kept.shared(edge.half);
            edge.client_half = kept.shared(edge.client_half);
            kept.slots.insert(slot, edge);
        }
        kept
    }
}

impl KeptEdges {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// When the newest was opened.
    pub fn newest_ns(&self) -> u64 {
        let times = self.slots.values().map(|kept| kept.edge.opened_at_ns);
        times.max().unwrap_or_default()
    }

    /// Take over what a shard tells.
    pub fn apply(&mut self, changes: &StateChanges<'_>) {
        for slot in &changes.closed {
            self.slots.remove(slot);
        }
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let halves: Vec<Arc<KeptHalf>> = changes
            .halves
            .iter()
            .map(|(of_slots, bytes)| {
                let known = names.iter().find(|known| ***known == **of_slots).cloned();
                let names = known.unwrap_or_else(|| {
                    let new: Arc<[u8]> = (*of_slots).into();
                    names.push(Arc::clone(&new));
                    new
                });
                self.shared(Arc::new(KeptHalf {
                    names,
                    bytes: (*bytes).into(),
                }))
            })
            .collect();
        for (slot, edge) in &changes.open {
            let half = |number: u32| halves.get(number as usize).cloned();
            if let Some((half, client_half)) = half(edge.half).zip(half(edge.client_half)) {
                let kept = KeptEdge {
                    edge: *edge,
                    half,
                    client_half,
                };
                self.slots.insert(*slot, kept);
            }
        }
        drop(halves);
        self.forget_unneeded();
    }

    fn shared(&mut self, half: Arc<KeptHalf>) -> Arc<KeptHalf> {
        if let Some(known) = self.halves.get(&half) {
            return Arc::clone(known);
        }
        self.half_bytes += half.state_bytes();
        self.halves.insert(Arc::clone(&half));
        half
    }

    fn forget_unneeded(&mut self) {
        if self.half_bytes <= 2 * self.needed_bytes + SPARE_BYTES {
            return;
        }
        self.halves.retain(|half| Arc::strong_count(half) > 1);
        self.half_bytes = self.halves.iter().map(|half| half.state_bytes()).sum();
        self.needed_bytes = self.half_bytes;
    }

    /// Take out the edges whose traces lie in a range, by slot.
    pub fn take(&mut self, range: HashRange) -> impl Iterator<Item = KeptEdge> + use<> {
        let slots = std::mem::take(&mut self.slots);
        let (taken, left): (BTreeMap<_, _>, _) = slots
            .into_iter()
            .partition(|(_, kept)| range.contains(kept.edge.key.trace_hash()));
        self.slots = left;
        taken.into_values()
    }

    /// Tell of all edges.
    pub fn tell(&self, out: &mut StateWriter) {
        for (slot, kept) in &self.slots {
            out.open(*slot, &kept.edge, kept.half.named(), kept.client_half.named());
        }
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        self.slots.len() * size_of::<(u32, KeptEdge)>()
            + self.half_bytes
            + self.halves.capacity() * (size_of::<Arc<KeptHalf>>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::EdgeKey;
    use crate::hash::trace_hash;

    fn edge(id: u8, half: u32) -> Edge {
        Edge::new(EdgeKey::new(&[id; 16], &[id; 8]), half, u64::from(id))
    }

    fn told(kept: &KeptEdges) -> Vec<u8> {
        let mut out = StateWriter::new(0);
        kept.tell(&mut out);
        out.finish()
    }

    #[test]
    fn halves_of_edges_that_are_gone_are_let_be_up_to_a_bound() {
        let mut kept = KeptEdges::default();
        let halves: Vec<Vec<u8>> = (0..200u8).map(|id| vec![id; 20_000]).collect();
        for (id, half) in (0..).zip(&halves) {
            kept.apply(&StateChanges {
                halves: vec![(b"names", half)],
                open: vec![(0, edge(id, 0))],
                ..StateChanges::default()
            });
            assert!(kept.half_bytes < SPARE_BYTES + 3 * 21_000);
        }
        assert_eq!(kept.len(), 1);
        // The half of the edge that is there survived.
        let bytes = told(&kept);
        let changes = StateChanges::read(&bytes, "state");
        assert_eq!(
            changes.map(|changes| changes.halves),
            Ok(vec![(&b"names"[..], &*halves[199])])
        );
    }

    #[test]
    fn edges_are_replaced_closed_and_taken_by_the_hash_of_their_trace() {
        let mut kept = KeptEdges::default();
        kept.apply(&StateChanges {
            halves: vec![(b"names", b"one"), (b"others", b"one")],
            open: vec![(3, edge(1, 0)), (5, edge(2, 1)), (9, edge(3, 0))],
            ..StateChanges::default()
        });
        kept.apply(&StateChanges {
            halves: vec![(b"names", b"two")],
            closed: vec![3, 4],
            open: vec![(9, edge(4, 0))],
            ..StateChanges::default()
        });
        assert_eq!((kept.len(), kept.newest_ns()), (2, 4));
        let hash = trace_hash(&[2; 16]);
        let range = HashRange::new(hash, hash).into_iter();
        let taken: Vec<u64> = range
            .flat_map(|range| kept.take(range))
            .map(|kept| kept.edge.opened_at_ns)
            .collect();
        assert_eq!((taken, kept.len()), (vec![2], 1));
    }
}

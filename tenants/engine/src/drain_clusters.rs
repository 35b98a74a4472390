//! The clusters of a DRAIN model, in order of last use (processors appendix B).

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};

use crate::checkpoint::{check_each, plausible, refuse};
use crate::drain_tokens::{MAX_TOKENS, Tokens, pieces};
use crate::drain_tree::NONE;
use crate::error::FrameError;

/// Stands for any token in a pattern. No name has it as a token: `<` is always one of its own.
pub const WILDCARD: &str = "<_>";

/// Names that were found to be alike.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The pattern; at first the name that the cluster was made of.
    text: Box<str>,
    /// Where each token ends in the text.
    ends: Box<[u16]>,
    wildcards: u8,
    /// The node of the tree that it ends at, and the next cluster there.
    leaf: u32,
    next_in_leaf: u32,
    newer: u32,
    older: u32,
    created_at: u64,
    used_at: u64,
}

/// How a name compares with a cluster of as many tokens. The greater, the more alike: equal tokens come first, then
/// wildcards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Likeness {
    equal: usize,
    wildcards: usize,
}

impl Likeness {
    /// Whether at least three tenths of all tokens are equal; the end marker always is.
    pub fn is_enough(self, tokens: usize) -> bool {
        10 * (self.equal + 1) >= 3 * (tokens + 1)
    }
}

impl Cluster {
    /// The pattern.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is still the one name that it was made of.
    pub fn is_literal(&self) -> bool {
        self.wildcards == 0
    }

    /// How many tokens it has.
    pub fn tokens(&self) -> usize {
        self.ends.len()
    }

    /// The leaf it ends at.
    pub fn leaf(&self) -> u32 {
        self.leaf
    }

    /// The next cluster of its leaf, [`NONE`] at the last.
    pub fn next_in_leaf(&self) -> u32 {
        self.next_in_leaf
    }

    /// Tells this cluster from any other that had its number before.
    pub fn created_at(&self) -> u64 {
        self.created_at
    }

    /// Grows with each use.
    pub fn used_at(&self) -> u64 {
        self.used_at
    }

    fn pairs<'a>(&'a self, tokens: &'a Tokens<'_>) -> impl Iterator<Item = (&'a str, &'a str)> {
        pieces(&self.text, &self.ends).zip(tokens.iter())
    }

    /// Compare a name's tokens with the pattern's. A wildcard equals none of them.
    #[inline]
    pub fn likeness(&self, tokens: &Tokens<'_>) -> Likeness {
        Likeness {
            equal: self.pairs(tokens).filter(|(own, other)| own == other).count(),
            wildcards: usize::from(self.wildcards),
        }
    }

    /// Make every token that differs from the name's a wildcard.
    fn generalize(&mut self, tokens: &Tokens<'_>) {
        let mut text = String::with_capacity(self.text.len());
        let mut ends = Vec::with_capacity(self.ends.len());
        let mut wildcards = 0;
        for (own, other) in self.pairs(tokens) {
            text.push_str(if own == other { own } else { WILDCARD });
            wildcards += u8::from(own != other);
            ends.push(text.len() as u16);
        }
        self.text = text.into_boxed_str();
        self.ends = ends.into_boxed_slice();
        self.wildcards = wildcards;
    }

    fn heap_bytes(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

/// All clusters of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ClustersState")]
pub struct Clusters {
    slots: Vec<Option<Cluster>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    uses: u64,
    heap_bytes: usize,
}

impl Default for Clusters {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            uses: 0,
            heap_bytes: 0,
        }
    }
}

impl Clusters {
    /// A cluster by its number.
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Cluster> {
        self.slots.get(number as usize)?.as_ref()
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> Option<&mut Cluster> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one that was not used for longest, [`NONE`] if there is none.
    pub fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Bytes of all patterns.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// A new cluster, the most recently used one.
    pub fn add(&mut self, tokens: &Tokens<'_>, leaf: u32, next_in_leaf: u32) -> u32 {
        self.uses += 1;
        let cluster = Cluster {
            text: tokens.name().into(),
            ends: tokens.ends().into(),
            wildcards: 0,
            leaf,
            next_in_leaf,
            newer: NONE,
            older: NONE,
            created_at: self.uses,
            used_at: self.uses,
        };
        self.heap_bytes += cluster.heap_bytes();
        let number = if let Some(number) = self.free.pop() {
            number
        } else {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        };
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Some(cluster);
        }
        self.link_newest(number);
        number
    }

    /// Note that a cluster is in use.
    #[inline]
    pub fn touch(&mut self, number: u32) {
        self.uses += 1;
        let uses = self.uses;
        if let Some(cluster) = self.get_mut(number) {
            cluster.used_at = uses;
            if self.newest != number {
                self.unlink(number);
                self.link_newest(number);
            }
        }
    }

    /// Take a name in: whether the pattern had to change for it.
    #[inline]
    pub fn adapt(&mut self, number: u32, tokens: &Tokens<'_>) -> bool {
        let Some(cluster) = self.get_mut(number) else {
            return false;
        };
        let likeness = cluster.likeness(tokens);
        // A wildcard stays one, so whatever else differs is new.
        if likeness.equal + likeness.wildcards == tokens.count() {
            return false;
        }
        let before = cluster.heap_bytes();
        cluster.generalize(tokens);
        let after = cluster.heap_bytes();
        self.heap_bytes = self.heap_bytes + after - before;
        true
    }

    /// Take a cluster out; the caller takes it out of its leaf.
    pub fn remove(&mut self, number: u32) -> Option<Cluster> {
        self.unlink(number);
        let cluster = self.slots.get_mut(number as usize)?.take()?;
        self.free.push(number);
        self.heap_bytes -= cluster.heap_bytes();
        Some(cluster)
    }

    /// Name the cluster that follows in the leaf.
    pub fn set_next_in_leaf(&mut self, number: u32, next: u32) {
        if let Some(cluster) = self.get_mut(number) {
            cluster.next_in_leaf = next;
        }
    }

    /// The numbers of all clusters, the eldest first.
    pub fn by_age(&self) -> Vec<u32> {
        self.ascending(Cluster::created_at)
    }

    fn ascending(&self, key: impl Fn(&Cluster) -> u64) -> Vec<u32> {
        let numbers = (0u32..).zip(&self.slots);
        let keyed = numbers.filter_map(|(number, slot)| Some((key(slot.as_ref()?), number)));
        let mut keyed: Vec<(u64, u32)> = keyed.collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, number)| number).collect()
    }

    fn link_newest(&mut self, number: u32) {
        let older = std::mem::replace(&mut self.newest, number);
        if let Some(cluster) = self.get_mut(number) {
            (cluster.newer, cluster.older) = (NONE, older);
        }
        match self.get_mut(older) {
            Some(cluster) => cluster.newer = number,
            None => self.oldest = number,
        }
    }

    fn unlink(&mut self, number: u32) {
        let Some((newer, older)) = self.get(number).map(|cluster| (cluster.newer, cluster.older)) else {
            return;
        };
        match self.get_mut(newer) {
            Some(cluster) => cluster.older = older,
            None => self.newest = older,
        }
        match self.get_mut(older) {
            Some(cluster) => cluster.newer = newer,
            None => self.oldest = newer,
        }
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Cluster>>()
            + self.free.capacity() * size_of::<u32>()
            + self.heap_bytes
    }

    /// Most bytes held by what never was more than so many clusters and so many bytes of patterns.
    pub const fn bytes_at_most(clusters: usize, heap_bytes: usize) -> usize {
        clusters.next_power_of_two() * (size_of::<Option<Cluster>>() + size_of::<u32>()) + heap_bytes
    }
}

/// All clusters in a checkpoint: their order of use and their order within a leaf follow from their times.
#[derive(Serialize, Deserialize)]
struct ClustersState<'a> {
    slots: Vec<Option<ClusterState<'a>>>,
    free: Cow<'a, [u32]>,
    #[serde(deserialize_with = "plausible")]
    uses: u64,
}

/// A cluster in a checkpoint.
#[derive(Serialize, Deserialize)]
struct ClusterState<'a> {
    text: Cow<'a, str>,
    ends: Cow<'a, [u16]>,
    leaf: u32,
    created_at: u64,
    used_at: u64,
}

impl Serialize for Clusters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let slots = self.slots.iter().map(|slot| {
            slot.as_ref().map(|cluster| ClusterState {
                text: Cow::Borrowed(&cluster.text),
                ends: Cow::Borrowed(&cluster.ends),
                leaf: cluster.leaf,
                created_at: cluster.created_at,
                used_at: cluster.used_at,
            })
        });
        let state = ClustersState {
            slots: slots.collect(),
            free: Cow::Borrowed(&self.free),
            uses: self.uses,
        };
        state.serialize(serializer)
    }
}

impl TryFrom<ClusterState<'_>> for Cluster {
    type Error = FrameError;

    fn try_from(state: ClusterState<'_>) -> Result<Self, FrameError> {
        let (text, ends) = (state.text, state.ends);
        let is_cut = ends.is_sorted() && ends.last().map(|end| usize::from(*end)) == Some(text.len());
        if !is_cut || ends.len() > MAX_TOKENS || !ends.iter().all(|end| text.is_char_boundary((*end).into()))
        {
            return Err(refuse("a pattern's tokens are not those of its text"));
        }
        let wildcards = pieces(&text, &ends).filter(|piece| *piece == WILDCARD).count() as u8;
        Ok(Self {
            wildcards,
            text: text.into(),
            ends: ends.into(),
            leaf: state.leaf,
            next_in_leaf: NONE,
            newer: NONE,
            older: NONE,
            created_at: state.created_at,
            used_at: state.used_at,
        })
    }
}

impl TryFrom<ClustersState<'_>> for Clusters {
    type Error = FrameError;

    fn try_from(state: ClustersState<'_>) -> Result<Self, FrameError> {
        let mut clusters = Self::default();
        // The bound of bytes holds for arrays that double.
        clusters
            .slots
            .reserve_exact(state.slots.len().next_power_of_two());
        for slot in state.slots {
            let cluster = slot.map(Cluster::try_from).transpose()?;
            clusters.heap_bytes += cluster.as_ref().map_or(0, Cluster::heap_bytes);
            clusters.slots.push(cluster);
        }
        let mut is_empty: Vec<bool> = clusters.slots.iter().map(Option::is_none).collect();
        check_each(&state.free, &mut is_empty)?;
        clusters.free = state.free.into_owned();
        clusters.uses = state.uses;
        for number in clusters.ascending(Cluster::used_at) {
            clusters.link_newest(number);
        }
        Ok(clusters)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn three_tenths_of_all_tokens_are_enough() {
        let likeness = |equal| Likeness { equal, wildcards: 0 };
        for (equal, tokens, is_enough) in [
            (2, 9, true),
            (1, 9, false),
            (0, 2, true),
            (0, 3, false),
            (5, 19, true),
        ] {
            assert_eq!(
                likeness(equal).is_enough(tokens),
                is_enough,
                "{equal} of {tokens}"
            );
        }
    }

    #[test]
    fn clusters_are_kept_in_order_of_use_and_numbers_are_given_out_again() {
        let mut clusters = Clusters::default();
        let [a, b, c] = ["a/", "b/", "c/"].map(|name| clusters.add(&Tokens::cut(name).unwrap(), 0, NONE));
        assert_eq!(clusters.oldest(), a);
        clusters.touch(a);
        clusters.touch(c);
        assert_eq!(clusters.oldest(), b);
        let created_at = clusters.remove(b).unwrap().created_at();
        assert!(clusters.remove(b).is_none());
        assert_eq!((clusters.oldest(), clusters.len()), (a, 2));
        let d = clusters.add(&Tokens::cut("d/").unwrap(), 0, NONE);
        assert_eq!(d, b);
        assert_ne!(clusters.get(d).unwrap().created_at(), created_at);
        for number in [a, c, d] {
            assert_eq!(clusters.oldest(), number);
            clusters.remove(number);
        }
        assert!(clusters.is_empty());
        assert_eq!((clusters.oldest(), clusters.heap_bytes()), (NONE, 0));
    }

    #[test]
    fn what_differs_becomes_a_wildcard_and_stays_one() {
        let mut clusters = Clusters::default();
        let number = clusters.add(&Tokens::cut("GET /a/1").unwrap(), 0, NONE);
        let mut adapt = |name: &str| {
            let has_changed = clusters.adapt(number, &Tokens::cut(name).unwrap());
            (has_changed, clusters.get(number).unwrap().text().to_owned())
        };
        assert_eq!(adapt("GET /a/1"), (false, "GET /a/1".to_owned()));
        assert_eq!(adapt("GET /a/2"), (true, "GET /a/<_>".to_owned()));
        assert_eq!(adapt("GET /a/1"), (false, "GET /a/<_>".to_owned()));
        assert_eq!(adapt("PUT /a/1"), (true, "<_> /a/<_>".to_owned()));
        assert_eq!(adapt("GET /a/1"), (false, "<_> /a/<_>".to_owned()));
        assert_eq!(clusters.heap_bytes(), "<_> /a/<_>".len() + 6 * 2);
    }
}

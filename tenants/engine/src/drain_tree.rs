//! The prefix tree that leads a span name to the clusters it may belong to (processors appendix B).
//!
//! One root for each count of tokens, then one level for each leading token. All nodes are in one array and all edges
//! in one table, so that a node costs tens of bytes. An edge is known by the keyed 64-bit hash of its token: should two
//! tokens ever meet in one, their names meet in a leaf, where the tokens themselves are compared.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::checkpoint::{check_each, refuse};
use crate::drain_tokens::{MAX_TOKENS, Tokens, looks_like_data};
use crate::error::FrameError;

/// No node, no cluster.
pub const NONE: u32 = u32::MAX;

/// Levels below a root (appendix B: depth 30).
const MAX_LEVELS: usize = 27;
/// From here on a node's only new child is the wildcard (appendix B: at most 1000).
const FULL_AT_CHILDREN: u16 = 999;
/// Roots come first, the root of a count of tokens at that index.
const ROOTS: usize = MAX_TOKENS + 1;

#[derive(Debug, Clone)]
struct Node {
    /// The node above; of a free node, the next free one.
    parent: u32,
    /// The child that stands for any token.
    wildcard: u32,
    /// The first of the clusters that end here.
    first_cluster: u32,
    /// How many children there are, the wildcard included.
    children: u16,
    clusters: u16,
    /// Hash of the token that leads here from above.
    token: u64,
}

const EMPTY: Node = Node {
    parent: NONE,
    wildcard: NONE,
    first_cluster: NONE,
    children: 0,
    clusters: 0,
    token: 0,
};

/// Where a name was planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planted {
    /// The node that its path ends at.
    pub leaf: u32,
    /// Whether a wildcard was added beside known tokens, so that names with those tokens now lead elsewhere.
    pub captures: bool,
}

/// The tree. It never holds a branch without clusters, but for what [`Tree::plant`] has just made.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "TreeState")]
pub struct Tree {
    nodes: Vec<Node>,
    free: u32,
    used: usize,
    /// Nodes by parent and token; wildcards are not among them.
    edges: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Key of the hashes of tokens: a tenant cannot choose tokens that collide.
    seed: u64,
}

impl Tree {
    /// A tree of roots.
    pub fn new(seed: u64) -> Self {
        // A power of two, and so are all capacities that it grows to.
        let mut nodes = Vec::with_capacity(ROOTS.next_power_of_two());
        nodes.resize(ROOTS, EMPTY);
        Self {
            nodes,
            free: NONE,
            used: ROOTS,
            edges: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            seed,
        }
    }

    /// The leaf that a name leads to: at each level the wildcard if there is one, else the very token.
    #[inline]
    pub fn find(&self, tokens: &Tokens<'_>) -> Option<u32> {
        let mut at = tokens.count() as u32;
        for token in tokens.iter().take(MAX_LEVELS) {
            let wildcard = self.nodes.get(at as usize)?.wildcard;
            at = if wildcard == NONE {
                self.child(at, self.token_hash(token))?
            } else {
                wildcard
            };
        }
        Some(at)
    }

    /// Make the path of a new cluster, with wildcards where a token looks like data or a node is full.
    pub fn plant(&mut self, tokens: &Tokens<'_>) -> Planted {
        let mut at = tokens.count() as u32;
        let mut captures = false;
        for token in tokens.iter().take(MAX_LEVELS) {
            let (children, wildcard) = self
                .nodes
                .get(at as usize)
                .map_or((0, NONE), |node| (node.children, node.wildcard));
            at = if children < FULL_AT_CHILDREN && !looks_like_data(token) {
                let hash = self.token_hash(token);
                self.child(at, hash).unwrap_or_else(|| self.add_child(at, hash))
            } else if wildcard == NONE {
                captures |= children > 0;
                self.add_wildcard(at)
            } else {
                wildcard
            };
        }
        Planted { leaf: at, captures }
    }

    #[inline]
    fn token_hash(&self, token: &str) -> u64 {
        xxh3_64_with_seed(token.as_bytes(), self.seed)
    }

    fn child(&self, parent: u32, token: u64) -> Option<u32> {
        let is_child = |node: &u32| {
            self.nodes
                .get(*node as usize)
                .is_some_and(|node| node.parent == parent && node.token == token)
        };
        self.edges
            .find(self.hasher.hash_one((parent, token)), is_child)
            .copied()
    }

    fn add_child(&mut self, parent: u32, token: u64) -> u32 {
        let node = self.add_node(parent, token);
        self.add_edge(node, parent, token);
        node
    }

    fn add_edge(&mut self, node: u32, parent: u32, token: u64) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let hash_of = |node: &u32| {
            nodes
                .get(*node as usize)
                .map_or(0, |node| hasher.hash_one((node.parent, node.token)))
        };
        let hash = hasher.hash_one((parent, token));
        self.edges.insert_unique(hash, node, hash_of);
    }

    fn add_wildcard(&mut self, parent: u32) -> u32 {
        let node = self.add_node(parent, 0);
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.wildcard = node;
        }
        node
    }

    fn add_node(&mut self, parent: u32, token: u64) -> u32 {
        let node = Node {
            parent,
            token,
            ..EMPTY
        };
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.children += 1;
        }
        self.used += 1;
        let at = self.free;
        if let Some(slot) = self.nodes.get_mut(at as usize) {
            self.free = slot.parent;
            *slot = node;
            return at;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// The root that a node is below, which is how many tokens its names have; `None`: there is no such node.
    pub fn root_of(&self, node: u32) -> Option<usize> {
        let mut at = node;
        for _ in 0..=MAX_LEVELS {
            if (at as usize) < ROOTS {
                return Some(at as usize);
            }
            at = self.nodes.get(at as usize)?.parent;
        }
        None
    }

    /// How many clusters end at a leaf.
    pub fn cluster_count(&self, leaf: u32) -> u16 {
        self.nodes.get(leaf as usize).map_or(0, |node| node.clusters)
    }

    /// The first cluster that ends at a leaf; each cluster names the next.
    #[inline]
    pub fn first_cluster(&self, leaf: u32) -> u32 {
        self.nodes
            .get(leaf as usize)
            .map_or(NONE, |node| node.first_cluster)
    }

    /// Note that a leaf has one more cluster, the first from now on.
    pub fn add_cluster(&mut self, leaf: u32, first: u32) {
        if let Some(node) = self.nodes.get_mut(leaf as usize) {
            node.first_cluster = first;
            node.clusters += 1;
        }
    }

    /// Note that a leaf has one cluster less and which is the first of those left; prune the branch if none is. Whether
    /// that took a wildcard from beside known tokens, so that names with those tokens now lead elsewhere.
    pub fn remove_cluster(&mut self, leaf: u32, first: u32) -> bool {
        if let Some(node) = self.nodes.get_mut(leaf as usize) {
            node.first_cluster = first;
            node.clusters = node.clusters.saturating_sub(1);
        }
        let mut releases = false;
        let mut at = leaf;
        while at as usize >= ROOTS
            && let Some(node) = self.nodes.get_mut(at as usize)
            && node.children == 0
            && node.clusters == 0
        {
            let (parent, token) = (node.parent, node.token);
            node.parent = std::mem::replace(&mut self.free, at);
            self.used -= 1;
            if let Some(parent) = self.nodes.get_mut(parent as usize) {
                parent.children -= 1;
                if parent.wildcard == at {
                    parent.wildcard = NONE;
                    releases |= parent.children > 0;
                }
            }
            let hash = self.hasher.hash_one((parent, token));
            // A wildcard has no edge, and then none is found.
            if let Ok(edge) = self.edges.find_entry(hash, |node| *node == at) {
                edge.remove();
            }
            at = parent;
        }
        releases
    }

    /// How many nodes are in use, the roots included.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is nothing but roots.
    pub fn is_empty(&self) -> bool {
        self.used == ROOTS
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.edges.capacity() * EDGE_BYTES * 8 / 7
    }

    /// Most bytes that a tree can hold which never had more than so many nodes: both arrays double as they grow, and
    /// the table of edges when it is seven eighths full.
    pub const fn bytes_at_most(nodes: usize) -> usize {
        let slots = (nodes * 8 / 7 + 1).next_power_of_two();
        nodes.next_power_of_two() * size_of::<Node>() + slots * EDGE_BYTES
    }
}

/// A tree in a checkpoint: its nodes without their clusters, which know where they end. A free node is none.
#[derive(Serialize, Deserialize)]
struct TreeState {
    seed: u64,
    nodes: Vec<Option<NodeState>>,
    free: Vec<u32>,
}

/// Whose child a node is, and by which token; `None`: by any.
#[derive(Clone, Serialize, Deserialize)]
struct NodeState {
    parent: u32,
    token: Option<u64>,
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let next_free = |at: &u32| self.nodes.get(*at as usize).map(|node| node.parent);
        let free = std::iter::successors(Some(self.free), next_free).filter(|at| *at != NONE);
        let free: Vec<u32> = free.collect();
        let nodes = (0u32..).zip(&self.nodes).skip(ROOTS).map(|(at, node)| {
            let parent = self.nodes.get(node.parent as usize);
            let is_wildcard = parent.is_some_and(|parent| parent.wildcard == at);
            Some(NodeState {
                parent: node.parent,
                token: (!is_wildcard).then_some(node.token),
            })
        });
        let mut nodes: Vec<_> = nodes.collect();
        for at in &free {
            if let Some(node) = nodes.get_mut(*at as usize - ROOTS) {
                *node = None;
            }
        }
        let seed = self.seed;
        TreeState { seed, nodes, free }.serialize(serializer)
    }
}

impl TryFrom<TreeState> for Tree {
    type Error = FrameError;

    fn try_from(state: TreeState) -> Result<Self, FrameError> {
        let mut tree = Self::new(state.seed);
        let length = ROOTS + state.nodes.len();
        // The bound of bytes holds for arrays that double.
        tree.nodes.reserve_exact(length.next_power_of_two() - ROOTS);
        tree.nodes.resize(length, EMPTY);
        let mut is_free: Vec<bool> = state.nodes.iter().map(Option::is_none).collect();
        let free: Vec<u32> = state
            .free
            .iter()
            .map(|at| at.wrapping_sub(ROOTS as u32))
            .collect();
        check_each(&free, &mut is_free)?;
        for at in state.free.iter().rev() {
            if let Some(node) = tree.nodes.get_mut(*at as usize) {
                node.parent = std::mem::replace(&mut tree.free, *at);
            }
        }
        for (at, node) in (ROOTS as u32..).zip(&state.nodes) {
            if let Some(node) = node {
                let parent = (node.parent as usize).checked_sub(ROOTS);
                if parent.is_some_and(|parent| !matches!(state.nodes.get(parent), Some(Some(_)))) {
                    return Err(refuse("a node has no parent"));
                }
                tree.restore(at, node)?;
            }
        }
        if (ROOTS as u32..)
            .zip(&state.nodes)
            .any(|(at, node)| node.is_some() && tree.root_of(at).is_none())
        {
            return Err(refuse("a node has no root"));
        }
        Ok(tree)
    }
}

impl Tree {
    fn restore(&mut self, at: u32, state: &NodeState) -> Result<(), FrameError> {
        self.used += 1;
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.parent = state.parent;
            node.token = state.token.unwrap_or_default();
        }
        let Some(parent) = self.nodes.get_mut(state.parent as usize) else {
            return Err(refuse("a node has no parent"));
        };
        parent.children += 1;
        if parent.children > FULL_AT_CHILDREN + 1 {
            return Err(refuse("a node has too many children"));
        }
        match state.token {
            Some(token) => self.add_edge(at, state.parent, token),
            None if parent.wildcard == NONE => parent.wildcard = at,
            None => return Err(refuse("a node has two wildcards")),
        }
        Ok(())
    }
}

/// A node's number in the table, and the table's own byte.
const EDGE_BYTES: usize = size_of::<u32>() + 1;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plant(tree: &mut Tree, name: &str) -> Planted {
        let planted = tree.plant(&Tokens::cut(name).unwrap());
        tree.add_cluster(planted.leaf, 0);
        planted
    }

    fn find(tree: &Tree, name: &str) -> Option<u32> {
        tree.find(&Tokens::cut(name).unwrap())
    }

    #[test]
    fn the_wildcard_comes_before_the_very_token() {
        let mut tree = Tree::new(7);
        let word = plant(&mut tree, "/users/me");
        assert!(!word.captures);
        assert_eq!(find(&tree, "/users/me"), Some(word.leaf));
        assert_eq!(find(&tree, "/users/you"), None);
        let number = plant(&mut tree, "/users/12");
        assert!(number.captures);
        for name in ["/users/12", "/users/13", "/users/me", "/users/you"] {
            assert_eq!(find(&tree, name), Some(number.leaf));
        }
        assert_eq!(find(&tree, "/users/12/"), None);
    }

    #[test]
    fn names_part_at_the_first_27_tokens_only() {
        let mut tree = Tree::new(7);
        let name = |last: &str| format!("{}{last}", "/".repeat(27));
        let first = plant(&mut tree, &name("a"));
        assert_eq!(plant(&mut tree, &name("b")), first);
        assert_ne!(plant(&mut tree, &name("b/")), first);
    }

    #[test]
    fn a_full_node_sends_every_further_token_to_its_wildcard() {
        let mut tree = Tree::new(7);
        let word = |index: usize| {
            let letter = |shift: usize| char::from(b'g' + (index >> shift & 15) as u8);
            format!("{}{}{}/", letter(8), letter(4), letter(0))
        };
        for index in 0..999 {
            assert!(!plant(&mut tree, &word(index)).captures);
        }
        let (known, new) = (find(&tree, &word(7)), plant(&mut tree, &word(999)));
        assert!(known.is_some() && new.captures);
        assert_eq!(find(&tree, &word(7)), Some(new.leaf));
        assert_eq!(plant(&mut tree, &word(1000)).leaf, new.leaf);
        assert_eq!(plant(&mut tree, &word(7)).leaf, new.leaf);
    }

    #[test]
    fn branches_without_clusters_are_pruned_up_to_the_fork() {
        let mut tree = Tree::new(7);
        let word = plant(&mut tree, "/users/me");
        let before = tree.len();
        let number = plant(&mut tree, "/users/12");
        let branch = plant(&mut tree, "/orders/12");
        assert!(
            tree.remove_cluster(number.leaf, NONE),
            "it had captured /users/me"
        );
        assert!(!tree.remove_cluster(branch.leaf, NONE));
        assert_eq!(tree.len(), before);
        assert_eq!(find(&tree, "/users/me"), Some(word.leaf));
        assert!(!tree.remove_cluster(word.leaf, NONE));
        assert!(tree.is_empty() && tree.edges.is_empty());
    }

    #[test]
    fn nodes_that_are_no_tree_are_refused() {
        const FIRST: u32 = ROOTS as u32;
        let node = |parent, token| Some(NodeState { parent, token });
        let restored = |nodes: &[Option<NodeState>], free: &[u32]| {
            let (nodes, free) = (nodes.to_vec(), free.to_vec());
            Tree::try_from(TreeState { seed: 7, nodes, free })
        };
        let chain = |length: u32| -> Vec<Option<NodeState>> {
            (0..length)
                .map(|at| node(if at == 0 { 2 } else { FIRST + at - 1 }, Some(1)))
                .collect()
        };
        assert!(restored(&chain(MAX_LEVELS as u32), &[]).is_ok());
        assert_eq!(
            restored(&[None, node(2, None)], &[FIRST]).unwrap().len(),
            ROOTS + 1
        );
        let mut full: Vec<_> = (0..1001).map(|token| node(2, Some(token))).collect();
        let cases = [
            (vec![node(FIRST, Some(1))], vec![]),
            (vec![node(FIRST + 1, Some(1)), node(FIRST, Some(1))], vec![]),
            (vec![node(FIRST + 1, Some(1)), None], vec![FIRST + 1]),
            (vec![node(NONE, Some(1))], vec![]),
            (vec![node(2, None), node(2, None)], vec![]),
            (vec![None], vec![]),
            (vec![node(2, None)], vec![FIRST]),
            (vec![None], vec![2]),
            (chain(MAX_LEVELS as u32 + 1), vec![]),
            (full.clone(), vec![]),
        ];
        for (number, (nodes, free)) in cases.iter().enumerate() {
            assert!(restored(nodes, free).is_err(), "case {number}");
        }
        full.truncate(1000);
        assert!(restored(&full, &[]).is_ok());
    }
}

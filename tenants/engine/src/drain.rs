//! The DRAIN model of one tenant: which span names are one pattern (processors §4.9 and appendix B).
//!
//! Names are trained one by one; a name that is like a known one makes every token in which they differ a wildcard.
//! The model neither reads a mode nor touches labels: whether a pattern is used, or only counted (dry run), is up to
//! its caller. There is no age limit, and branches are pruned when their last cluster is evicted, so it needs no clock.
//!
//! Beyond the appendix: a name that its search cannot find again, because a wildcard hides its branch, has one cluster
//! and not a further one each time; a leaf has at most [`LEAF_CLUSTERS`]; bytes are bounded as well as clusters.

use serde::{Deserialize, Serialize};

use crate::checkpoint::{plausible, refuse};
use crate::drain_clusters::{Cluster, Clusters};
use crate::drain_counters::DrainCounters;
use crate::drain_tokens::{Tokens, Unfit};
use crate::drain_tree::{NONE, Tree};
use crate::error::FrameError;

/// Most clusters of a model (appendix B).
pub const MAX_CLUSTERS: usize = 100_000;
/// Most clusters of one leaf, which are all compared with a name. Only names that have next to nothing in common meet
/// in one leaf without becoming one cluster.
pub const LEAF_CLUSTERS: u16 = 100;
/// Most bytes that a model holds.
pub const MAX_BYTES: usize = 64 << 20;

const BOUNDS: Bounds = Bounds {
    clusters: MAX_CLUSTERS,
    // As many as the tables hold before they double once more.
    nodes: 450_000,
    heap_bytes: 36 << 20,
};
// A name takes its place before others lose theirs.
const _: () = assert!(
    Tree::bytes_at_most(BOUNDS.nodes + 80) + Clusters::bytes_at_most(BOUNDS.clusters + 1, BOUNDS.heap_bytes)
        < MAX_BYTES
);

/// What the least recently used clusters are evicted for.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    clusters: usize,
    nodes: usize,
    heap_bytes: usize,
}

/// What to use in place of a name, and what [`Drain::recall`] needs to know about it.
#[derive(Debug, Clone, Copy)]
pub struct Trained<'d> {
    /// The pattern, where it is another text than the name.
    pub pattern: Option<&'d str>,
    /// How the name was judged.
    pub memo: Memo,
}

/// How a name was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memo(Judgement);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Unfit(Unfit),
    Learned {
        cluster: u32,
        tokens: u8,
        is_sanitized: bool,
        created_at: u64,
        version: u64,
    },
}

/// The model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "DrainState")]
pub struct Drain {
    tree: Tree,
    clusters: Clusters,
    #[serde(skip)]
    bounds: Bounds,
    version: u64,
    counters: DrainCounters,
}

impl Drain {
    /// A model that knows nothing and will know at most so many clusters, and never more than [`MAX_CLUSTERS`]. Nobody
    /// who chooses names may know `seed`.
    pub fn new(capacity: usize, seed: u64) -> Self {
        let bounds = Bounds {
            clusters: capacity.clamp(1, MAX_CLUSTERS),
            ..BOUNDS
        };
        Self::with_bounds(bounds, seed)
    }

    fn with_bounds(bounds: Bounds, seed: u64) -> Self {
        Self {
            tree: Tree::new(seed),
            clusters: Clusters::default(),
            bounds,
            version: 0,
            counters: DrainCounters::default(),
        }
    }

    /// Learn a name, and tell which pattern stands for it.
    pub fn train(&mut self, name: &str) -> Trained<'_> {
        let tokens = match Tokens::cut(name) {
            Ok(tokens) => tokens,
            Err(unfit) => {
                let memo = Memo(Judgement::Unfit(unfit));
                self.count(memo);
                return Trained { pattern: None, memo };
            }
        };
        let leaf = self.tree.find(&tokens);
        let number = match leaf.and_then(|leaf| self.most_alike(leaf, &tokens)) {
            Some(number) => {
                self.clusters.touch(number);
                if self.clusters.adapt(number, &tokens) {
                    self.version += 1;
                }
                number
            }
            None => self.learn(&tokens, leaf),
        };
        let cluster = self.clusters.get(number);
        let is_sanitized = cluster.is_some_and(|cluster| cluster.text() != name);
        let memo = Memo(Judgement::Learned {
            cluster: number,
            tokens: tokens.count() as u8 + 1,
            is_sanitized,
            created_at: cluster.map_or(0, Cluster::created_at),
            version: self.version,
        });
        self.count(memo);
        // After the memo is made: what goes may have hidden a branch that this name leads to from now on.
        self.evict_beyond_bounds();
        let cluster = self.clusters.get(number).filter(|_| is_sanitized);
        Trained {
            pattern: cluster.map(Cluster::text),
            memo,
        }
    }

    /// Take note of a name that was trained before, as [`Self::train`] would: counters move, and its cluster is in use.
    /// False if the model has moved on: nothing is noted then, and the name must be trained again.
    #[inline]
    pub fn recall(&mut self, memo: Memo) -> bool {
        if let Judgement::Learned {
            cluster,
            created_at,
            version,
            ..
        } = memo.0
        {
            let known = self.clusters.get(cluster);
            if version != self.version || known.is_none_or(|known| known.created_at() != created_at) {
                return false;
            }
            self.clusters.touch(cluster);
        }
        self.count(memo);
        true
    }

    /// Grows whenever the pattern of a name that was trained before may be another one now.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What happened so far.
    pub fn counters(&self) -> &DrainCounters {
        &self.counters
    }

    /// How many clusters there are.
    pub fn len(&self) -> usize {
        self.clusters.len()
    }

    /// Whether nothing was learned.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Bytes held, at most [`MAX_BYTES`].
    pub fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.tree.state_bytes() + self.clusters.state_bytes()
    }

    #[inline]
    fn count(&mut self, memo: Memo) {
        let counters = &mut self.counters;
        match memo.0 {
            Judgement::Unfit(Unfit::TooFewTokens) => counters.lines_skipped_too_few_tokens += 1,
            Judgement::Unfit(Unfit::TooManyTokens) => counters.lines_skipped_too_many_tokens += 1,
            Judgement::Learned {
                tokens, is_sanitized, ..
            } => {
                counters.tokens_per_line.observe(tokens);
                counters.spans_sanitized += u64::from(is_sanitized);
            }
        }
    }

    /// The cluster of a leaf that is most like the name and like enough; among equals the one with more wildcards, then
    /// the eldest.
    fn most_alike(&self, leaf: u32, tokens: &Tokens<'_>) -> Option<u32> {
        self.leaf_clusters(leaf)
            .filter_map(|number| Some((self.clusters.get(number)?.likeness(tokens), number)))
            .filter(|(likeness, _)| likeness.is_enough(tokens.count()))
            // The last of equal ones is the eldest: new clusters are put in front.
            .max_by_key(|(likeness, _)| *likeness)
            .map(|(_, number)| number)
    }

    fn leaf_clusters(&self, leaf: u32) -> impl Iterator<Item = u32> {
        let first = Some(self.tree.first_cluster(leaf)).filter(|number| *number != NONE);
        std::iter::successors(first, |number| {
            Some(self.clusters.get(*number)?.next_in_leaf()).filter(|number| *number != NONE)
        })
    }

    /// Make a cluster of a name whose search ended at the leaf `searched`, or nowhere.
    fn learn(&mut self, tokens: &Tokens<'_>, searched: Option<u32>) -> u32 {
        let planted = self.tree.plant(tokens);
        if searched != Some(planted.leaf) {
            let is_twin = |number: &u32| {
                let cluster = self.clusters.get(*number);
                cluster.is_some_and(|cluster| cluster.is_literal() && cluster.text() == tokens.name())
            };
            let twin = self.leaf_clusters(planted.leaf).find(is_twin);
            if let Some(twin) = twin {
                self.clusters.touch(twin);
                return twin;
            }
        }
        let neighbours = self.tree.cluster_count(planted.leaf);
        // A name may now be led past its cluster, or find the new one in its leaf and more like it.
        if planted.captures || (neighbours > 0 && searched == Some(planted.leaf)) {
            self.version += 1;
        }
        if neighbours >= LEAF_CLUSTERS {
            let used_at = |number: &u32| self.clusters.get(*number).map(Cluster::used_at);
            let least_used = self.leaf_clusters(planted.leaf).min_by_key(used_at);
            self.evict(least_used.unwrap_or(NONE));
        }
        let first = self.tree.first_cluster(planted.leaf);
        let number = self.clusters.add(tokens, planted.leaf, first);
        self.tree.add_cluster(planted.leaf, number);
        self.counters.patterns_detected += 1;
        number
    }

    fn evict_beyond_bounds(&mut self) {
        // What was used last stays, whatever its size.
        while self.clusters.len() > 1
            && (self.clusters.len() > self.bounds.clusters
                || self.clusters.heap_bytes() > self.bounds.heap_bytes
                || self.tree.len() > self.bounds.nodes)
        {
            self.evict(self.clusters.oldest());
        }
    }

    fn evict(&mut self, number: u32) {
        let Some(evicted) = self.clusters.remove(number) else {
            return;
        };
        self.counters.patterns_evicted += 1;
        let next = evicted.next_in_leaf();
        let mut first = self.tree.first_cluster(evicted.leaf());
        if first == number {
            first = next;
        } else {
            let names_it = |other: &u32| {
                self.clusters
                    .get(*other)
                    .is_some_and(|other| other.next_in_leaf() == number)
            };
            let before = self.leaf_clusters(evicted.leaf()).find(names_it);
            self.clusters.set_next_in_leaf(before.unwrap_or(NONE), next);
        }
        // A name that a wildcard had hidden may now lead to a cluster of another branch.
        if self.tree.remove_cluster(evicted.leaf(), first) {
            self.version += 1;
        }
    }
}

/// A model in a checkpoint. Its bounds are not part of it: only tests have others.
#[derive(Deserialize)]
struct DrainState {
    tree: Tree,
    clusters: Clusters,
    #[serde(deserialize_with = "plausible")]
    version: u64,
    counters: DrainCounters,
}

impl TryFrom<DrainState> for Drain {
    type Error = FrameError;

    fn try_from(state: DrainState) -> Result<Self, FrameError> {
        let mut drain = Self {
            tree: state.tree,
            clusters: state.clusters,
            bounds: BOUNDS,
            version: state.version,
            counters: state.counters,
        };
        // New clusters are put in front.
        for number in drain.clusters.by_age() {
            let cluster = drain.clusters.get(number);
            let Some((leaf, tokens)) = cluster.map(|cluster| (cluster.leaf(), cluster.tokens())) else {
                continue;
            };
            if drain.tree.root_of(leaf) != Some(tokens) {
                return Err(refuse("a pattern ends at no leaf of its own"));
            }
            if drain.tree.cluster_count(leaf) >= LEAF_CLUSTERS {
                return Err(refuse("a leaf has too many patterns"));
            }
            drain
                .clusters
                .set_next_in_leaf(number, drain.tree.first_cluster(leaf));
            drain.tree.add_cluster(leaf, number);
        }
        Ok(drain)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::{sealed, tests::again};
    use proptest::prelude::*;

    fn text(trained: Trained<'_>, name: &str) -> String {
        trained.pattern.unwrap_or(name).to_owned()
    }

    #[test]
    fn names_become_patterns_as_in_conformance_cases_115_to_125() {
        // One model for each case. Names without an arrow stay as they are.
        let cases: &[&[&str]] = &[
            &[
                "GET /api/users/123",
                "GET /api/users/456 => GET /api/users/<_>",
                "GET /api/users/789 => GET /api/users/<_>",
            ],
            &[
                "POST /api/orders/100/items/1",
                "POST /api/orders/200/items/2 => POST /api/orders/<_>/items/<_>",
                "POST /api/orders/300/items/3 => POST /api/orders/<_>/items/<_>",
            ],
            &[
                "SELECT * FROM users_100",
                "SELECT * FROM users_200 => SELECT * FROM users_<_>",
                "SELECT * FROM users_300 => SELECT * FROM users_<_>",
            ],
            &[
                "grpc.client/service.Method/123",
                "grpc.client/service.Method/456 => grpc.client/service.Method/<_>",
                "grpc.client/service.Method/789 => grpc.client/service.Method/<_>",
            ],
            &[
                "GET /users/123/data",
                "GET /users/456/settings",
                "GET /users/789/data => GET /users/<_>/data",
                "GET /users/7/settings => GET /users/<_>/settings",
            ],
            &[
                "GET /users/123",
                "GET /users/settings => GET /users/<_>",
                "GET /users/me => GET /users/<_>",
            ],
            &[
                "GET /users/settings",
                "GET /users/123",
                "GET /users/settings => GET /users/<_>",
            ],
            &["GET /api/users", "GET /api/posts", "GET /api/users"],
            &["op1", "GET", "a", ""],
            &[
                "query1 run",
                "query2 run",
                "query33 run",
                "query44 run => <_> run",
            ],
            &["123 foo bar", "456 foo bar => <_> foo bar", "789 baz bar"],
        ];
        for case in cases {
            let mut drain = Drain::new(MAX_CLUSTERS, 7);
            for step in *case {
                let (name, pattern) = match step.split_once(" => ") {
                    Some((name, pattern)) => (name, Some(pattern)),
                    None => (*step, None),
                };
                assert_eq!(drain.train(name).pattern, pattern, "{step} in {case:?}");
            }
            let patterns = case.iter().filter(|step| step.contains(" => ")).count();
            assert_eq!(drain.counters().spans_sanitized, patterns as u64);
        }
    }

    #[test]
    fn a_name_hidden_by_a_wildcard_has_one_cluster_however_often_it_comes() {
        let mut drain = Drain::new(MAX_CLUSTERS, 7);
        drain.train("GET /users/1/data");
        for _ in 0..3 {
            for name in ["GET /users/me/a", "GET /users/me/b"] {
                assert_eq!(drain.train(name).pattern, None);
            }
        }
        assert_eq!(drain.counters().patterns_detected, 3);
    }

    #[test]
    fn the_version_grows_only_when_a_known_name_may_have_another_pattern() {
        let mut drain = Drain::new(MAX_CLUSTERS, 7);
        let mut grows = |name: &str| {
            let before = drain.version();
            drain.train(name);
            drain.version() > before
        };
        assert!(!grows("GET /users/settings"));
        assert!(!grows("GET /orders/settings"));
        assert!(!grows("GET /users/settings"));
        assert!(grows("GET /users/123"), "it captures /users/settings");
        assert!(grows("GET /users/settings"), "the pattern changes");
        assert!(!grows("GET /users/settings"));
        assert!(!grows("GET /users/456"));
        assert!(!grows("GET"));
    }

    #[test]
    fn a_name_is_recalled_until_the_model_has_moved_on() {
        let mut drain = Drain::new(2, 7);
        let memo = drain.train("GET /a/1").memo;
        let unfit = drain.train("GET").memo;
        assert!(drain.recall(memo) && drain.recall(unfit));
        drain.train("GET /a/2");
        assert!(!drain.recall(memo), "its pattern is another one");
        let trained = drain.train("GET /a/1");
        assert_eq!(trained.pattern, Some("GET /a/<_>"));
        let memo = trained.memo;
        drain.train("x y");
        assert!(drain.recall(memo), "and so it is in use");
        drain.train("x z");
        assert_eq!(drain.train("GET /a/3").pattern, Some("GET /a/<_>"));
        drain.train("x y");
        drain.train("x z");
        assert!(!drain.recall(memo), "its cluster was evicted");
        assert!(drain.recall(unfit));
        let counters = drain.counters();
        assert_eq!(counters.lines_skipped_too_few_tokens, 3);
        // GET /a/2, /a/1 twice, and /a/3.
        assert_eq!(counters.spans_sanitized, 4);
        assert_eq!(counters.patterns_detected, 5);
        assert_eq!(counters.patterns_evicted, 3);
        let learned = counters.tokens_per_line.buckets().last().map(|(_, count)| *count);
        assert_eq!(learned, Some(10));
    }

    #[test]
    fn a_name_with_too_many_tokens_is_left_alone() {
        let mut drain = Drain::new(MAX_CLUSTERS, 7);
        for (tokens, is_learned) in [(79, true), (80, false)] {
            let before = drain.len();
            assert_eq!(drain.train(&"/".repeat(tokens)).pattern, None);
            assert_eq!(drain.len() > before, is_learned);
        }
        assert_eq!(drain.counters().lines_skipped_too_many_tokens, 1);
        assert_eq!(drain.counters().tokens_per_line.sum() as u64, 80);
    }

    #[test]
    fn a_leaf_keeps_the_clusters_used_last() {
        let mut drain = Drain::new(MAX_CLUSTERS, 7);
        // All escapes look like data: one leaf, and nothing in common.
        let name = |index: usize| format!("%{:02x}", 0x10 + index).repeat(10);
        for index in 0..usize::from(LEAF_CLUSTERS) {
            assert_eq!(drain.train(&name(index)).pattern, None);
        }
        drain.train(&name(0));
        assert_eq!(drain.counters().patterns_evicted, 0);
        drain.train(&name(usize::from(LEAF_CLUSTERS)));
        assert_eq!(drain.len(), usize::from(LEAF_CLUSTERS));
        let detected = drain.counters().patterns_detected;
        drain.train(&name(0));
        assert_eq!(drain.counters().patterns_detected, detected, "it was in use");
        drain.train(&name(1));
        assert_eq!(drain.counters().patterns_detected, detected + 1, "it was not");
    }

    #[test]
    fn neither_long_nor_deep_names_exceed_the_bound_in_bytes() {
        let bounds = Bounds {
            clusters: 1 << 10,
            nodes: 7 << 10,
            heap_bytes: 1 << 20,
        };
        let mut drain = Drain::with_bounds(bounds, 7);
        let at_most = size_of::<Drain>()
            + Tree::bytes_at_most(bounds.nodes + 80)
            + Clusters::bytes_at_most(bounds.clusters + 1, bounds.heap_bytes);
        let word = |index: usize| -> String {
            let digit = |shift: usize| char::from(b'g' + (index >> shift & 15) as u8);
            [digit(8), digit(4), digit(0)].iter().collect()
        };
        let names: [fn(String, String) -> String; 3] = [
            |first, second| format!("{first} {second}"),
            |first, second| format!("{first} {second}{}", "w".repeat(16_000)),
            |first, second| format!("{first}{second}{}", "/x/w".repeat(13)),
        ];
        for name in names {
            let evicted = drain.counters().patterns_evicted;
            for index in 0..3_000 {
                drain.train(&name(word(index / 16), word(index % 16)));
                assert!(drain.state_bytes() <= at_most);
            }
            assert!(drain.counters().patterns_evicted > evicted + 1_000);
        }
    }

    proptest! {
        #[test]
        fn any_names_keep_the_bounds_and_are_known_the_second_time(
            names in prop::collection::vec("\\PC{0,12}|[a1]{1,2}(/[ab12%<_>]{1,2}){0,40}", 1..60),
        ) {
            let bounds = Bounds { clusters: 8, nodes: 200, heap_bytes: 400 };
            let mut drain = Drain::with_bounds(bounds, 7);
            for name in &names {
                let evicted = drain.counters().patterns_evicted;
                let first = text(drain.train(name), name);
                prop_assert!(drain.len() <= bounds.clusters);
                prop_assert!(drain.len() == 1 || drain.tree.len() <= bounds.nodes);
                prop_assert!(drain.len() == 1 || drain.clusters.heap_bytes() <= bounds.heap_bytes);
                if drain.counters().patterns_evicted == evicted {
                    let (version, detected) = (drain.version(), drain.counters().patterns_detected);
                    let trained = drain.train(name);
                    let memo = trained.memo;
                    prop_assert_eq!(text(trained, name), first);
                    prop_assert_eq!((drain.version(), drain.counters().patterns_detected), (version, detected));
                    prop_assert!(drain.recall(memo));
                }
            }
            while !drain.is_empty() {
                drain.evict(drain.clusters.oldest());
            }
            prop_assert!(drain.tree.is_empty());
            prop_assert_eq!(drain.clusters.heap_bytes(), 0);
        }

        #[test]
        fn a_restored_model_goes_on_as_the_one_that_was_kept(
            names in prop::collection::vec("(GET|PUT) (/(me|1|22|%11|you)){1,4}", 1..80),
            clusters in 2_usize..40,
            at in any::<prop::sample::Index>(),
        ) {
            let bounds = Bounds { clusters, ..BOUNDS };
            let mut kept = Drain::with_bounds(bounds, 7);
            let mut restored = Drain::with_bounds(bounds, 7);
            for (number, name) in names.iter().enumerate() {
                if number == at.index(names.len()) {
                    restored = again(&restored).unwrap();
                    restored.bounds = bounds;
                }
                prop_assert_eq!(text(kept.train(name), name), text(restored.train(name), name));
                prop_assert_eq!(kept.version(), restored.version());
                prop_assert_eq!(kept.counters(), restored.counters());
            }
            prop_assert!(sealed(&kept) == sealed(&restored));
        }

        #[test]
        fn a_name_that_is_recalled_would_be_trained_to_the_same_pattern(
            names in prop::collection::vec("(GET|PUT) (/(me|1|22|%11|%12)){1,5}", 1..60),
            clusters in 3_usize..40,
        ) {
            let mut drain = Drain::with_bounds(Bounds { clusters, ..BOUNDS }, 7);
            let mut known = Vec::new();
            for name in &names {
                let trained = drain.train(name);
                known.push((name, trained.memo, text(trained, name)));
                for (name, memo, pattern) in &known {
                    if drain.recall(*memo) {
                        let version = drain.version();
                        prop_assert_eq!(&text(drain.train(name), name), pattern);
                        prop_assert_eq!(drain.version(), version);
                    }
                }
            }
        }
    }
}

//! The registry as a checkpoint, and back.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Registry, layouts};
use crate::budget::{Budget, Usage};
use crate::checkpoint::{opened, plausible, refuse, sealed};
use crate::error::FrameError;
use crate::ledger::LedgerState;
use crate::plan::Plan;
use crate::record::ShardCounters;
use crate::rewriter::Rewriter;
use crate::series_group::{GroupState, SeriesGroup};
use crate::shard::GROUPS;
use crate::sketch::Sketch;

/// All but the settings.
#[derive(Serialize, Deserialize)]
struct RegistryState<'a> {
    #[serde(borrow)]
    groups: Vec<GroupState<'a>>,
    series: Usage,
    entities: Usage,
    rewriter: Cow<'a, Rewriter>,
    entity_demand: Cow<'a, Sketch>,
    #[serde(with = "ShardCountersState")]
    counters: ShardCounters,
    ledger: LedgerState,
    #[serde(deserialize_with = "plausible")]
    native_resets: u64,
    seed: u64,
    collected_at_ms: i64,
    seen_at_ms: i64,
    has_new_plan: bool,
    transition_until_ms: i64,
}

/// What shards counted besides series.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ShardCounters")]
struct ShardCountersState {
    edges: u64,
    expired_edges: [u64; 6],
    dropped_spans: u64,
    invalid_utf8_edges: u64,
    dropped_edges: u64,
    marker_overflow: u64,
}

impl Registry {
    /// All that what comes depends on, but for the plan: a registry restored from it answers every call as this one
    /// does, to the byte. Exemplars that wait for the next collection are not part of it. The same state has the same
    /// bytes.
    pub fn checkpoint(&self) -> Vec<u8> {
        sealed(&RegistryState {
            groups: self.groups.iter().map(SeriesGroup::state).collect(),
            series: self.budget.series,
            entities: self.budget.entities,
            rewriter: Cow::Borrowed(&self.rewriter),
            entity_demand: Cow::Borrowed(&self.entity_demand),
            counters: self.counters,
            ledger: self.ledger.to_state(),
            native_resets: self.native_resets,
            seed: self.seed,
            collected_at_ms: self.collected_at_ms,
            seen_at_ms: self.seen_at_ms,
            has_new_plan: self.has_new_plan,
            transition_until_ms: self.transition_until_ms,
        })
    }

    /// The registry of a checkpoint. `plan` must be the one that was in force then; a change of settings comes after.
    /// Refused are bytes that no checkpoint of this version has, and one made under other metrics or buckets.
    pub fn restore(plan: Arc<Plan>, checkpoint: &[u8]) -> Result<Self, FrameError> {
        let state: RegistryState<'_> = opened(checkpoint)?;
        let each = std::iter::zip(state.groups, layouts(&plan, None));
        let groups: Result<Vec<SeriesGroup>, FrameError> = each
            .map(|(group, (families, shape))| SeriesGroup::restored(group, &families, &shape))
            .collect();
        let groups: [SeriesGroup; GROUPS] = groups?
            .try_into()
            .map_err(|_| refuse("another number of processors"))?;
        let mut rewriter = state.rewriter.into_owned();
        rewriter.set_settings(&plan);
        Ok(Self {
            groups,
            budget: Budget {
                limits: plan.limits,
                series: state.series,
                entities: state.entities,
            },
            rewriter,
            entity_demand: state.entity_demand.into_owned(),
            counters: state.counters,
            ledger: state.ledger.restored()?,
            native_resets: state.native_resets,
            seed: state.seed,
            collected_at_ms: state.collected_at_ms,
            seen_at_ms: state.seen_at_ms,
            has_new_plan: state.has_new_plan,
            transition_until_ms: state.transition_until_ms,
            plan,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::group::Group;
    use crate::labels::label_set;
    use crate::ledger::{Entry, Ledger};
    use crate::plan::tests::settings;
    use crate::record::GroupWriter;

    /// The spans of a shard under `plan`.
    fn shard(plan: &Plan) -> Group {
        let [(_, shape), ..] = layouts(plan, None);
        Group::new(shape)
    }

    /// Count spans of these names.
    fn told(shard: &mut Group, names: &[&str]) -> Vec<u8> {
        for name in names {
            let entity = shard.entity(&label_set(vec![(b"span_name", name.as_bytes())]), 0);
            shard.update(entity).unwrap().add(0, 2.5);
        }
        let mut ledger = Ledger::default();
        ledger.add(b"shop", Entry::Generated, names.len() as u64);
        let mut out = GroupWriter::new(&ShardCounters::default(), &ledger, GROUPS);
        shard.flush(&mut out);
        (1..GROUPS).for_each(|_| out.absent());
        out.finish()
    }

    /// A registry with something in every part of its state, the same every time.
    fn counted() -> (Arc<Plan>, Registry) {
        let settings = settings(&[
            ("/span_name_sanitization", json!("enabled")),
            ("/max_cardinality_per_label", json!(3)),
            ("/histograms/mode", json!("both")),
        ]);
        let plan = Arc::new(Plan::compile(&settings).unwrap());
        let mut registry = Registry::seeded(Arc::clone(&plan), 1_000, 7);
        let record = told(&mut shard(&plan), &["GET /a/1", "GET /a/2", "GET /b", "op"]);
        registry.merge(1, &record, 2_000_000_000).unwrap();
        registry.collect_silently(3_000);
        (plan, registry)
    }

    #[test]
    fn a_label_set_of_two_shards_lasts_until_both_are_gone() {
        let plan = Arc::new(Plan::compile(&settings(&[])).unwrap());
        let mut kept = Registry::seeded(Arc::clone(&plan), 1_000, 7);
        let mut shards = [shard(&plan), shard(&plan)];
        for (source, shard) in (0..).zip(&mut shards) {
            kept.merge(source, &told(shard, &["op"]), 2_000_000_000).unwrap();
        }
        let mut restored = Registry::restore(Arc::clone(&plan), &kept.checkpoint()).unwrap();
        let record = told(&mut shards[1], &["op"]);
        for registry in [&mut kept, &mut restored] {
            registry.forget_source(0);
            registry.sweep(2_000 + 2 * plan.stale_ms);
            registry
                .merge(1, &record, 3_000_000_000 + 2_000_000 * plan.stale_ms as u64)
                .unwrap();
            assert_eq!(registry.stats().budget.entities.active, 1);
        }
        assert!(kept.checkpoint() == restored.checkpoint());
    }

    #[test]
    fn the_layout_of_checkpoints_is_that_of_their_version() {
        let (plan, registry) = counted();
        let checkpoint = registry.checkpoint();
        let restored = Registry::restore(plan, &checkpoint).unwrap();
        assert!(restored.checkpoint() == checkpoint);
        // Where this differs, what was kept would be misread: raise the version of checkpoints.
        assert_eq!(xxh3_64(&checkpoint), 5_821_996_259_549_655_806);
    }
}

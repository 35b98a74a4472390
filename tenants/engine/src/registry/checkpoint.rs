//! The registry as a checkpoint, and back.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Registry, layouts};
use crate::budget::{Budget, Usage};
use crate::checkpoint::{opened, plausible, refuse, sealed};
use crate::error::FrameError;
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

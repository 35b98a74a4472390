//! What becomes of a label set on its way into the registry: learned span names, and labels with too many values
//! (processors §4.8, §4.9). One for each tenant, so that all shards see the same.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::checkpoint::plausible;
use crate::drain::{Drain, MAX_CLUSTERS};
use crate::drain_counters::DrainCounters;
use crate::label_cardinality::LabelCardinality;
use crate::labels::{Labels, put_label, truncate};
use crate::plan::Plan;
use crate::settings::SpanNameSanitization;
use crate::sketch::{Sketch, Window};

const SPAN_NAME: &[u8] = b"span_name";
/// Known label sets are looked at again at least this often, so that what is in use stays in every window.
const SLOT_MS: u64 = 300_000;
/// How often the demand after sanitization is worked out (processors §4.10).
const PUBLISH_MS: i64 = 15_000;

/// The models of one tenant. Settings are not part of its checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rewriter {
    #[serde(skip)]
    mode: SpanNameSanitization,
    #[serde(skip)]
    limit: u64,
    #[serde(skip)]
    max_value_len: usize,
    seed: u64,
    /// Made when it is first needed; what it has learned outlives a change of mode.
    drain: Option<Box<Drain>>,
    labels: LabelCardinality,
    sanitized_sets: Sketch,
    demand: u64,
    published_at_ms: i64,
    #[serde(deserialize_with = "plausible")]
    spans_sanitized: u64,
    #[serde(deserialize_with = "plausible")]
    slot: u64,
    #[serde(deserialize_with = "plausible")]
    switches: u64,
}

/// What a label set became.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The other label set, if it is another.
    pub set: Option<Vec<u8>>,
    /// Its span name is that of a pattern, also in a dry run.
    pub is_sanitized: bool,
}

impl Rewriter {
    /// Nothing learned; `seed` is the registry's own.
    pub fn new(plan: &Plan, seed: u64, now_ms: i64) -> Self {
        let window = Window::of(plan.stale_ms);
        let mut rewriter = Self {
            mode: SpanNameSanitization::Off,
            limit: 0,
            max_value_len: 0,
            seed,
            drain: None,
            labels: LabelCardinality::new(window, seed, plan.limits.max_cardinality_per_label, now_ms),
            sanitized_sets: Sketch::new(window, now_ms),
            demand: 0,
            published_at_ms: i64::MIN,
            spans_sanitized: 0,
            slot: 0,
            switches: 0,
        };
        rewriter.set_plan(plan);
        rewriter
    }

    /// Go on with other settings.
    pub fn set_plan(&mut self, plan: &Plan) {
        self.switches += 1;
        self.set_settings(plan);
    }

    /// Take the settings from the plan that is in force already.
    pub fn set_settings(&mut self, plan: &Plan) {
        self.mode = plan.sanitization;
        self.limit = plan.limits.max_cardinality_per_label;
        self.max_value_len = plan.max_value_len;
        if self.mode != SpanNameSanitization::Off && self.drain.is_none() {
            self.drain = Some(Box::new(Drain::new(MAX_CLUSTERS, self.seed)));
        }
    }

    /// Whether label sets need to be looked at. The label limit has the last word on when it is switched off.
    pub fn is_active(&self) -> bool {
        self.mode != SpanNameSanitization::Off || self.limit > 0 || self.labels.is_limiting()
    }

    /// Note the time, before label sets of that time come.
    pub fn tick(&mut self, now_ms: i64) {
        self.labels.refresh(self.limit, now_ms);
        self.slot = self.slot.max(now_ms.max(0) as u64 / SLOT_MS);
        let is_on = self.mode != SpanNameSanitization::Off;
        if is_on && now_ms.saturating_sub(self.published_at_ms) >= PUBLISH_MS {
            self.published_at_ms = now_ms;
            self.demand = self.sanitized_sets.estimate(now_ms);
        }
    }

    /// Until it grows, a label set that came back as it was need not be looked at again.
    pub fn version(&self) -> u64 {
        let drain = self.drain.as_ref().map_or(0, |drain| drain.version());
        // None of these ever falls, so their sum changes when one does.
        drain + self.labels.version() + self.slot + self.switches
    }

    /// Learn a label set, and say what becomes of it; `updates` spans had it.
    pub fn rewrite(&mut self, set: &[u8], updates: u32, now_ms: i64) -> Rewritten {
        let (sanitized, is_sanitized) = self.sanitize(set, now_ms);
        self.spans_sanitized += u64::from(if is_sanitized { updates } else { 0 });
        let limited = self
            .labels
            .rewrite(sanitized.as_deref().unwrap_or(set), updates, now_ms);
        Rewritten {
            set: limited.or(sanitized),
            is_sanitized,
        }
    }

    fn sanitize(&mut self, set: &[u8], now_ms: i64) -> (Option<Vec<u8>>, bool) {
        if self.mode == SpanNameSanitization::Off {
            return (None, false);
        }
        let Some(drain) = &mut self.drain else {
            return (None, false);
        };
        let name = Labels(set).find(|(name, _)| *name == SPAN_NAME);
        let name = name.map(|(_, value)| value).unwrap_or_default();
        let name = std::str::from_utf8(name).unwrap_or_default();
        let pattern = drain.train(name).pattern;
        let replaced = pattern.map(|pattern| {
            let pattern = truncate(pattern.as_bytes(), self.max_value_len);
            let mut replaced = Vec::with_capacity(set.len() + pattern.len());
            for (name, value) in Labels(set) {
                put_label(
                    &mut replaced,
                    name,
                    if name == SPAN_NAME { pattern } else { value },
                );
            }
            replaced
        });
        let hash = xxh3_64_with_seed(replaced.as_deref().unwrap_or(set), self.seed);
        self.sanitized_sets.insert(hash, now_ms);
        let is_sanitized = replaced.is_some();
        let is_enabled = self.mode == SpanNameSanitization::Enabled;
        (replaced.filter(|_| is_enabled), is_sanitized)
    }

    /// Spans whose name is that of a pattern.
    pub fn spans_sanitized(&self) -> u64 {
        self.spans_sanitized
    }

    /// Distinct label sets after sanitization; 0 while it is off.
    pub fn demand(&self) -> u64 {
        self.demand
    }

    /// What the span-name model has seen.
    pub fn drain_counters(&self) -> Option<&DrainCounters> {
        self.drain.as_ref().map(|drain| drain.counters())
    }

    /// What every label has come to.
    pub fn labels(&self) -> &LabelCardinality {
        &self.labels
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        let drain = self.drain.as_ref().map_or(0, |drain| drain.state_bytes());
        drain + self.labels.state_bytes() + self.sanitized_sets.state_bytes()
    }
}

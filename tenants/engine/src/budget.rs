//! The tenant's limit of series or entities, and what it has come to (processors §4.7).

use serde::{Deserialize, Serialize};

use crate::checkpoint::plausible;
use crate::plan::Limits;
use crate::settings::LimiterType;

/// How many there are and were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Admitted and not ended, overflow aside.
    #[serde(deserialize_with = "plausible")]
    pub active: u64,
    /// Ever admitted.
    #[serde(deserialize_with = "plausible")]
    pub added: u64,
    /// Ended.
    #[serde(deserialize_with = "plausible")]
    pub removed: u64,
    /// Turned away, counted at every attempt (Q25).
    #[serde(deserialize_with = "plausible")]
    pub limited: u64,
}

impl Usage {
    fn add(&mut self, count: u64) {
        self.active += count;
        self.added += count;
    }

    fn remove(&mut self, count: u64) {
        self.active = self.active.saturating_sub(count);
        self.removed += count;
    }
}

/// One limit for all processors of a tenant.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// What is allowed.
    pub limits: Limits,
    /// Series, whether they are limited or not.
    pub series: Usage,
    /// Label sets with series, whether they are limited or not.
    pub entities: Usage,
}

impl Budget {
    /// Nothing used.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            series: Usage::default(),
            entities: Usage::default(),
        }
    }

    /// Let one more metric of an entity in, if it fits. An entity that has series in another metric is not counted again.
    pub fn admit(&mut self, cost: u64, is_known: bool) -> bool {
        match self.limits.limiter_type {
            LimiterType::Series => {
                let limit = self.limits.max_active_series;
                if limit > 0 && self.series.active + cost > limit {
                    self.series.limited += cost;
                    return false;
                }
            }
            LimiterType::Entity => {
                let limit = self.limits.max_active_entities;
                if !is_known && limit > 0 && self.entities.active >= limit {
                    self.entities.limited += 1;
                    return false;
                }
            }
        }
        self.series.add(cost);
        self.entities.add(u64::from(!is_known));
        true
    }

    /// A metric of an entity ended; `is_last`: it was the entity's only one.
    pub fn release(&mut self, cost: u64, is_last: bool) {
        self.series.remove(cost);
        self.entities.remove(u64::from(is_last));
    }

    /// A metric of an entity has another number of series than before.
    pub fn change(&mut self, before: u64, after: u64) {
        self.series.active = (self.series.active + after).saturating_sub(before);
        self.series.added += after.saturating_sub(before);
        self.series.removed += before.saturating_sub(after);
    }
}

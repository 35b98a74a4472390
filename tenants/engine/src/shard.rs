//! One hash range of one tenant: both processors, and the record of what they counted.

use std::sync::Arc;

use crate::error::FrameError;
use crate::frame::Frame;
use crate::group::{Group, NO_ENTITY, Shape};
use crate::plan::{Plan, SpanMetricsPlan};
use crate::record::{GroupWriter, ShardCounters};
use crate::service_graph::ServiceGraph;

/// Counter of spans.
pub const CALLS: usize = 0;
/// Counter of span bytes.
pub const SIZE: usize = 1;
/// Histogram of span durations.
pub const LATENCY: usize = 0;

/// The groups of a record, in this order: span metrics, service graphs.
pub const GROUPS: usize = 2;

/// Entities idle for this long leave the shard; their series live on in the registry.
const IDLE_NS: u64 = 300_000_000_000;
/// How often idle entities are looked for.
const SWEEP_NS: u64 = 60_000_000_000;

/// The state of a shard.
#[derive(Debug)]
pub struct Shard {
    plan: Arc<Plan>,
    span_metrics: Option<Group>,
    service_graph: Option<ServiceGraph>,
    counters: ShardCounters,
    swept_at_ns: u64,
}

/// How big a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardStats {
    /// Label sets of both processors.
    pub entities: usize,
    /// Half edges that wait.
    pub open_edges: usize,
    /// Bytes held.
    pub state_bytes: usize,
}

/// The shape of span-metrics entities.
pub fn span_metrics_shape(plan: &SpanMetricsPlan) -> Shape {
    Shape {
        counters: 2,
        histograms: vec![Arc::new(plan.bounds.clone())],
    }
}

fn span_metrics_group(plan: &Plan) -> Option<Group> {
    plan.span_metrics
        .as_ref()
        .map(|plan| Group::new(span_metrics_shape(plan)))
}

impl Shard {
    /// An empty shard.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self {
            span_metrics: span_metrics_group(&plan),
            service_graph: plan.service_graphs.as_ref().map(ServiceGraph::new),
            plan,
            counters: ShardCounters::default(),
            swept_at_ns: 0,
        }
    }

    /// Go on with other settings; returns the record of what was counted under the old ones.
    pub fn set_plan(&mut self, plan: Arc<Plan>, now_ns: u64) -> Vec<u8> {
        let record = self.flush(now_ns, false);
        self.span_metrics = span_metrics_group(&plan);
        self.service_graph = match (self.service_graph.take(), &plan.service_graphs) {
            (Some(mut processor), Some(settings)) => {
                processor.set_plan(settings);
                Some(processor)
            }
            (None, Some(settings)) => Some(ServiceGraph::new(settings)),
            (_, None) => None,
        };
        self.plan = plan;
        record
    }

    /// Count one frame, or nothing at all if it is damaged.
    pub fn apply(&mut self, frame: &[u8], now_ns: u64) -> Result<(), FrameError> {
        let frame = Frame::read(frame)?;
        if let Some(group) = &mut self.span_metrics {
            let entities: Vec<u32> = frame.sets().map(|set| group.entity(set, now_ns)).collect();
            for row in frame.spans() {
                let entity = entities.get(row.set as usize).copied().unwrap_or(NO_ENTITY);
                if let Some(mut update) = group.update(entity) {
                    update.add(CALLS, 1.0);
                    update.add(SIZE, f64::from(row.size));
                    update.observe(LATENCY, row.duration_ns, row.trace, row.is_error);
                }
            }
        }
        if let (Some(processor), Some(plan)) = (&mut self.service_graph, &self.plan.service_graphs) {
            processor.apply(&frame, plan, now_ns, &mut self.counters);
        }
        Ok(())
    }

    /// Expire half edges, then return everything counted since the last flush; empty if that is nothing.
    ///
    /// With `close_edges` every half edge expires, however young: the shard is being drained for good.
    pub fn flush(&mut self, now_ns: u64, close_edges: bool) -> Vec<u8> {
        if let (Some(processor), Some(plan)) = (&mut self.service_graph, &self.plan.service_graphs) {
            let until_ns = if close_edges {
                Some(u64::MAX)
            } else {
                now_ns.checked_sub(plan.wait_ns)
            };
            if let Some(until_ns) = until_ns {
                processor.expire(until_ns, plan, now_ns, &mut self.counters);
            }
        }
        // Before anything is written: what leaves now is not in this record, which may have to be read again.
        self.sweep(now_ns);
        let graph = self.service_graph.as_mut().map(|processor| &mut processor.group);
        let groups = [self.span_metrics.as_mut(), graph];
        let is_quiet = groups.iter().flatten().all(|group| group.is_quiet());
        let counters = std::mem::take(&mut self.counters);
        if is_quiet && counters.is_zero() {
            return Vec::new();
        }
        let mut out = GroupWriter::new(&counters, GROUPS);
        for group in groups {
            match group {
                Some(group) => group.flush(&mut out),
                None => out.absent(),
            }
        }
        out.finish()
    }

    /// Forget what was idle for long and has nothing to flush.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_at_ns) < SWEEP_NS {
            return;
        }
        self.swept_at_ns = now_ns;
        let wait_ns = self.plan.service_graphs.as_ref().map_or(0, |plan| plan.wait_ns);
        let before_ns = now_ns.saturating_sub(IDLE_NS.max(2 * wait_ns));
        if let Some(group) = &mut self.span_metrics {
            group.retire(before_ns);
        }
        if let Some(processor) = &mut self.service_graph {
            processor.retire(before_ns);
        }
    }

    /// The record that defines every entity and counts nothing: for a collector that has lost what it knew.
    pub fn redefine(&mut self) -> Vec<u8> {
        let graph = self.service_graph.as_mut().map(|processor| &mut processor.group);
        let mut out = GroupWriter::new(&ShardCounters::default(), GROUPS);
        for group in [self.span_metrics.as_mut(), graph] {
            match group {
                Some(group) => group.redefine(&mut out),
                None => out.absent(),
            }
        }
        out.finish()
    }

    /// How big the shard is.
    pub fn stats(&self) -> ShardStats {
        let (spans, graph) = (self.span_metrics.as_ref(), self.service_graph.as_ref());
        ShardStats {
            entities: spans.map_or(0, Group::len) + graph.map_or(0, |graph| graph.group.len()),
            open_edges: graph.map_or(0, ServiceGraph::open_edges),
            state_bytes: spans.map_or(0, Group::state_bytes) + graph.map_or(0, ServiceGraph::state_bytes),
        }
    }
}

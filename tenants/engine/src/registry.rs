//! The cumulative series of one tenant, merged from the records of all its shards (processors §4).

use std::sync::Arc;

use crate::error::FrameError;
use crate::group::Shape;
use crate::plan::Plan;
use crate::record::{RecordReader, ShardCounters};
use crate::remote_write::{BatchWriter, ExternalLabels, WriteBatch};
use crate::series_group::{Family, FamilyKind, Moment, SeriesBudget, SeriesGroup};
use crate::service_graph::{CLIENT_SECONDS, FAILED, MESSAGING_SECONDS, SERVER_SECONDS, TOTAL};
use crate::shard::{CALLS, GROUPS, LATENCY, SIZE};
use crate::{service_graph, shard};

/// The state of a tenant's registry.
#[derive(Debug)]
pub struct Registry {
    plan: Arc<Plan>,
    groups: [SeriesGroup; GROUPS],
    budget: SeriesBudget,
    counters: ShardCounters,
    collected_at_ms: i64,
}

/// How big a registry is, and what happened in it.
#[derive(Debug, Clone, Copy)]
pub struct RegistryStats {
    /// The series limit and what it has come to.
    pub budget: SeriesBudget,
    /// Label sets with series.
    pub entities: usize,
    /// What the shards counted besides series.
    pub counters: ShardCounters,
    /// Bytes held.
    pub state_bytes: usize,
}

impl Registry {
    /// An empty registry; no sample will be dated at or before `started_at_ms`.
    pub fn new(plan: Arc<Plan>, started_at_ms: i64) -> Self {
        let groups = layouts(&plan, None).map(|(families, shape)| SeriesGroup::new(families, shape));
        Self {
            budget: SeriesBudget {
                limit: plan.max_active_series,
                ..SeriesBudget::default()
            },
            groups,
            plan,
            counters: ShardCounters::default(),
            collected_at_ms: started_at_ms,
        }
    }

    /// Go on with other settings. Series that are no longer produced end at the next collection.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        let layouts = layouts(&plan, Some(&self.plan));
        for (group, (families, shape)) in self.groups.iter_mut().zip(layouts) {
            group.set_families(families, shape);
        }
        self.budget.limit = plan.max_active_series;
        self.plan = plan;
    }

    /// Add one record of the shard `source`.
    pub fn merge(&mut self, source: u64, record: &[u8], now_ns: u64) -> Result<(), FrameError> {
        let now_ms = (now_ns / 1_000_000) as i64;
        let mut reader = RecordReader::new(record)?;
        if reader.groups != GROUPS {
            return Err(FrameError {
                what: "record",
                fault: "another number of processors",
            });
        }
        // Twice over the record, so that one that cannot be read adds nothing at all.
        let mut ahead = reader.clone();
        for group in &self.groups {
            group.check(source, &mut ahead)?;
        }
        if !ahead.is_at_end() {
            return Err(FrameError {
                what: "record",
                fault: "counts fall short of its length",
            });
        }
        for group in &mut self.groups {
            group.merge(source, &mut reader, now_ms, &mut self.budget)?;
        }
        self.counters.add(&reader.counters);
        Ok(())
    }

    /// Drop the numbering of a shard that is gone.
    pub fn forget_source(&mut self, source: u64) {
        for group in &mut self.groups {
            group.forget_source(source);
        }
    }

    /// Encode all series with samples at `now_ms`, which must exceed every earlier one.
    pub fn collect(&mut self, now_ms: i64, external: &ExternalLabels, max_samples: usize) -> Vec<WriteBatch> {
        let plan = Arc::clone(&self.plan);
        let moment = self.moment(now_ms, &plan, external);
        let mut out = BatchWriter::new(max_samples);
        for group in &mut self.groups {
            group.collect(&mut out, &moment, &mut self.budget);
        }
        self.collected_at_ms = now_ms;
        out.finish()
    }

    /// Encode a staleness marker for every series that was ever sent, and forget them all.
    pub fn end_all(&mut self, now_ms: i64, external: &ExternalLabels, max_samples: usize) -> Vec<WriteBatch> {
        let plan = Arc::clone(&self.plan);
        let moment = self.moment(now_ms, &plan, external);
        let mut out = BatchWriter::new(max_samples);
        for group in &mut self.groups {
            group.end_all(&mut out, &moment, &mut self.budget);
        }
        self.collected_at_ms = now_ms;
        out.finish()
    }

    fn moment<'a>(&self, now_ms: i64, plan: &'a Plan, external: &'a ExternalLabels) -> Moment<'a> {
        Moment {
            now_ms,
            // After everything that was sent before, and before the first value.
            zero_ms: self.collected_at_ms + 1,
            stale_before_ms: now_ms.saturating_sub(plan.stale_ms),
            trace_id_label: &plan.trace_id_label,
            external,
        }
    }

    /// How big the registry is, and what happened in it.
    pub fn stats(&self) -> RegistryStats {
        RegistryStats {
            budget: self.budget,
            entities: self.groups.iter().map(SeriesGroup::len).sum(),
            counters: self.counters,
            state_bytes: self.groups.iter().map(SeriesGroup::state_bytes).sum(),
        }
    }
}

/// The families and shapes of both groups. A processor that is off keeps the buckets it had, all families off.
fn layouts(plan: &Plan, before: Option<&Plan>) -> [(Vec<Family>, Shape); GROUPS] {
    let family = |name, kind, is_enabled| Family {
        name,
        kind,
        is_enabled,
    };
    let counter = FamilyKind::Counter;
    let histogram = FamilyKind::Histogram;
    let empty = |counters, histograms| Shape {
        counters,
        histograms: vec![Arc::default(); histograms],
    };
    let spans = plan.span_metrics.as_ref();
    let spans_before = before.and_then(|plan| plan.span_metrics.as_ref());
    let span_families = vec![
        family(
            "traces_spanmetrics_calls_total",
            counter(CALLS),
            spans.is_some_and(|plan| plan.count),
        ),
        family(
            "traces_spanmetrics_latency",
            histogram(LATENCY),
            spans.is_some_and(|plan| plan.latency),
        ),
        family(
            "traces_spanmetrics_size_total",
            counter(SIZE),
            spans.is_some_and(|plan| plan.size),
        ),
    ];
    let graph = plan.service_graphs.as_ref();
    let graph_before = before.and_then(|plan| plan.service_graphs.as_ref());
    let request = graph.is_some_and(|plan| plan.request);
    let latency = graph.is_some_and(|plan| plan.latency);
    let messaging = graph.is_some_and(|plan| plan.latency && plan.messaging);
    let graph_families = vec![
        family("traces_service_graph_request_total", counter(TOTAL), request),
        family(
            "traces_service_graph_request_failed_total",
            counter(FAILED),
            request,
        ),
        family(
            "traces_service_graph_request_server_seconds",
            histogram(SERVER_SECONDS),
            latency,
        ),
        family(
            "traces_service_graph_request_client_seconds",
            histogram(CLIENT_SECONDS),
            latency,
        ),
        family(
            "traces_service_graph_request_messaging_system_seconds",
            histogram(MESSAGING_SECONDS),
            messaging,
        ),
    ];
    let span_shape = spans.or(spans_before).map(shard::span_metrics_shape);
    let graph_shape = graph.or(graph_before).map(service_graph::shape);
    [
        (span_families, span_shape.unwrap_or_else(|| empty(2, 1))),
        (graph_families, graph_shape.unwrap_or_else(|| empty(2, 3))),
    ]
}

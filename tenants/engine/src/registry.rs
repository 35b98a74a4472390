//! The cumulative series of one tenant, merged from the records of all its shards (processors §4).

mod checkpoint;
mod summary;

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;

use crate::budget::Budget;
use crate::drain_counters::DrainCounters;
use crate::error::FrameError;
use crate::family::{CounterExemplar, Family, FamilyKind};
use crate::group::{HistogramShape, Shape};
use crate::label_cardinality::LabelStats;
use crate::ledger::Ledger;
use crate::native_histogram::NativeParameters;
use crate::plan::Plan;
use crate::record::{RecordReader, ShardCounters};
use crate::remote_write::{BatchWriter, Encoded, ExternalLabels, OutputSpec, Protocol, WriteBatch};
use crate::rewriter::Rewriter;
use crate::series_group::{MergeContext, SeriesGroup};
use crate::series_write::Moment;
use crate::service_graph::{
    self, CLIENT_SECONDS, CONNECTED, FAILED, MESSAGING_SECONDS, SERVER_SECONDS, TOTAL,
};
use crate::shard::{self, CALLS, GROUPS, LATENCY, SIZE, TOLD};
use crate::sketch::{Sketch, Window};

pub use summary::{Cardinality, HistogramTotal, Summary, SummaryRow};

/// For this long after a change of settings, series that are no longer produced are looked for: shards and gateways
/// hear of the change a little later, and what they counted before arrives later still.
const TRANSITION_MS: i64 = 60_000;
/// The groups of info metrics: their label sets are not rewritten (processors §0.5).
const FIRST_INFO_GROUP: usize = 2;
/// The group whose updates are spans.
pub const SPAN_METRICS_GROUP: usize = 0;
/// The group of edges.
pub const SERVICE_GRAPHS_GROUP: usize = 1;

/// The state of a tenant's registry.
#[derive(Debug)]
pub struct Registry {
    plan: Arc<Plan>,
    groups: [SeriesGroup; GROUPS],
    budget: Budget,
    rewriter: Rewriter,
    entity_demand: Sketch,
    counters: ShardCounters,
    ledger: Ledger,
    native_resets: u64,
    /// Key of the hashes that sketches are fed with, so that nobody can choose label sets that collide.
    seed: u64,
    collected_at_ms: i64,
    /// The last time that is known.
    seen_at_ms: i64,
    /// The settings changed, but it is not known when: the next record or collection tells the time.
    has_new_plan: bool,
    transition_until_ms: i64,
}

/// How big a registry is, and what happened in it.
#[derive(Debug, Clone, Copy)]
pub struct RegistryStats {
    /// The limit and what it has come to.
    pub budget: Budget,
    /// Label sets with series.
    pub entities: usize,
    /// Series asked for, before the limit.
    pub series_demand: u64,
    /// Label sets asked for, before the limit; overflow is one of them.
    pub entity_demand: u64,
    /// Label sets after learned span names took the place of others.
    pub sanitized_demand: u64,
    /// Spans whose name is that of a pattern.
    pub spans_sanitized: u64,
    /// What the shards counted besides series.
    pub counters: ShardCounters,
    /// Native histograms that were reset to regain their resolution.
    pub native_resets: u64,
    /// Bytes held.
    pub state_bytes: usize,
}

impl Registry {
    /// An empty registry; no sample will be dated at or before `started_at_ms`.
    pub fn new(plan: Arc<Plan>, started_at_ms: i64) -> Self {
        Self::seeded(
            plan,
            started_at_ms,
            DefaultHashBuilder::default().hash_one(started_at_ms),
        )
    }

    /// [`Self::new`] with a seed of one's own: the same calls then come to the same, estimates included. Nobody who
    /// chooses label values may know it.
    pub fn seeded(plan: Arc<Plan>, started_at_ms: i64, seed: u64) -> Self {
        let window = Window::of(plan.stale_ms);
        let groups = layouts(&plan, None)
            .map(|(families, shape)| SeriesGroup::new(families, shape, window, started_at_ms));
        Self {
            budget: Budget::new(plan.limits),
            rewriter: Rewriter::new(&plan, seed, started_at_ms),
            entity_demand: Sketch::new(window, started_at_ms),
            groups,
            plan,
            counters: ShardCounters::default(),
            ledger: Ledger::default(),
            native_resets: 0,
            seed,
            collected_at_ms: started_at_ms,
            seen_at_ms: started_at_ms,
            has_new_plan: false,
            transition_until_ms: i64::MIN,
        }
    }

    /// Go on with other settings. Series that are no longer produced end at the next collection.
    pub fn set_plan(&mut self, plan: Arc<Plan>) {
        let layouts = layouts(&plan, Some(&self.plan));
        for (group, (families, shape)) in self.groups.iter_mut().zip(layouts) {
            group.set_families(families, shape, self.collected_at_ms, &mut self.budget);
        }
        self.budget.limits = plan.limits;
        self.rewriter.set_plan(&plan);
        self.has_new_plan = true;
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
        self.seen_at_ms = self.seen_at_ms.max(now_ms);
        self.rewriter.tick(now_ms);
        let native = NativeParameters {
            schema: self.plan.histograms.finder.schema(),
            max_buckets: self.plan.histograms.max_buckets,
            min_reset_ms: self.plan.histograms.min_reset_ms,
        };
        for (index, group) in self.groups.iter_mut().enumerate() {
            let mut context = MergeContext {
                now_ms,
                budget: &mut self.budget,
                rewriter: (index < FIRST_INFO_GROUP).then_some(&mut self.rewriter),
                entity_demand: &mut self.entity_demand,
                native,
                native_resets: &mut self.native_resets,
                seed: self.seed,
                folded: (index == SPAN_METRICS_GROUP).then_some(&mut self.ledger),
            };
            group.merge(source, &mut reader, &mut context)?;
        }
        self.counters.add(&reader.counters);
        for (service, row) in reader.ledger() {
            self.ledger.add_row_bounded(service, &row);
        }
        Ok(())
    }

    /// Drop the numbering of a shard that is gone.
    pub fn forget_source(&mut self, source: u64) {
        for group in &mut self.groups {
            group.forget_source(source);
        }
    }

    /// Encode all series with samples at `now_ms`, which must exceed every earlier one, for one endpoint.
    pub fn collect(
        &mut self,
        now_ms: i64,
        external: &ExternalLabels,
        max_samples: usize,
        output: OutputSpec,
    ) -> Vec<WriteBatch> {
        let encoded = self.collect_each(now_ms, external, max_samples, &[output]);
        encoded.into_iter().flat_map(|encoded| encoded.batches).collect()
    }

    /// [`Self::collect`] for several endpoints at once, as each asks for.
    pub fn collect_each(
        &mut self,
        now_ms: i64,
        external: &ExternalLabels,
        max_samples: usize,
        outputs: &[OutputSpec],
    ) -> Vec<Encoded> {
        if std::mem::take(&mut self.has_new_plan) {
            self.transition_until_ms = now_ms.saturating_add(TRANSITION_MS);
        }
        let is_in_transition = now_ms < self.transition_until_ms;
        let plan = Arc::clone(&self.plan);
        let mut out = BatchWriter::with_outputs(max_samples, outputs);
        for (index, group) in self.groups.iter_mut().enumerate() {
            let can_produce = |set: &[u8]| can_produce(&plan, index, set);
            let moment = Moment {
                can_produce: is_in_transition.then_some(&can_produce),
                is_weighted: is_weighted(&plan, index),
                ..moment(now_ms, self.collected_at_ms, &plan, external)
            };
            group.collect(&mut out, &moment, &mut self.budget);
        }
        self.collected_at_ms = now_ms;
        self.seen_at_ms = self.seen_at_ms.max(now_ms);
        out.finish_each()
    }

    /// All that [`Self::collect_each`] does to the registry, and nothing encoded: a collection that is done again to
    /// come to the same state.
    pub fn collect_silently(&mut self, now_ms: i64) {
        self.collect_each(now_ms, &ExternalLabels::default(), 1, &[]);
    }

    /// Encode a staleness marker for every series that was ever sent, and forget them all.
    pub fn end_all(
        &mut self,
        now_ms: i64,
        external: &ExternalLabels,
        max_samples: usize,
        protocol: Protocol,
    ) -> Vec<WriteBatch> {
        let plan = Arc::clone(&self.plan);
        let moment = moment(now_ms, self.collected_at_ms, &plan, external);
        let mut out = BatchWriter::new(max_samples, protocol);
        for group in &mut self.groups {
            group.end_all(&mut out, &moment, &mut self.budget);
        }
        self.collected_at_ms = now_ms;
        self.seen_at_ms = self.seen_at_ms.max(now_ms);
        out.finish()
    }

    /// End what is stale and write nothing: what a collection does while it is disabled (processors §4.1).
    pub fn sweep(&mut self, now_ms: i64) {
        let plan = Arc::clone(&self.plan);
        let external = ExternalLabels::default();
        let moment = moment(now_ms, self.collected_at_ms, &plan, &external);
        for group in &mut self.groups {
            group.sweep(&moment, &mut self.budget);
        }
        self.collected_at_ms = now_ms;
        self.seen_at_ms = self.seen_at_ms.max(now_ms);
    }

    /// How big the registry is, and what happened in it, as of the last record or collection.
    pub fn stats(&mut self) -> RegistryStats {
        let now_ms = self.seen_at_ms;
        RegistryStats {
            budget: self.budget,
            entities: self.groups.iter().map(SeriesGroup::len).sum(),
            series_demand: self
                .groups
                .iter_mut()
                .map(|group| group.series_demand(now_ms))
                .sum(),
            entity_demand: self.entity_demand.estimate(now_ms),
            sanitized_demand: self.rewriter.demand(),
            spans_sanitized: self.rewriter.spans_sanitized(),
            counters: self.counters,
            native_resets: self.native_resets,
            state_bytes: self.groups.iter().map(SeriesGroup::state_bytes).sum::<usize>()
                + self.entity_demand.state_bytes()
                + self.ledger.state_bytes()
                + self.rewriter.state_bytes(),
        }
    }

    /// What became of the spans, by service.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the span-name model has seen; `None`: it never was on.
    pub fn drain_counters(&self) -> Option<&DrainCounters> {
        self.rewriter.drain_counters()
    }

    /// Of every label: values that were replaced, and how many there are.
    pub fn label_stats(&self) -> impl Iterator<Item = LabelStats<'_>> {
        self.rewriter.labels().label_stats()
    }
}

fn moment<'a>(now_ms: i64, before_ms: i64, plan: &'a Plan, external: &'a ExternalLabels) -> Moment<'a> {
    Moment {
        now_ms,
        before_ms,
        stale_before_ms: now_ms.saturating_sub(plan.stale_ms),
        trace_id_label: &plan.trace_id_label,
        external,
        is_weighted: false,
        can_produce: None,
    }
}

fn can_produce(plan: &Plan, group: usize, set: &[u8]) -> bool {
    // A processor that is off ends all its metrics anyway.
    match group {
        0 => plan
            .span_metrics
            .as_ref()
            .is_none_or(|plan| plan.can_produce(set)),
        1 => plan
            .service_graphs
            .as_ref()
            .is_none_or(|plan| plan.can_produce(set)),
        2 => plan.target_info().is_none_or(|plan| plan.can_produce(set)),
        _ => plan.host_info.as_ref().is_none_or(|plan| plan.can_produce(set)),
    }
}

fn is_weighted(plan: &Plan, group: usize) -> bool {
    match group {
        0 => plan
            .span_metrics
            .as_ref()
            .is_some_and(|plan| plan.multiplier.is_active()),
        1 => plan
            .service_graphs
            .as_ref()
            .is_some_and(|plan| plan.multiplier.is_active()),
        _ => false,
    }
}

/// The families and shapes of all groups. A processor that is off keeps the buckets it had, all families off.
fn layouts(plan: &Plan, before: Option<&Plan>) -> [(Vec<Family>, Shape); GROUPS] {
    let empty = |counters, histograms| Shape {
        counters,
        histograms: vec![HistogramShape::default(); histograms],
    };
    let span_shape = |plan: &Plan| {
        let processor = plan.span_metrics.as_ref()?;
        Some(shard::span_metrics_shape(processor, &plan.histograms))
    };
    let graph_shape = |plan: &Plan| {
        let processor = plan.service_graphs.as_ref()?;
        Some(service_graph::shape(processor, &plan.histograms))
    };
    let spans = span_shape(plan).or_else(|| span_shape(before?));
    let graph = graph_shape(plan).or_else(|| graph_shape(before?));
    [
        (span_metrics_families(plan), spans.unwrap_or_else(|| empty(2, 1))),
        (
            service_graph_families(plan),
            graph.unwrap_or_else(|| empty(service_graph::COUNTERS, 3)),
        ),
        (
            vec![
                info_family("traces_target_info", plan.target_info().is_some())
                    .described("Attributes of a resource; always 1.", ""),
            ],
            shard::info_shape(),
        ),
        (vec![host_info_family(plan, before)], shard::info_shape()),
    ]
}

fn span_metrics_families(plan: &Plan) -> Vec<Family> {
    let processor = plan.span_metrics.as_ref();
    vec![
        Family::new(
            "traces_spanmetrics_calls_total",
            FamilyKind::Counter(CALLS),
            processor.is_some_and(|plan| plan.count),
        )
        .with_exemplar(CounterExemplar::Any)
        .described("Spans.", ""),
        Family::new(
            "traces_spanmetrics_latency",
            FamilyKind::Histogram(LATENCY),
            processor.is_some_and(|plan| plan.latency),
        )
        .described("Duration of spans.", "seconds"),
        Family::new(
            "traces_spanmetrics_size_total",
            FamilyKind::Counter(SIZE),
            processor.is_some_and(|plan| plan.size),
        )
        .described("Size of spans as they were received.", "bytes"),
    ]
}

fn service_graph_families(plan: &Plan) -> Vec<Family> {
    let processor = plan.service_graphs.as_ref();
    let request = processor.is_some_and(|plan| plan.request);
    let latency = processor.is_some_and(|plan| plan.latency);
    let messaging = processor.is_some_and(|plan| plan.latency && plan.messaging);
    let counter = FamilyKind::Counter;
    let histogram = FamilyKind::Histogram;
    vec![
        Family::new("traces_service_graph_request_total", counter(TOTAL), request)
            .with_exemplar(CounterExemplar::Any)
            .described("Requests between two nodes.", ""),
        Family::new(
            "traces_service_graph_request_failed_total",
            counter(FAILED),
            request,
        )
        .with_exemplar(CounterExemplar::Error)
        .described("Failed requests between two nodes.", ""),
        Family::new(
            "traces_service_graph_request_server_seconds",
            histogram(SERVER_SECONDS),
            latency,
        )
        .described(
            "Time for a request between two nodes, as the server saw it.",
            "seconds",
        ),
        Family::new(
            "traces_service_graph_request_client_seconds",
            histogram(CLIENT_SECONDS),
            latency,
        )
        .described(
            "Time for a request between two nodes, as the client saw it.",
            "seconds",
        ),
        Family::new(
            "traces_service_graph_request_messaging_system_seconds",
            histogram(MESSAGING_SECONDS),
            messaging,
        )
        .described(
            "Time between the publishing of a message and its receipt.",
            "seconds",
        ),
        Family::new(
            "traces_service_graph_connection_info",
            FamilyKind::Gauge(CONNECTED),
            processor.is_some_and(|plan| plan.connection_info),
        )
        .described("Whether two nodes are connected; always 1.", ""),
    ]
}

/// While the processor is off the gauge keeps its name: that is the one whose series end.
fn host_info_family(plan: &Plan, before: Option<&Plan>) -> Family {
    let processor = plan.host_info.as_ref();
    let named = processor.or_else(|| before?.host_info.as_ref());
    let name = named.map_or("traces_host_info", |plan| plan.metric_name.as_str());
    info_family(name, processor.is_some()).described("A host that sends spans; always 1.", "")
}

fn info_family(name: &str, is_enabled: bool) -> Family {
    Family::new(name, FamilyKind::Gauge(TOLD), is_enabled)
}

//! The way of a request through the engine, and what must add up on it.

use std::sync::Arc;

use millrace_engine::batch_rewrite::as_remote_write_1;
use millrace_engine::fingerprint::Fingerprint;
use millrace_engine::frame::Frame;
use millrace_engine::hash_range::HashRange;
use millrace_engine::mirror::Mirror;
use millrace_engine::plan::Plan;
use millrace_engine::record_envelope::durable_part;
use millrace_engine::registry::Registry;
use millrace_engine::remote_write::{Encoded, ExternalLabels, Protocol, WriteBatch};
use millrace_engine::shard::{DEDUPLICATION_WINDOW_NS, Origin, Shard};
use millrace_engine::split::{Split, SplitOptions, split};

use crate::{NOW_MS, NOW_NS, everything, written};

/// Longer than any plan's series live without news.
const LATER_MS: i64 = 1_000_000;
const MAX_SAMPLES: usize = 2000;

/// Shards and the collector of one tenant.
#[derive(Debug)]
pub struct Journey {
    plan: Arc<Plan>,
    shards: Vec<Shard>,
    registry: Registry,
    mirror: Mirror,
    /// How many shards there were before those of now.
    former_shards: u64,
    now_ms: i64,
}

/// Rows of all frames of one request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Of span metrics.
    pub spans: u64,
    /// Of service graphs.
    pub edges: u64,
    /// Of service graphs, for spans that a filter kept out.
    pub markers: u64,
}

/// Split a request; `None`: it is refused.
pub fn read_request(body: &[u8], plan: &Plan, shard_count: u32, strict_ids: bool) -> Option<Split> {
    let options = SplitOptions {
        shard_count,
        now_ns: NOW_NS,
        strict_ids,
        skip_generation: false,
    };
    let done = split(body, plan, options).ok()?;
    check_received(&done, plan);
    Some(done)
}

/// Every span that was received is a row, or refused, or counted as discarded.
fn check_received(split: &Split, plan: &Plan) -> Rows {
    let mut rows = Rows::default();
    for (_, frame) in &split.frames {
        let frame = Frame::read(frame).expect("a frame just made");
        rows.spans += frame.spans().count() as u64;
        rows.markers += frame.edges().filter(|row| row.is_marker).count() as u64;
        rows.edges += frame.edges().filter(|row| !row.is_marker).count() as u64;
    }
    let discarded = &split.discarded;
    let aside = split.invalid_trace_ids + split.invalid_span_ids + discarded.outside_slack;
    let taken = split
        .received_spans
        .checked_sub(aside)
        .expect("no span is set aside twice");
    if plan.span_metrics.is_some() {
        let counted = rows.spans + discarded.span_metrics_filtered;
        let refused = discarded.span_metrics_invalid_utf8 + discarded.span_metrics_too_large;
        assert!(
            counted <= taken && taken <= counted + refused,
            "span metrics: {taken} spans, {rows:?}, {discarded:?}"
        );
        // What target info cannot say is counted besides the span.
        assert!(plan.target_info().is_some() || taken == counted + refused);
    } else {
        assert_eq!(rows.spans, 0);
    }
    let in_graph = rows.edges + discarded.service_graphs_filtered + discarded.service_graphs_too_large;
    assert!(in_graph <= taken && rows.markers <= discarded.service_graphs_filtered);
    assert!(split.ignored_multipliers <= taken);
    rows
}

impl Journey {
    /// Nothing counted yet.
    pub fn new(plan: &Arc<Plan>, shard_count: u32) -> Self {
        let mut journey = Self {
            plan: Arc::clone(plan),
            shards: Vec::new(),
            registry: Registry::new(Arc::clone(plan), NOW_MS - 60_000),
            mirror: Mirror::new(DEDUPLICATION_WINDOW_NS),
            former_shards: 0,
            now_ms: NOW_MS,
        };
        journey.begin(shard_count);
        journey
    }

    fn now_ns(&self) -> u64 {
        self.now_ms.unsigned_abs() * 1_000_000
    }

    /// Claim every range of a count.
    fn begin(&mut self, shard_count: u32) {
        let now_ns = self.now_ns();
        self.former_shards += self.shards.len() as u64;
        let begun = (0..shard_count).map(|index| {
            let claimed = self.mirror.claim(index, shard_count, now_ns);
            let state = claimed.expect("a range that there is");
            let place = (index, shard_count);
            Shard::resume(Arc::clone(&self.plan), place, DEDUPLICATION_WINDOW_NS, &state)
                .expect("a state just made")
        });
        self.shards = begun.collect();
    }

    /// Let the shards count the frames.
    pub fn apply(&mut self, frames: &[(usize, Vec<u8>)]) {
        let now_ns = self.now_ns();
        for (shard, frame) in frames {
            self.shards[*shard]
                .apply(frame, now_ns, Origin::default())
                .expect("a frame just made");
        }
    }

    /// Let all shards count what is theirs of frames that were made for as many shards as `made_count` says, and was not
    /// counted before.
    pub fn apply_once(&mut self, body: &[u8], frames: &[(usize, Vec<u8>)], made_count: u32) {
        let now_ns = self.now_ns();
        for (index, frame) in frames {
            let origin = Origin {
                fingerprint: Some(Fingerprint::of(body)),
                made_for: HashRange::of(*index as u32, made_count),
            };
            for shard in &mut self.shards {
                shard.apply(frame, now_ns, origin).expect("a frame just made");
            }
        }
    }

    /// Cut the tenant anew; the collector starts again meanwhile.
    pub fn rescale(&mut self, shard_count: u32) {
        let now_ns = self.now_ns();
        let flush = |shard: &mut Shard| (shard.flush(now_ns, false), shard.stats().open_edges);
        let flushed: Vec<_> = self.shards.iter_mut().map(flush).collect();
        let open_edges: usize = flushed.iter().map(|(_, open_edges)| open_edges).sum();
        for (index, (record, _)) in flushed.iter().enumerate() {
            self.take(index, record);
        }
        assert_eq!(self.mirror.stats().open_edges, open_edges);
        let checkpoint = self.mirror.checkpoint();
        self.mirror = Mirror::restore(&checkpoint).expect("a checkpoint just made");
        assert_eq!(self.mirror.checkpoint(), checkpoint);
        self.begin(shard_count);
        let resumed: usize = self.shards.iter().map(|shard| shard.stats().open_edges).sum();
        assert_eq!(resumed, open_edges);
    }

    /// Let the collector take a record in, as it will be read from its journal.
    fn take(&mut self, index: usize, record: &[u8]) {
        if record.is_empty() {
            return;
        }
        let now_ns = self.now_ns();
        let durable = durable_part(record).expect("a record just made");
        let source = self.former_shards + index as u64;
        self.registry
            .merge(source, record, now_ns)
            .expect("a record just made");
        self.mirror
            .apply(index as u32, self.shards.len() as u32, durable, now_ns)
            .expect("a record just made");
    }

    /// Take other settings into use everywhere; what the first shard counted comes before that, the rest after.
    pub fn set_plan(&mut self, plan: &Arc<Plan>) {
        self.now_ms += 1_000;
        let now_ns = self.now_ns();
        if let Some(first) = self.shards.first_mut() {
            let record = first.flush(now_ns, false);
            self.take(0, &record);
        }
        self.registry.set_plan(Arc::clone(plan));
        for index in 0..self.shards.len() {
            let record = self.shards[index].set_plan(Arc::clone(plan), now_ns);
            self.take(index, &record);
        }
        self.plan = Arc::clone(plan);
    }

    /// Merge all that was counted, every edge closed, and write it.
    pub fn collect(&mut self) -> Vec<WriteBatch> {
        self.now_ms += 10_000;
        let now_ns = self.now_ns();
        for index in 0..self.shards.len() {
            let record = self.shards[index].flush(now_ns, true);
            assert_eq!(self.shards[index].stats().open_edges, 0);
            self.take(index, &record);
        }
        assert_eq!(self.mirror.stats().open_edges, 0);
        self.write()
    }

    fn write(&mut self) -> Vec<WriteBatch> {
        let outputs = Protocol::ALL.map(everything);
        let external = ExternalLabels::default();
        let encoded = self
            .registry
            .collect_each(self.now_ms, &external, MAX_SAMPLES, &outputs);
        let [one, two] = <[Encoded; 2]>::try_from(encoded).expect("two outputs");
        let said = two.batches.iter().map(|batch| as_remote_write_1(&batch.body));
        let said: Vec<WriteBatch> = said
            .collect::<Result<_, _>>()
            .expect("a batch just made can be said in 1.0");
        // As text, because the total of series that end is no number.
        let told = [&said, &one.batches].map(|batches| format!("{:?}", written::read(batches)));
        assert_eq!(told[0], told[1], "the same in both protocols");
        one.batches
    }

    /// Check that a collection, the first one, holds what the frames of `splits` told.
    pub fn check_counts(&mut self, batches: &[WriteBatch], splits: &[&Split]) {
        let written = written::read(batches);
        let rows = splits.iter().map(|split| check_received(split, &self.plan));
        let rows: Vec<Rows> = rows.collect();
        if let Some(processor) = &self.plan.span_metrics
            && !processor.multiplier.is_active()
        {
            let spans: u64 = rows.iter().map(|rows| rows.spans).sum();
            if processor.count {
                assert_eq!(written.total("traces_spanmetrics_calls_total"), spans as f64);
            }
            if processor.latency && self.plan.histograms.has_classic() {
                assert_eq!(written.total("traces_spanmetrics_latency_count"), spans as f64);
            }
        }
        if let Some(processor) = &self.plan.service_graphs
            && processor.request
            && !processor.multiplier.is_active()
            && !processor.counts_every_receiver
        {
            let counters = self.registry.stats().counters;
            let produced = written.total("traces_service_graph_request_total") as u64;
            let done = produced + counters.invalid_utf8_edges + counters.expired_edges.iter().sum::<u64>();
            assert!(
                done <= counters.edges && counters.edges <= done + counters.dropped_edges,
                "{done} edges done, {counters:?}"
            );
            let edges: u64 = rows.iter().map(|rows| rows.edges).sum();
            assert!(
                counters.edges + counters.dropped_spans <= edges,
                "{edges} rows, {counters:?}"
            );
        }
    }

    /// Let everything become stale, then end what is left: nothing may remain.
    pub fn end(mut self) {
        self.now_ms += LATER_MS;
        written::read(&self.write());
        self.now_ms += 1_000;
        written::read(&self.registry.end_all(
            self.now_ms,
            &ExternalLabels::default(),
            MAX_SAMPLES,
            Protocol::One,
        ));
        let stats = self.registry.stats();
        assert_eq!((stats.budget.series.active, stats.budget.entities.active), (0, 0));
        self.registry.label_stats().for_each(drop);
    }
}

//! One hash range of one tenant: all processors, the requests that they were applied to, and the record of what they
//! counted and of what a successor needs to go on.

use std::sync::Arc;

use crate::bounds::Bounds;
use crate::error::FrameError;
use crate::fingerprint::Fingerprint;
use crate::fingerprints::{Applied, Fingerprints};
use crate::frame::{Fate, Frame, SpanRow, used_entries};
use crate::group::{Group, HistogramShape, NO_ENTITY, Observation, Shape};
use crate::hash_range::{HashRange, HashRanges};
use crate::ledger::{ENTRIES, Entry, Ledger};
use crate::plan::{HistogramPlan, Plan};
use crate::record::{GroupWriter, ShardCounters};
use crate::service_graph::{self, ServiceGraph};
use crate::shard_state::{StateWriter, open_state};
use crate::span_metrics_plan::SpanMetricsPlan;

/// Counter of spans.
pub const CALLS: usize = 0;
/// Counter of span bytes.
pub const SIZE: usize = 1;
/// Histogram of span durations.
pub const LATENCY: usize = 0;
/// Counter of an info metric: how often it was told; its gauge is 1.
pub const TOLD: usize = 0;

/// The groups of a record, in this order: span metrics, service graphs, target info, host info. Within one record the
/// first claims room under the tenant's limits first.
pub const GROUPS: usize = 4;

/// Entities idle for this long leave the shard; their series live on in the registry.
const IDLE_NS: u64 = 300_000_000_000;
/// How often idle entities are looked for.
const SWEEP_NS: u64 = 60_000_000_000;

/// For this long a request that comes again is known, unless the caller says otherwise (design §3).
pub const DEDUPLICATION_WINDOW_NS: u64 = 600_000_000_000;

/// The state of a shard.
#[derive(Debug)]
pub struct Shard {
    plan: Arc<Plan>,
    span_metrics: Option<Group>,
    service_graph: Option<ServiceGraph>,
    target_info: Option<Group>,
    host_info: Option<Group>,
    counters: ShardCounters,
    ledger: Ledger,
    swept_at_ns: u64,
    range: HashRange,
    fingerprints: Fingerprints,
    /// Edges or markers that records told of went with their processor, and no record has said so.
    has_lost_graph: bool,
}

/// Which request a frame is a part of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// What the request is known by if it comes again; `None`: it is not remembered.
    pub fingerprint: Option<Fingerprint>,
    /// The range that the frame was split for; `None`: the shard's own.
    pub made_for: Option<HashRange>,
}

/// How big a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardStats {
    /// Label sets of all processors.
    pub entities: usize,
    /// Half edges that wait.
    pub open_edges: usize,
    /// Requests that are known.
    pub fingerprints: usize,
    /// Requests that had to be forgotten before their time.
    pub fingerprints_dropped: u64,
    /// Bytes held.
    pub state_bytes: usize,
}

/// The shape of a histogram with these classic bounds.
pub fn histogram_shape(bounds: &Arc<Bounds>, histograms: &HistogramPlan) -> HistogramShape {
    HistogramShape {
        bounds: if histograms.has_classic() {
            Arc::clone(bounds)
        } else {
            Arc::default()
        },
        native: histograms.has_native().then(|| Arc::clone(&histograms.finder)),
        has_classic: histograms.has_classic(),
    }
}

/// The shape of span-metrics entities.
pub fn span_metrics_shape(plan: &SpanMetricsPlan, histograms: &HistogramPlan) -> Shape {
    Shape {
        counters: 2,
        histograms: vec![histogram_shape(&Arc::new(plan.bounds.clone()), histograms)],
    }
}

/// The shape of info metrics.
pub fn info_shape() -> Shape {
    Shape {
        counters: 1,
        histograms: Vec::new(),
    }
}

fn span_metrics_group(plan: &Plan) -> Option<Group> {
    let processor = plan.span_metrics.as_ref()?;
    Some(Group::new(span_metrics_shape(processor, &plan.histograms)))
}

fn target_info_group(plan: &Plan) -> Option<Group> {
    plan.target_info().map(|_| Group::new(info_shape()))
}

fn host_info_group(plan: &Plan) -> Option<Group> {
    plan.host_info.as_ref().map(|_| Group::new(info_shape()))
}

impl Shard {
    /// An empty shard of all hashes.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self::of_range(plan, HashRange::ALL, DEDUPLICATION_WINDOW_NS)
    }

    /// Shard `index` of `count` as its former owner left it; no bytes: there was none. Requests are known for
    /// `window_ns`.
    ///
    /// `state` is of [`crate::mirror::Mirror::claim`]. What it tells of edges is dropped where the plan has no service graphs.
    pub fn resume(
        plan: Arc<Plan>,
        (index, count): (u32, u32),
        window_ns: u64,
        state: &[u8],
    ) -> Result<Self, FrameError> {
        let range = HashRange::of(index, count).ok_or(FrameError {
            what: "state",
            fault: "there is no such hash range",
        })?;
        let state = open_state(state, index, count)?;
        let mut shard = Self::of_range(plan, range, window_ns);
        for (fingerprint, at_s, part) in &state.fingerprints {
            shard.fingerprints.put_at(*fingerprint, part.clone(), *at_s);
        }
        shard.fingerprints.set_told();
        if let (Some(processor), Some(plan)) = (&mut shard.service_graph, &shard.plan.service_graphs) {
            processor.resume(&state, plan, (&mut shard.counters, &mut shard.ledger));
        } else {
            shard.has_lost_graph = !state.open.is_empty() || !state.markers.is_empty();
            for service in state
                .open
                .iter()
                .filter_map(|(_, edge)| state.service_waiting(edge))
            {
                shard.ledger.add(service, Entry::TurnedOff, 1);
            }
        }
        Ok(shard)
    }

    fn of_range(plan: Arc<Plan>, range: HashRange, window_ns: u64) -> Self {
        Self {
            span_metrics: span_metrics_group(&plan),
            service_graph: service_graph::of_plan(&plan),
            target_info: target_info_group(&plan),
            host_info: host_info_group(&plan),
            plan,
            counters: ShardCounters::default(),
            ledger: Ledger::default(),
            swept_at_ns: 0,
            range,
            fingerprints: Fingerprints::new(window_ns),
            has_lost_graph: false,
        }
    }

    /// Go on with other settings; returns the record of what was counted under the old ones.
    pub fn set_plan(&mut self, plan: Arc<Plan>, now_ns: u64) -> Vec<u8> {
        let record = self.flush(now_ns, false);
        self.span_metrics = span_metrics_group(&plan);
        self.target_info = target_info_group(&plan);
        self.host_info = host_info_group(&plan);
        self.service_graph = match (
            self.service_graph.take(),
            &self.plan.service_graphs,
            &plan.service_graphs,
        ) {
            (Some(mut processor), Some(before), Some(settings)) => {
                processor.set_plan(before, settings, &plan.histograms, now_ns);
                Some(processor)
            }
            (former, ..) => {
                if let Some(processor) = former {
                    self.has_lost_graph |= processor.is_told();
                    processor.give_up(&mut self.ledger);
                }
                service_graph::of_plan(&plan)
            }
        };
        self.plan = plan;
        record
    }

    /// Count what a frame tells and was not counted before, or nothing at all if it is damaged; returns whether there is
    /// something to flush: what was counted before is in the ledger.
    ///
    /// A request is applied once to each hash: where shards were cut anew a frame may have been made for another range, and
    /// a part of it may have been applied by others. Info metrics, which only say that something is there, are told again.
    pub fn apply(&mut self, frame: &[u8], now_ns: u64, origin: Origin) -> Result<bool, FrameError> {
        let made_for = origin.made_for.unwrap_or(self.range);
        let Some(concerned) = made_for.intersection(self.range) else {
            return Ok(false);
        };
        let known = origin.fingerprint.and_then(|known| self.fingerprints.find(known));
        let all: HashRanges = concerned.into();
        let (todo, applied) = match known {
            None => (all.clone(), all.clone()),
            Some(Applied::Whole) => (HashRanges::default(), all.clone()),
            Some(Applied::Part(part)) => (all.without(part), all.union(part)),
        };
        let frame = Frame::read(frame)?;
        let has_ledger = self.account(&frame, made_for, &todo, &all);
        if todo.is_empty() {
            return Ok(has_ledger);
        }
        let part = (!todo.is(made_for)).then_some(&todo);
        self.count_spans(&frame, part, now_ns);
        if let (Some(processor), Some(plan)) = (&mut self.service_graph, &self.plan.service_graphs) {
            let told = (&mut self.counters, &mut self.ledger);
            processor.apply(&frame, part, plan, now_ns, told);
        } else {
            service_graph::turn_away(&frame, part, &mut self.ledger);
        }
        tell(&mut self.target_info, frame.target_infos(), now_ns);
        tell(&mut self.host_info, frame.host_infos(), now_ns);
        if let Some(fingerprint) = origin.fingerprint {
            let part = (!applied.is(self.range)).then_some(applied);
            self.fingerprints.put(fingerprint, part, now_ns);
        }
        Ok(true)
    }

    /// Write down what becomes of a frame's spans: of those `todo` what the gateway decided, of the others among `all`
    /// that they came again. Returns whether there were any.
    fn account(
        &mut self,
        frame: &Frame<'_>,
        made_for: HashRange,
        todo: &HashRanges,
        all: &HashRanges,
    ) -> bool {
        // What the frame does not tell apart is of whoever has the first hash that the frame was made for.
        let has_rows = todo.contains(made_for.first());
        let mut has_any = false;
        for (service, row) in frame.ledger().filter(|_| has_rows) {
            self.ledger.add_row(service, &row);
            has_any = true;
        }
        let services: Vec<&[u8]> = frame.services().collect();
        let mut rows = vec![[0; ENTRIES]; services.len()];
        let is_inactive = self.span_metrics.is_none();
        let mut take = |fate: Fate, is_new: bool| {
            let Some(row) = rows.get_mut(fate.service as usize) else {
                return;
            };
            row[Entry::Received as usize] += 1;
            if !is_new {
                row[Entry::Duplicate as usize] += 1;
                return;
            }
            // A gateway that knew other settings may have taken span metrics to be on.
            let in_metrics = if is_inactive && fate.in_metrics == Entry::Generated {
                Entry::MetricsInactive
            } else {
                fate.in_metrics
            };
            row[in_metrics as usize] += 1;
            if fate.in_graph != fate.in_metrics {
                row[fate.in_graph as usize] += 1;
            }
        };
        if todo.is(made_for) {
            frame.fates().for_each(|fate| take(fate, true));
        } else {
            for (fate, hash) in frame.hashed_fates() {
                let is_new = todo.contains(hash);
                if is_new || all.contains(hash) {
                    take(fate, is_new);
                }
            }
        }
        for (service, row) in services.iter().zip(&rows) {
            if row[Entry::Received as usize] > 0 {
                self.ledger.add_row(service, row);
                has_any = true;
            }
        }
        has_any
    }

    /// Count the rows of span metrics; with `part` only those of its hashes.
    fn count_spans(&mut self, frame: &Frame<'_>, part: Option<&HashRanges>, now_ns: u64) {
        let (Some(group), Some(plan)) = (&mut self.span_metrics, &self.plan.span_metrics) else {
            return;
        };
        if !plan.count && !plan.latency && !plan.size {
            return;
        }
        let Some(part) = part else {
            let entities: Vec<u32> = frame.sets().map(|set| group.entity(set, now_ns)).collect();
            count_rows(group, plan, &entities, frame.spans());
            return;
        };
        let rows = || frame.spans().filter(|row| part.contains(row.trace_hash()));
        let is_used = used_entries(rows().map(|row| row.set), frame.sets().count());
        let entities = frame.sets().zip(is_used);
        let entities: Vec<u32> = entities
            .map(|(set, is_used)| {
                if is_used {
                    group.entity(set, now_ns)
                } else {
                    NO_ENTITY
                }
            })
            .collect();
        count_rows(group, plan, &entities, rows());
    }

    /// Let the time between these not count for how long requests are known.
    pub fn hold_fingerprints(&mut self, from_ns: u64, until_ns: u64) {
        self.fingerprints.hold(from_ns, until_ns);
    }

    /// Expire half edges and requests, then return everything counted since the last flush; empty if that is nothing.
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
                let told = (&mut self.counters, &mut self.ledger);
                processor.expire(until_ns, plan, now_ns, told);
            }
            processor.settle(&mut self.ledger);
        }
        // Before anything is written: what leaves now is not in this record, which may have to be read again.
        self.sweep(now_ns);
        let counters = std::mem::take(&mut self.counters);
        let ledger = std::mem::take(&mut self.ledger);
        let state = self.told(now_ns);
        let groups = self.groups_mut();
        let is_quiet = groups.iter().flatten().all(|group| group.is_quiet());
        if is_quiet && counters.is_zero() && ledger.is_empty() && state.is_empty() {
            return Vec::new();
        }
        let mut out = GroupWriter::new(&counters, &ledger, GROUPS);
        for group in groups {
            match group {
                Some(group) => group.flush(&mut out),
                None => out.absent(),
            }
        }
        out.finish_with(&state)
    }

    /// What a successor needs and no record has told.
    fn told(&mut self, now_ns: u64) -> Vec<u8> {
        let mut out = StateWriter::new(now_ns);
        if std::mem::take(&mut self.has_lost_graph) {
            out.forget_graph();
        }
        self.fingerprints.expire(now_ns);
        for (at_s, fingerprint, applied) in self.fingerprints.untold() {
            out.applied(at_s, fingerprint, applied);
        }
        self.fingerprints.set_told();
        if let (Some(processor), Some(plan)) = (&mut self.service_graph, &self.plan.service_graphs) {
            processor.tell(plan, &mut out);
        }
        out.finish()
    }

    fn groups_mut(&mut self) -> [Option<&mut Group>; GROUPS] {
        [
            self.span_metrics.as_mut(),
            self.service_graph.as_mut().map(|processor| &mut processor.group),
            self.target_info.as_mut(),
            self.host_info.as_mut(),
        ]
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        let graph = self.service_graph.as_ref().map(|processor| &processor.group);
        let groups = [
            self.span_metrics.as_ref(),
            graph,
            self.target_info.as_ref(),
            self.host_info.as_ref(),
        ];
        groups.into_iter().flatten()
    }

    /// Forget what was idle for long and has nothing to flush.
    fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_at_ns) < SWEEP_NS {
            return;
        }
        self.swept_at_ns = now_ns;
        let wait_ns = self.plan.service_graphs.as_ref().map_or(0, |plan| plan.wait_ns);
        let before_ns = now_ns.saturating_sub(IDLE_NS.max(wait_ns.saturating_mul(2)));
        let groups = [&mut self.span_metrics, &mut self.target_info, &mut self.host_info];
        for group in groups.into_iter().flatten() {
            group.retire(before_ns);
        }
        if let Some(processor) = &mut self.service_graph {
            processor.retire(before_ns);
        }
    }

    /// The record that defines every entity and counts nothing: for a collector that has lost what it knew.
    pub fn redefine(&mut self) -> Vec<u8> {
        let mut out = GroupWriter::new(&ShardCounters::default(), &Ledger::default(), GROUPS);
        for group in self.groups_mut() {
            match group {
                Some(group) => group.redefine(&mut out),
                None => out.absent(),
            }
        }
        out.finish()
    }

    /// How big the shard is.
    pub fn stats(&self) -> ShardStats {
        let graph = self.service_graph.as_ref();
        let in_graph = graph.map_or(0, |graph| graph.state_bytes() - graph.group.state_bytes());
        ShardStats {
            entities: self.groups().map(Group::len).sum(),
            open_edges: graph.map_or(0, ServiceGraph::open_edges),
            fingerprints: self.fingerprints.len(),
            fingerprints_dropped: self.fingerprints.dropped(),
            state_bytes: self.groups().map(Group::state_bytes).sum::<usize>()
                + in_graph
                + self.fingerprints.state_bytes()
                + self.ledger.state_bytes(),
        }
    }
}

#[inline]
fn count_rows(
    group: &mut Group,
    plan: &SpanMetricsPlan,
    entities: &[u32],
    rows: impl Iterator<Item = SpanRow>,
) {
    for row in rows {
        let entity = entities.get(row.set as usize).copied().unwrap_or(NO_ENTITY);
        let Some(mut update) = group.update(entity) else {
            continue;
        };
        if plan.count {
            update.add(CALLS, row.weight);
        }
        if plan.size {
            update.add(SIZE, f64::from(row.size));
        }
        if plan.latency {
            update.observe(
                LATENCY,
                &Observation {
                    duration_ns: row.duration_ns,
                    trace: row.trace,
                    is_error: row.is_error,
                    weight: row.weight,
                },
            );
        }
    }
}

fn tell<'a>(group: &mut Option<Group>, sets: impl Iterator<Item = &'a [u8]>, now_ns: u64) {
    if let Some(group) = group {
        for set in sets {
            let entity = group.entity(set, now_ns);
            if let Some(mut update) = group.update(entity) {
                update.add(TOLD, 1.0);
            }
        }
    }
}

//! The gateway's half of the engine: walk one export request and project it onto the shards of its tenant.

use crate::any_value::{AnyValue, Attribute};
use crate::edge_half::put_half;
use crate::error::WireFault;
use crate::filter::Filter;
use crate::frame::{EdgeKey, EdgeRow, Fate, FrameBuilder, SpanRow, trace_number};
use crate::half::HalfBuilder;
use crate::hash::{shard_of, trace_hash};
use crate::info_plan::Info;
use crate::intern::Dictionary;
use crate::labels::{Labels, MAX_LABEL_SET, truncate};
use crate::ledger::{Entry, MAX_NAME, MAX_SERVICES, OTHER_SERVICES};
use crate::multiplier::{MultiplierPlan, attribute_multiplier, tracestate_multiplier};
use crate::plan::Plan;
use crate::resource::{Resource, ResourceMultiplier, ServiceNumber, multiplier_keys};
use crate::resource_cache::ResourceCache;
use crate::service_graph_plan::ServiceGraphPlan;
use crate::span::{CLIENT, CONSUMER, PRODUCER, SERVER, SPAN_ID_LEN, Span, SpanCuts, TRACE_ID_LEN};
use crate::span_labels::{Sight, put_labels};
use crate::span_metrics_plan::SpanMetricsPlan;
use crate::watch::SERVICE_NAME;
use crate::wire::{Cursor, WireResult, bytes_tag};
use crate::workspace::Workspace;

const RESOURCE_SPANS: u32 = bytes_tag(1);
const RESOURCE: u32 = bytes_tag(1);
const SCOPE_SPANS: u32 = bytes_tag(2);
const SCOPE: u32 = bytes_tag(1);
const SCOPE_ATTRIBUTE: u32 = bytes_tag(3);
const SPAN: u32 = bytes_tag(2);

/// Position of span metrics in what is kept for each of the two processors.
const SPAN_METRICS: usize = 0;
/// Position of service graphs.
const SERVICE_GRAPHS: usize = 1;

/// What one request became.
#[derive(Debug, Default)]
pub struct Split {
    /// Shard index and frame of every shard that has something to do, ascending.
    pub frames: Vec<(usize, Vec<u8>)>,
    /// Spans in the request.
    pub received_spans: u64,
    /// Spans refused to the client.
    pub invalid_trace_ids: u64,
    /// Spans refused to the client.
    pub invalid_span_ids: u64,
    /// What was received and is not generated.
    pub discarded: Discarded,
    /// Spans whose sampling ratio cannot be used (Q11).
    pub ignored_multipliers: u64,
    /// Attributes that were cut.
    pub cuts: Cuts,
    /// Processors that were passed over at the caller's wish (processors §5.2).
    pub skipped_processors: u64,
}

/// Attributes whose key or string value was cut, by where they stand (tenancy §4.5).
#[derive(Debug, Default, Clone, Copy)]
pub struct Cuts {
    /// Of resources.
    pub resource: u64,
    /// Of scopes, which nothing else is read of.
    pub scope: u64,
    /// Of spans, their events and their links.
    pub spans: SpanCuts,
}

/// Spans, or resources of host info, that are not generated (processors §5.5).
#[derive(Debug, Default, Clone, Copy)]
pub struct Discarded {
    /// Spans that end too far from now.
    pub outside_slack: u64,
    /// Spans that the filter of span metrics keeps out.
    pub span_metrics_filtered: u64,
    /// Spans whose span-metrics labels, or whose target info, are not UTF-8.
    pub span_metrics_invalid_utf8: u64,
    /// Spans whose label set, or whose target info, is beyond the bounds.
    pub span_metrics_too_large: u64,
    /// Spans with an edge's kind that the filter of service graphs keeps out.
    pub service_graphs_filtered: u64,
    /// Spans with an edge's kind that say more than the bounds allow.
    pub service_graphs_too_large: u64,
    /// Resources whose host is not UTF-8.
    pub host_info_invalid_utf8: u64,
    /// Resources whose host is too long.
    pub host_info_too_large: u64,
}

/// How to read a request.
#[derive(Debug, Clone, Copy)]
pub struct SplitOptions {
    /// Into how many equal hash ranges the tenant is cut.
    pub shard_count: u32,
    /// Against what the ingestion slack is measured.
    pub now_ns: u64,
    /// Set spans aside whose ids are not OTLP's.
    pub strict_ids: bool,
    /// Count what is received and generate nothing.
    pub skip_generation: bool,
}

/// Walk `body` and build a frame for every shard it concerns.
pub fn split(body: &[u8], plan: &Plan, options: SplitOptions) -> WireResult<Split> {
    let workspace = plan.workspace.take(options.shard_count as usize);
    let mut splitter = Splitter {
        plan,
        options,
        multiplier_keys: multiplier_keys(plan),
        builders: workspace.builders,
        resources: workspace.resources,
        services: workspace.services,
        request: workspace.requests,
        service: 0,
        keeps_ledger: plan.active_processors() > 0,
        current: 0,
        resource: vec![None; plan.watch.len()],
        touched_resource: Vec::new(),
        attributes: vec![None; plan.watch.len()],
        touched: Vec::new(),
        multipliers: [ResourceMultiplier::default(); 2],
        half: HalfBuilder::default(),
        split: Split::default(),
    };
    let walked = splitter.walk(body);
    let Splitter {
        mut split,
        builders,
        resources,
        services,
        request,
        ..
    } = splitter;
    if walked.is_ok() {
        for (shard, builder) in builders.iter().enumerate() {
            if let Some(builder) = builder.as_ref().filter(|builder| !builder.is_empty()) {
                split.frames.push((shard, builder.finish(&services)));
            }
        }
    }
    plan.workspace.put(Workspace {
        resources,
        builders,
        services,
        requests: request,
    });
    walked?;
    if options.skip_generation {
        split.skipped_processors = plan.active_processors();
    }
    Ok(split)
}

struct Splitter<'a, 'p> {
    plan: &'p Plan,
    options: SplitOptions,
    multiplier_keys: [Option<usize>; 2],
    builders: Vec<Option<Box<FrameBuilder>>>,
    resources: ResourceCache,
    /// Names of the services that spans were received of.
    services: Dictionary,
    /// Number of the request among those of the workspace.
    request: u64,
    /// Number of the service of the resource being walked.
    service: u32,
    /// The ledger is of tenants that generate something.
    keeps_ledger: bool,
    /// Number of the resource being walked.
    current: u32,
    /// Watched attributes of the resource being walked; the first occurrence of a key wins.
    resource: Vec<Option<AnyValue<'a>>>,
    /// Which entries of `resource` are set: clearing these is cheaper than clearing all.
    touched_resource: Vec<usize>,
    /// Watched attributes of the span being walked.
    attributes: Vec<Option<AnyValue<'a>>>,
    /// As `touched_resource`, of `attributes`.
    touched: Vec<usize>,
    /// What the span being walked says of its sampling.
    multipliers: [ResourceMultiplier; 2],
    half: HalfBuilder,
    split: Split,
}

impl<'a> Splitter<'a, '_> {
    fn walk(&mut self, body: &'a [u8]) -> WireResult<()> {
        let mut cursor = Cursor::new(body, "resource_spans");
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                RESOURCE_SPANS => {
                    let bytes = cursor.bytes()?;
                    self.resource_spans(bytes, &cursor)?;
                }
                tag => cursor.unexpected(tag, &[1])?,
            }
        }
    }

    fn resource_spans(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        // The resource may stand after the spans it describes, so it is looked for first.
        let start = parent.nested(message, "resource_spans");
        let mut cursor = start.clone();
        let mut first: Option<&'a [u8]> = None;
        let mut more: Vec<&'a [u8]> = Vec::new();
        loop {
            match cursor.tag()? {
                0 => break,
                RESOURCE => {
                    let bytes = cursor.bytes()?;
                    match first {
                        None => first = Some(bytes),
                        Some(_) => more.push(bytes),
                    }
                }
                tag @ SCOPE_SPANS => cursor.skip(tag)?,
                tag => cursor.unexpected(tag, &[1, 2])?,
            }
        }
        self.enter_resource(first.unwrap_or_default(), &more, &start)?;
        self.host_info();
        let mut cursor = start;
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                SCOPE_SPANS => {
                    let bytes = cursor.bytes()?;
                    self.scope_spans(bytes, &cursor)?;
                }
                tag => cursor.skip(tag)?,
            }
        }
    }

    /// Make a resource the current one. `more` holds what follows where a sender divides the message: its parts are read
    /// as if they were one.
    fn enter_resource(&mut self, first: &'a [u8], more: &[&'a [u8]], parent: &Cursor<'a>) -> WireResult<()> {
        for number in self.touched_resource.drain(..) {
            if let Some(slot) = self.resource.get_mut(number) {
                *slot = None;
            }
        }
        self.read_part(first, parent)?;
        if !more.is_empty() {
            let mut joined = first.to_vec();
            for part in more {
                self.read_part(part, parent)?;
                joined.extend_from_slice(part);
            }
            let whole = Cursor::new(&joined, "resource_spans.resource");
            self.current = self.resources.number(&joined, &whole, self.plan)?;
        }
        if self.keeps_ledger {
            self.enter_service(more.is_empty());
        }
        Ok(())
    }

    /// Find the number of the resource's service; `is_whole`: it is known as one.
    #[inline]
    fn enter_service(&mut self, is_whole: bool) {
        let known = self.resources.get(self.current).map(|resource| resource.service);
        if let Some(known) = known.filter(|known| is_whole && known.request == self.request) {
            self.service = known.number;
            return;
        }
        let name = self.resource.get(SERVICE_NAME).copied().flatten();
        let name = name.map(AnyValue::text).unwrap_or_default();
        let name = truncate(truncate(&name, self.plan.max_value_len), MAX_NAME);
        let has_room = self.services.ends().len() < MAX_SERVICES;
        self.service = self
            .services
            .number(name, |_| has_room)
            .or_else(|| self.services.number(OTHER_SERVICES, |_| true))
            .unwrap_or_default();
        if is_whole && let Some(resource) = self.resources.get_mut(self.current) {
            resource.service = ServiceNumber {
                request: self.request,
                number: self.service,
            };
        }
    }

    fn read_part(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        self.current = self.resources.number(message, parent, self.plan)?;
        let Some(resource) = self.resources.get(self.current) else {
            return Ok(());
        };
        self.split.cuts.resource += resource.cuts;
        for (number, value) in resource.values(message) {
            if let Some(slot @ None) = self.resource.get_mut(number) {
                *slot = Some(value);
                self.touched_resource.push(number);
            }
        }
        Ok(())
    }

    /// Tell of the host, also where every span of the resource is set aside (processors §3).
    fn host_info(&mut self) {
        if self.options.skip_generation {
            return;
        }
        let (now_ns, every_ns) = (self.options.now_ns, self.plan.tell_every_ns);
        let Some(resource) = self.resources.get_mut(self.current) else {
            return;
        };
        match &resource.host_info {
            Info::Set(set) => {
                if resource.told_host_info.is_due(now_ns, every_ns) {
                    let shard = shard_of(resource.info_hash, self.options.shard_count);
                    builder(&mut self.builders, shard)
                        .host_infos
                        .number(set, |_| true);
                }
            }
            Info::Invalid => self.split.discarded.host_info_invalid_utf8 += 1,
            Info::TooLarge => self.split.discarded.host_info_too_large += 1,
            Info::Absent => {}
        }
    }

    fn scope_spans(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        let mut cursor = parent.nested(message, "resource_spans.scope_spans");
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                SPAN => {
                    let bytes = cursor.bytes()?;
                    self.span(bytes, &cursor)?;
                }
                SCOPE => {
                    let bytes = cursor.bytes()?;
                    if bytes.len() > self.plan.max_attribute_len {
                        self.split.cuts.scope += scope_cuts(bytes, &cursor, self.plan.max_attribute_len);
                    }
                }
                tag => cursor.unexpected(tag, &[2])?,
            }
        }
    }

    #[inline]
    fn span(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        for number in self.touched.drain(..) {
            if let Some(slot) = self.attributes.get_mut(number) {
                *slot = None;
            }
        }
        self.multipliers = Default::default();
        let (watch, attributes, touched) = (&self.plan.watch, &mut self.attributes, &mut self.touched);
        let (keys, multipliers) = (self.multiplier_keys, &mut self.multipliers);
        let has_keys = keys != [None, None];
        let (limit, cuts) = (self.plan.max_attribute_len, &mut self.split.cuts.spans);
        let span = Span::read(message, parent, limit, cuts, |attribute| {
            if let Some(number) = watch.find(attribute.key) {
                if let Some(slot @ None) = attributes.get_mut(number) {
                    *slot = Some(attribute.value);
                    touched.push(number);
                }
                if has_keys {
                    for (found, key) in multipliers.iter_mut().zip(keys) {
                        if key == Some(number) {
                            found.is_present = true;
                            found.weight = found.weight.or_else(|| attribute_multiplier(attribute.value));
                        }
                    }
                }
            }
        })?;
        self.split.received_spans += 1;
        if !self.options.strict_ids && !span.has_short_ids() {
            return Err(parent.fault_in(WireFault::IdTooLong, "resource_spans.scope_spans.spans"));
        }
        let refused = self.refused(&span);
        if !self.keeps_ledger {
            return Ok(());
        }
        let trace_hash = trace_hash(span.trace_id);
        let shard = shard_of(trace_hash, self.options.shard_count);
        let [in_metrics, in_graph] = match refused {
            Some(entry) => [entry; 2],
            None => self.project(&span, shard),
        };
        let fate = Fate {
            service: self.service,
            in_metrics,
            in_graph,
        };
        builder(&mut self.builders, shard).note(fate, trace_hash);
        Ok(())
    }

    /// Why a span goes no further, whatever the processors.
    #[inline]
    fn refused(&mut self, span: &Span<'_>) -> Option<Entry> {
        if self.options.strict_ids {
            if span.trace_id.len() != TRACE_ID_LEN || span.trace_id == [0; TRACE_ID_LEN] {
                self.split.invalid_trace_ids += 1;
                return Some(Entry::InvalidTraceId);
            }
            let has_span_id = span.span_id.len() == SPAN_ID_LEN && span.span_id != [0; SPAN_ID_LEN];
            if !has_span_id || !span.has_short_ids() {
                self.split.invalid_span_ids += 1;
                return Some(Entry::InvalidSpanId);
            }
        }
        if self.options.now_ns.abs_diff(span.end_ns) > self.plan.slack_ns {
            self.split.discarded.outside_slack += 1;
            return Some(Entry::OutsideSlack);
        }
        self.options.skip_generation.then_some(Entry::Skipped)
    }

    /// Hand a span to the processors; returns what becomes of it in span metrics and in service graphs.
    #[inline]
    fn project(&mut self, span: &Span<'a>, shard: usize) -> [Entry; 2] {
        let plan = self.plan;
        let mut is_ignored = false;
        let mut decision = None;
        let mut entries = [Entry::MetricsInactive, Entry::EdgeInactive];
        if let Some(processor) = &plan.span_metrics {
            let is_taken = self.is_taken(span, processor.filter.as_ref());
            decision = plan.shares_filter.then_some(is_taken);
            entries[SPAN_METRICS] = if is_taken {
                let (entry, is_unusable) = self.project_span_metrics(span, processor, shard);
                is_ignored |= is_unusable;
                entry
            } else {
                self.split.discarded.span_metrics_filtered += 1;
                Entry::MetricsFiltered
            };
        }
        if let Some(processor) = &plan.service_graphs {
            let (entry, is_unusable) = self.project_service_graph(span, processor, shard, decision);
            is_ignored |= is_unusable;
            entries[SERVICE_GRAPHS] = entry;
        }
        self.split.ignored_multipliers += u64::from(is_ignored);
        entries
    }

    #[inline]
    fn is_taken(&self, span: &Span<'_>, filter: Option<&Filter>) -> bool {
        filter.is_none_or(|filter| filter.accepts(span, &self.resource, &self.attributes))
    }

    /// What a span counts for, and whether it has a sampling ratio that cannot be used (processors §0.7).
    #[inline]
    fn weight(
        &self,
        span: &Span<'_>,
        plan: &MultiplierPlan,
        resource: &Resource,
        processor: usize,
    ) -> (f64, bool) {
        if !plan.is_active() {
            return (1.0, false);
        }
        if plan.tracestate && !span.trace_state.is_empty() {
            let weight = tracestate_multiplier(span.trace_state);
            if weight > 0.0 {
                return (weight, false);
            }
        }
        let own = self.multipliers.get(processor).copied().unwrap_or_default();
        let resource = resource.multipliers.get(processor).copied().unwrap_or_default();
        match own.weight.or(resource.weight) {
            Some(weight) => (weight, false),
            None => (1.0, own.is_present || resource.is_present),
        }
    }

    /// What becomes of the span, and whether it has a sampling ratio that cannot be used.
    #[inline]
    fn project_span_metrics(
        &mut self,
        span: &Span<'a>,
        processor: &SpanMetricsPlan,
        shard: usize,
    ) -> (Entry, bool) {
        let sight = Sight {
            span,
            resource: &self.resource,
            attributes: &self.attributes,
        };
        let Some(resource) = self.resources.get(self.current) else {
            return (Entry::MetricsTooLarge, false);
        };
        let (weight, is_ignored) = self.weight(span, &processor.multiplier, resource, SPAN_METRICS);
        let mut is_too_large = false;
        let builder = builder(&mut self.builders, shard);
        let number = builder.sets.number_of(
            |set| put_labels(set, processor, resource, &sight, self.plan.max_value_len),
            |set| {
                is_too_large = set.len() > MAX_LABEL_SET;
                !is_too_large && Labels(set).is_valid()
            },
        );
        let Some(number) = number else {
            let discarded = &mut self.split.discarded;
            discarded.span_metrics_too_large += u64::from(is_too_large);
            discarded.span_metrics_invalid_utf8 += u64::from(!is_too_large);
            let entry = if is_too_large {
                Entry::MetricsTooLarge
            } else {
                Entry::MetricsInvalidUtf8
            };
            return (entry, is_ignored);
        };
        builder.push_span(&SpanRow {
            set: number,
            size: span.encoded_len as u32,
            duration_ns: span.duration_ns(),
            trace: trace_number(span.trace_id),
            is_error: span.is_error(),
            weight,
        });
        self.target_info();
        (Entry::Generated, is_ignored)
    }

    /// Tell of the resource, after a span of it that counts (processors §1.6).
    #[inline]
    fn target_info(&mut self) {
        let (now_ns, every_ns) = (self.options.now_ns, self.plan.tell_every_ns);
        let Some(resource) = self.resources.get_mut(self.current) else {
            return;
        };
        match &resource.target_info {
            Info::Absent => {}
            Info::Set(set) => {
                if resource.told_target_info.is_due(now_ns, every_ns) {
                    let shard = shard_of(resource.info_hash, self.options.shard_count);
                    builder(&mut self.builders, shard)
                        .target_infos
                        .number(set, |_| true);
                }
            }
            Info::Invalid => self.split.discarded.span_metrics_invalid_utf8 += 1,
            Info::TooLarge => self.split.discarded.span_metrics_too_large += 1,
        }
    }

    /// As [`Self::project_span_metrics`].
    #[inline]
    fn project_service_graph(
        &mut self,
        span: &Span<'a>,
        processor: &ServiceGraphPlan,
        shard: usize,
        decision: Option<bool>,
    ) -> (Entry, bool) {
        let is_client = matches!(span.kind, CLIENT | PRODUCER);
        let takes_part = is_client || matches!(span.kind, SERVER | CONSUMER);
        if !takes_part || self.resource.get(SERVICE_NAME).copied().flatten().is_none() {
            return (Entry::NoEdge, false);
        }
        let sight = Sight {
            span,
            resource: &self.resource,
            attributes: &self.attributes,
        };
        let key = EdgeKey::new(span.trace_id, edge_span_id(span, is_client, processor));
        let mut row = EdgeRow {
            half: 0,
            key,
            kind: span.kind as u8,
            is_error: span.is_error(),
            is_database: false,
            is_marker: false,
            duration_ns: span.duration_ns(),
            at_ns: if is_client { span.end_ns } else { span.start_ns },
            weight: 1.0,
        };
        if !decision.unwrap_or_else(|| self.is_taken(span, processor.filter.as_ref())) {
            self.split.discarded.service_graphs_filtered += 1;
            // A root has no other half that could wait in vain (processors §2.5).
            if is_client || key.span_len > 0 {
                row.is_marker = true;
                builder(&mut self.builders, shard).push_edge(&row);
            }
            return (Entry::EdgeFiltered, false);
        }
        let mut is_ignored = false;
        if let Some(resource) = self.resources.get(self.current) {
            (row.weight, is_ignored) = self.weight(span, &processor.multiplier, resource, SERVICE_GRAPHS);
        }
        row.is_database = put_half(&mut self.half, processor, &sight, is_client);
        if self.half.bytes().len() > MAX_LABEL_SET {
            self.split.discarded.service_graphs_too_large += 1;
            return (Entry::EdgeTooLarge, is_ignored);
        }
        let builder = builder(&mut self.builders, shard);
        if builder.slot_names.is_empty() {
            builder.slot_names.extend_from_slice(&processor.slot_names);
        }
        if let Some(number) = builder.halves.number(self.half.bytes(), |_| true) {
            row.half = number;
            builder.push_edge(&row);
        }
        (Entry::Offered, is_ignored)
    }
}

/// How many attributes of a scope would be cut. Nothing is made of scopes, so a fault in one, which would go unseen
/// without a limit, ends the count and no more.
#[cold]
fn scope_cuts<'a>(message: &'a [u8], parent: &Cursor<'a>, limit: usize) -> u64 {
    let mut cursor = parent.nested(message, "resource_spans.scope_spans.scope");
    let mut cuts = 0;
    let mut walk = || -> WireResult<()> {
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                SCOPE_ATTRIBUTE => {
                    let bytes = cursor.bytes()?;
                    Attribute::read_within(limit, bytes, &cursor, &mut cuts)?;
                }
                tag => cursor.skip(tag)?,
            }
        }
    };
    let _ = walk();
    cuts
}

/// The id that both halves of an edge share: the client's own, the server's parent (processors §2.3).
fn edge_span_id<'a>(span: &Span<'a>, is_client: bool, plan: &ServiceGraphPlan) -> &'a [u8] {
    if is_client {
        span.span_id
    } else if plan.zero_parent_is_root && span.parent_span_id == [0; SPAN_ID_LEN] {
        &[]
    } else {
        span.parent_span_id
    }
}

#[inline]
fn builder(builders: &mut [Option<Box<FrameBuilder>>], shard: usize) -> &mut FrameBuilder {
    // `shard_of` is below the number of builders for every hash.
    let last = builders.len() - 1;
    builders[shard.min(last)].get_or_insert_default()
}

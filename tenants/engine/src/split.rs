//! The gateway's half of the engine: walk one export request and project it onto the shards of its tenant.

use crate::any_value::{AnyValue, Attribute};
use crate::error::WireFault;
use crate::frame::{EdgeKey, EdgeRow, FrameBuilder, SpanRow, trace_number};
use crate::half::{self, HalfBuilder};
use crate::hash::{shard_of, trace_hash};
use crate::labels::{Labels, truncate};
use crate::plan::{LabelSource, Plan, SERVICE_NAME, ServiceGraphPlan, SpanLabel, SpanMetricsPlan};
use crate::span::{CLIENT, CONSUMER, PRODUCER, SERVER, SPAN_ID_LEN, Span, TRACE_ID_LEN};
use crate::wire::{Cursor, WireResult, bytes_tag, put_varint};

const RESOURCE_SPANS: u32 = bytes_tag(1);
const RESOURCE: u32 = bytes_tag(1);
const SCOPE_SPANS: u32 = bytes_tag(2);
const RESOURCE_ATTRIBUTE: u32 = bytes_tag(1);
const SPAN: u32 = bytes_tag(2);

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
    /// Spans that end too far from now.
    pub outside_slack: u64,
    /// Spans whose span-metrics labels are not UTF-8.
    pub invalid_utf8: u64,
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
}

/// Walk `body` and build a frame for every shard it concerns.
pub fn split(body: &[u8], plan: &Plan, options: SplitOptions) -> WireResult<Split> {
    let mut splitter = Splitter {
        plan,
        options,
        builders: (0..options.shard_count).map(|_| None).collect(),
        resource: vec![None; plan.watch.len()],
        attributes: vec![None; plan.watch.len()],
        touched: Vec::new(),
        label_set: Vec::new(),
        service_label: Vec::new(),
        half: HalfBuilder::default(),
        split: Split::default(),
    };
    let mut cursor = Cursor::new(body, "resource_spans");
    loop {
        match cursor.tag()? {
            0 => break,
            RESOURCE_SPANS => {
                let bytes = cursor.bytes()?;
                splitter.resource_spans(bytes, &cursor)?;
            }
            tag => cursor.unexpected(tag, &[1])?,
        }
    }
    let mut split = splitter.split;
    for (shard, builder) in splitter.builders.iter().enumerate() {
        if let Some(builder) = builder {
            split.frames.push((shard, builder.finish()));
        }
    }
    Ok(split)
}

struct Splitter<'a, 'p> {
    plan: &'p Plan,
    options: SplitOptions,
    builders: Vec<Option<Box<FrameBuilder>>>,
    /// Watched attributes of the resource being walked; the first occurrence of a key wins.
    resource: Vec<Option<AnyValue<'a>>>,
    /// Watched attributes of the span being walked.
    attributes: Vec<Option<AnyValue<'a>>>,
    /// Which entries of `attributes` are set: clearing these is cheaper than clearing all.
    touched: Vec<usize>,
    label_set: Vec<u8>,
    /// The label `service` of the resource being walked, or nothing.
    service_label: Vec<u8>,
    half: HalfBuilder,
    split: Split,
}

impl<'a> Splitter<'a, '_> {
    fn resource_spans(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        // The resource may stand after the spans it describes, so it is looked for first.
        self.resource.fill(None);
        let start = parent.nested(message, "resource_spans");
        let mut cursor = start.clone();
        loop {
            match cursor.tag()? {
                0 => break,
                RESOURCE => {
                    let bytes = cursor.bytes()?;
                    self.resource(bytes, &cursor)?;
                }
                tag @ SCOPE_SPANS => cursor.skip(tag)?,
                tag => cursor.unexpected(tag, &[1, 2])?,
            }
        }
        self.encode_service_label();
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

    fn encode_service_label(&mut self) {
        self.service_label.clear();
        let labels = self.plan.span_metrics.iter().flat_map(|plan| &plan.labels);
        for label in labels.filter(|label| label.source == LabelSource::Service) {
            if let Some(value) = self.resource.get(SERVICE_NAME).copied().flatten() {
                let text = value.text();
                put_text(
                    &mut self.service_label,
                    label,
                    truncate(&text, self.plan.max_value_len),
                );
            }
        }
    }

    fn resource(&mut self, message: &'a [u8], parent: &Cursor<'a>) -> WireResult<()> {
        let mut cursor = parent.nested(message, "resource_spans.resource");
        loop {
            match cursor.tag()? {
                0 => return Ok(()),
                RESOURCE_ATTRIBUTE => {
                    let bytes = cursor.bytes()?;
                    let attribute = Attribute::read(bytes, &cursor)?;
                    if let Some(number) = self.plan.watch.find(attribute.key)
                        && let Some(slot) = self.resource.get_mut(number)
                    {
                        slot.get_or_insert(attribute.value);
                    }
                }
                tag => cursor.unexpected(tag, &[1])?,
            }
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
        let (watch, attributes, touched) = (&self.plan.watch, &mut self.attributes, &mut self.touched);
        let span = Span::read(message, parent, |attribute| {
            if let Some(number) = watch.find(attribute.key)
                && let Some(slot @ None) = attributes.get_mut(number)
            {
                *slot = Some(attribute.value);
                touched.push(number);
            }
        })?;
        self.split.received_spans += 1;
        if !self.options.strict_ids && !span.has_short_ids() {
            return Err(parent.fault_in(WireFault::IdTooLong, "resource_spans.scope_spans.spans"));
        }
        if self.is_admitted(&span) {
            self.project(&span);
        }
        Ok(())
    }

    fn is_admitted(&mut self, span: &Span<'_>) -> bool {
        if self.options.strict_ids {
            if span.trace_id.len() != TRACE_ID_LEN || span.trace_id == [0; TRACE_ID_LEN] {
                self.split.invalid_trace_ids += 1;
                return false;
            }
            let has_span_id = span.span_id.len() == SPAN_ID_LEN && span.span_id != [0; SPAN_ID_LEN];
            if !has_span_id || !span.has_short_ids() {
                self.split.invalid_span_ids += 1;
                return false;
            }
        }
        let is_near = self.options.now_ns.abs_diff(span.end_ns) <= self.plan.slack_ns;
        self.split.outside_slack += u64::from(!is_near);
        is_near
    }

    #[inline]
    fn project(&mut self, span: &Span<'a>) {
        let plan = self.plan;
        let shard = shard_of(trace_hash(span.trace_id), self.options.shard_count);
        if let Some(processor) = &plan.span_metrics {
            self.project_span_metrics(span, processor, shard);
        }
        if let Some(processor) = &plan.service_graphs {
            self.project_service_graph(span, processor, shard);
        }
    }

    #[inline]
    fn project_span_metrics(&mut self, span: &Span<'a>, processor: &SpanMetricsPlan, shard: usize) {
        let mut set = std::mem::take(&mut self.label_set);
        set.clear();
        for label in &processor.labels {
            self.put_span_label(&mut set, label, span);
        }
        let builder = builder(&mut self.builders, shard);
        match builder.sets.number(&set, |set| Labels(set).is_valid()) {
            Some(number) => builder.push_span(&SpanRow {
                set: number,
                size: span.encoded_len as u32,
                duration_ns: span.duration_ns(),
                trace: trace_number(span.trace_id),
                is_error: span.is_error(),
            }),
            None => self.split.invalid_utf8 += 1,
        }
        self.label_set = set;
    }

    #[inline]
    fn put_span_label(&self, set: &mut Vec<u8>, label: &SpanLabel, span: &Span<'a>) {
        let limit = self.plan.max_value_len;
        let put = |set: &mut Vec<u8>, text: &[u8]| put_text(set, label, truncate(text, limit));
        let put_known = |set: &mut Vec<u8>, number: i32| {
            let known = usize::try_from(number).ok().and_then(|n| label.encoded.get(n));
            match known {
                Some(known) => set.extend_from_slice(known),
                // An unknown number is written in decimal (processors §1.3).
                None => put(set, number.to_string().as_bytes()),
            }
        };
        match label.source {
            LabelSource::SpanName => put(set, span.name),
            LabelSource::StatusMessage => put(set, span.status_message),
            LabelSource::SpanKind => put_known(set, span.kind),
            LabelSource::StatusCode => put_known(set, span.status_code),
            LabelSource::Service => set.extend_from_slice(&self.service_label),
            LabelSource::Attribute(number) => {
                if let Some(value) = self.find(number) {
                    put(set, &value.text());
                }
            }
        }
    }

    /// A watched attribute: of the resource if it has it, else of the span (processors §0.3).
    #[inline]
    fn find(&self, number: usize) -> Option<AnyValue<'a>> {
        let resource = self.resource.get(number).copied().flatten();
        resource.or_else(|| self.find_in_span(number))
    }

    #[inline]
    fn find_in_span(&self, number: usize) -> Option<AnyValue<'a>> {
        self.attributes.get(number).copied().flatten()
    }

    #[inline]
    fn project_service_graph(&mut self, span: &Span<'a>, processor: &ServiceGraphPlan, shard: usize) {
        let is_client = matches!(span.kind, CLIENT | PRODUCER);
        if !is_client && !matches!(span.kind, SERVER | CONSUMER) {
            return;
        }
        let Some(service) = self.resource.get(SERVICE_NAME).copied().flatten() else {
            return;
        };
        let mut half = std::mem::take(&mut self.half);
        half.clear();
        let limit = self.plan.max_value_len;
        half.put(
            if is_client { half::CLIENT } else { half::SERVER },
            truncate(&service.text(), limit),
        );
        let is_database = is_client && self.put_database(&mut half, processor);
        let peer = processor
            .peers
            .iter()
            .find_map(|number| self.find_in_span(*number));
        if let Some(peer) = peer {
            half.put(half::PEER, truncate(&peer.text(), limit));
        }
        let first_slot = if processor.prefixed && !is_client {
            processor.dimensions.len()
        } else {
            0
        };
        for (slot, number) in processor.dimensions.iter().enumerate() {
            if let Some(value) = self.find(*number) {
                half.put(
                    half::DIMENSIONS + first_slot + slot,
                    truncate(&value.text(), limit),
                );
            }
        }
        let parent_or_self = if is_client {
            span.span_id
        } else {
            span.parent_span_id
        };
        let builder = builder(&mut self.builders, shard);
        if let Some(number) = builder.halves.number(half.bytes(), |_| true) {
            builder.push_edge(&EdgeRow {
                half: number,
                key: EdgeKey::new(span.trace_id, parent_or_self),
                kind: span.kind as u8,
                is_error: span.is_error(),
                is_database,
                duration_ns: span.duration_ns(),
                at_ns: if is_client { span.end_ns } else { span.start_ns },
            });
        }
        self.half = half;
    }

    /// Name the database a client span calls (processors §2.6); `false` if it calls none.
    fn put_database(&self, half: &mut HalfBuilder, processor: &ServiceGraphPlan) -> bool {
        let Some(fallback) = processor.databases.iter().find_map(|number| self.find(*number)) else {
            return false;
        };
        let limit = self.plan.max_value_len;
        let [peer_service, server_address, network_address, network_port] = processor.database_servers;
        if let Some(named) = self.find(peer_service).or_else(|| self.find(server_address)) {
            half.put(half::SERVER, truncate(&named.text(), limit));
        } else if let Some(address) = self.find(network_address) {
            let mut name = address.text().into_owned();
            if let Some(port) = self.find(network_port) {
                name.push(b':');
                name.extend_from_slice(&port.text());
            }
            half.put(half::SERVER, truncate(&name, limit));
        } else {
            // Alone among these, an empty fallback does not wipe out what the server's own span said.
            let name = fallback.text();
            if !name.is_empty() {
                half.put(half::SERVER, truncate(&name, limit));
            }
        }
        true
    }
}

#[inline]
fn put_text(set: &mut Vec<u8>, label: &SpanLabel, text: &[u8]) {
    if !text.is_empty() {
        set.extend_from_slice(&label.encoded_name);
        put_varint(set, text.len() as u64);
        set.extend_from_slice(text);
    }
}

#[inline]
fn builder(builders: &mut [Option<Box<FrameBuilder>>], shard: usize) -> &mut FrameBuilder {
    // `shard_of` is below the number of builders for every hash.
    let last = builders.len() - 1;
    builders[shard.min(last)].get_or_insert_default()
}

//! The label set of one span: what its resource decides is copied, the rest is looked up (processors §1.3).

use crate::any_value::AnyValue;
use crate::labels::truncate;
use crate::resource::Resource;
use crate::span::{KINDS, STATUS_CODES, Span};
use crate::span_metrics_plan::{LabelSource, Mapping, SpanLabel, SpanMetricsPlan};
use crate::wire::put_varint;

/// A part of a label set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// Bytes of the resource's arena: one or more labels, or none.
    Decided(u32, u32),
    /// The label of this index, by the span.
    Open(usize),
}

/// Divide the labels of a plan into those that a resource decides and the others.
///
/// `decide` writes a label from one of its sources and tells whether the value is empty; `None`: the source is not the
/// resource's.
pub fn segments(
    plan: &SpanMetricsPlan,
    mut decide: impl FnMut(&mut Vec<u8>, &SpanLabel, LabelSource) -> Option<bool>,
) -> (Vec<Segment>, Vec<u8>) {
    let (mut segments, mut arena) = (Vec::new(), Vec::new());
    for (index, label) in plan.labels.iter().enumerate() {
        let start = arena.len();
        let is_decided = match decide(&mut arena, label, label.source) {
            Some(is_empty) => !is_empty || label.fallbacks.is_empty(),
            None => false,
        };
        if !is_decided {
            arena.truncate(start);
            segments.push(Segment::Open(index));
        } else if let Some(Segment::Decided(_, end)) = segments.last_mut() {
            *end = arena.len() as u32;
        } else {
            segments.push(Segment::Decided(start as u32, arena.len() as u32));
        }
    }
    (segments, arena)
}

/// A span beside its resource, as label sources see it.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'s, 'a> {
    /// The span.
    pub span: &'s Span<'a>,
    /// Watched attributes of the resource.
    pub resource: &'s [Option<AnyValue<'a>>],
    /// Watched attributes of the span.
    pub attributes: &'s [Option<AnyValue<'a>>],
}

impl<'a> Sight<'_, 'a> {
    /// A watched attribute: of the resource if it has it, else of the span (processors §0.3).
    #[inline]
    pub fn find(&self, number: usize) -> Option<AnyValue<'a>> {
        let resource = self.resource.get(number).copied().flatten();
        resource.or_else(|| self.find_in_span(number))
    }

    /// A watched attribute of the span.
    #[inline]
    pub fn find_in_span(&self, number: usize) -> Option<AnyValue<'a>> {
        self.attributes.get(number).copied().flatten()
    }
}

/// Append the label set of a span.
#[inline]
pub fn put_labels(
    set: &mut Vec<u8>,
    plan: &SpanMetricsPlan,
    resource: &Resource,
    sight: &Sight<'_, '_>,
    value_limit: usize,
) {
    for segment in &resource.segments {
        match segment {
            Segment::Decided(start, end) => {
                let decided = resource.label_arena.get(*start as usize..*end as usize);
                set.extend_from_slice(decided.unwrap_or_default());
            }
            Segment::Open(index) => {
                if let Some(label) = plan.labels.get(*index) {
                    put_label(set, plan, label, sight, value_limit);
                }
            }
        }
    }
}

#[inline]
fn put_label(
    set: &mut Vec<u8>,
    plan: &SpanMetricsPlan,
    label: &SpanLabel,
    sight: &Sight<'_, '_>,
    value_limit: usize,
) {
    let before = set.len();
    put_source(set, plan, label, label.source, sight, value_limit);
    let mut fallbacks = label.fallbacks.iter();
    while set.len() == before
        && let Some(source) = fallbacks.next()
    {
        put_source(set, plan, label, *source, sight, value_limit);
    }
}

#[inline]
fn put_source(
    set: &mut Vec<u8>,
    plan: &SpanMetricsPlan,
    label: &SpanLabel,
    source: LabelSource,
    sight: &Sight<'_, '_>,
    value_limit: usize,
) {
    let span = sight.span;
    let put = |set: &mut Vec<u8>, text: &[u8]| put_text(set, label, truncate(text, value_limit));
    let put_known = |set: &mut Vec<u8>, number: i32, names: &[&str]| {
        let known = usize::try_from(number).ok();
        let encoded = known.and_then(|known| label.encoded.get(known));
        match (encoded, known.and_then(|known| names.get(known))) {
            (Some(encoded), _) if source == label.source => set.extend_from_slice(encoded),
            (_, Some(name)) => put(set, name.as_bytes()),
            // An unknown number is written in decimal (processors §1.3).
            _ => put(set, number.to_string().as_bytes()),
        }
    };
    match source {
        LabelSource::SpanName => put(set, span.name),
        LabelSource::StatusMessage => put(set, span.status_message),
        LabelSource::SpanKind => put_known(set, span.kind, &KINDS),
        LabelSource::StatusCode => put_known(set, span.status_code, &STATUS_CODES),
        LabelSource::Attribute(number) => {
            if let Some(value) = sight.find(number) {
                put(set, &value.text());
            }
        }
        LabelSource::Mapping(number) => {
            if let Some(mapping) = plan.mappings.get(number) {
                put(set, &joined(mapping, sight));
            }
        }
        // These are the resource's alone: what it has not decided is empty.
        LabelSource::Service | LabelSource::Job | LabelSource::Instance => {}
    }
}

/// The values of a mapping's sources; an empty one is left out with its separator (processors §1.3).
fn joined(mapping: &Mapping, sight: &Sight<'_, '_>) -> Vec<u8> {
    let mut text = Vec::new();
    for number in &mapping.sources {
        let value = sight.find(*number).map(AnyValue::text).unwrap_or_default();
        if value.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.extend_from_slice(&mapping.join);
        }
        text.extend_from_slice(&value);
    }
    text
}

/// Append one label, unless its value is empty.
#[inline]
pub fn put_text(set: &mut Vec<u8>, label: &SpanLabel, text: &[u8]) {
    if !text.is_empty() {
        set.extend_from_slice(&label.encoded_name);
        put_varint(set, text.len() as u64);
        set.extend_from_slice(text);
    }
}

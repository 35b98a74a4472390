//! One OTLP `Resource`, read once: its watched attributes and everything that follows from it alone.

use crate::any_value::{AnyValue, Attribute};
use crate::hash::trace_hash;
use crate::info_plan::Info;
use crate::labels::truncate;
use crate::multiplier::attribute_multiplier;
use crate::plan::Plan;
use crate::span_labels::{Segment, put_text, segments};
use crate::span_metrics_plan::LabelSource;
use crate::watch::{SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE};
use crate::wire::{Cursor, WireResult, bytes_tag};

const ATTRIBUTE: u32 = bytes_tag(1);

/// What a resource says of the sampling of its spans, for one processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceMultiplier {
    /// The first usable value.
    pub weight: Option<f64>,
    /// The attribute is there, usable or not.
    pub is_present: bool,
}

/// A resource and what follows from it under one plan.
#[derive(Debug)]
pub struct Resource {
    /// The encoded message: what tells resources apart.
    pub message: Box<[u8]>,
    /// Watched attributes by number; the first occurrence of a key wins.
    values: Box<[(usize, StoredValue)]>,
    /// The labels of span metrics, as far as they are decided.
    pub segments: Box<[Segment]>,
    /// What the decided segments hold.
    pub label_arena: Box<[u8]>,
    /// Label set of `traces_target_info`.
    pub target_info: Info,
    /// Label set of host info.
    pub host_info: Info,
    /// Which shard the info sets belong to: spread by content, so that each is counted in one.
    pub info_hash: u64,
    /// Of span metrics and of service graphs.
    pub multipliers: [ResourceMultiplier; 2],
    /// Attributes that were cut (tenancy §4.5).
    pub cuts: u64,
    /// When the target info was last passed on.
    pub told_target_info: Told,
    /// When the host info was last passed on.
    pub told_host_info: Told,
    /// The number of its service in the request that it was last seen in.
    pub service: ServiceNumber,
}

/// A number that is good in one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceNumber {
    /// Which request; 0: none yet.
    pub request: u64,
    /// The number.
    pub number: u32,
}

/// When something was last passed on, to pass it on as often as it takes and no more: an info metric is always 1, and
/// needs to be heard of now and then, not with every request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told(Option<u64>);

impl Told {
    /// Whether it is time to pass it on, `every_ns` after the last time; if so, `now_ns` is noted.
    pub fn is_due(&mut self, now_ns: u64, every_ns: u64) -> bool {
        let is_due = self.0.is_none_or(|told_ns| now_ns.abs_diff(told_ns) >= every_ns);
        if is_due {
            self.0 = Some(now_ns);
        }
        is_due
    }
}

/// An attribute's value as positions in the resource's message, so that it fits every copy of the message.
#[derive(Debug, Clone, Copy)]
enum StoredValue {
    Plain(Plain),
    String(u32, u32),
    Array(u32, u32),
    List(u32, u32),
}

#[derive(Debug, Clone, Copy)]
enum Plain {
    Empty,
    Bool(bool),
    Int(i64),
    Double(f64),
}

impl StoredValue {
    fn new(message: &[u8], value: AnyValue<'_>) -> Self {
        let part = |bytes: &[u8]| {
            let start = bytes.as_ptr().addr().saturating_sub(message.as_ptr().addr());
            (start as u32, bytes.len() as u32)
        };
        match value {
            AnyValue::Empty => Self::Plain(Plain::Empty),
            AnyValue::Bool(value) => Self::Plain(Plain::Bool(value)),
            AnyValue::Int(value) => Self::Plain(Plain::Int(value)),
            AnyValue::Double(value) => Self::Plain(Plain::Double(value)),
            AnyValue::String(bytes) => {
                let (start, length) = part(bytes);
                Self::String(start, length)
            }
            AnyValue::Array(bytes) => {
                let (start, length) = part(bytes);
                Self::Array(start, length)
            }
            AnyValue::List(bytes) => {
                let (start, length) = part(bytes);
                Self::List(start, length)
            }
        }
    }

    fn get<'a>(self, message: &'a [u8]) -> AnyValue<'a> {
        let part = |start: u32, length: u32| -> &'a [u8] {
            let start = start as usize;
            message.get(start..start + length as usize).unwrap_or_default()
        };
        match self {
            Self::Plain(Plain::Empty) => AnyValue::Empty,
            Self::Plain(Plain::Bool(value)) => AnyValue::Bool(value),
            Self::Plain(Plain::Int(value)) => AnyValue::Int(value),
            Self::Plain(Plain::Double(value)) => AnyValue::Double(value),
            Self::String(start, length) => AnyValue::String(part(start, length)),
            Self::Array(start, length) => AnyValue::Array(part(start, length)),
            Self::List(start, length) => AnyValue::List(part(start, length)),
        }
    }
}

impl Resource {
    /// Read `message`, which is a part of what `parent` reads.
    pub fn read<'m>(message: &'m [u8], parent: &Cursor<'m>, plan: &Plan) -> WireResult<Self> {
        let mut reader = Reader::new(plan);
        let mut cursor = parent.nested(message, "resource_spans.resource");
        loop {
            match cursor.tag()? {
                0 => break,
                ATTRIBUTE => {
                    let bytes = cursor.bytes()?;
                    let limit = plan.max_attribute_len;
                    let attribute = Attribute::read_within(limit, bytes, &cursor, &mut reader.cuts)?;
                    reader.attribute(&attribute);
                }
                tag => cursor.unexpected(tag, &[1])?,
            }
        }
        Ok(reader.finish(message))
    }

    /// The watched attributes, their text borrowed from `message`, which must equal the one that was read.
    pub fn values<'a>(&self, message: &'a [u8]) -> impl Iterator<Item = (usize, AnyValue<'a>)> {
        self.values
            .iter()
            .map(move |(number, value)| (*number, value.get(message)))
    }

    /// Bytes held.
    pub fn state_bytes(&self) -> usize {
        let info = |info: &Info| match info {
            Info::Set(set) => set.len(),
            _ => 0,
        };
        size_of::<Self>()
            + self.message.len()
            + self.values.len() * size_of::<(usize, StoredValue)>()
            + self.segments.len() * size_of::<Segment>()
            + self.label_arena.len()
            + info(&self.target_info)
            + info(&self.host_info)
    }
}

struct Reader<'p, 'm> {
    plan: &'p Plan,
    watched: Vec<Option<AnyValue<'m>>>,
    /// All attributes, where target info needs them.
    all: Vec<(&'m [u8], AnyValue<'m>)>,
    /// The first text of every host identifier.
    hosts: Vec<Option<&'m [u8]>>,
    multipliers: [ResourceMultiplier; 2],
    cuts: u64,
}

impl<'p, 'm> Reader<'p, 'm> {
    fn new(plan: &'p Plan) -> Self {
        Self {
            plan,
            watched: vec![None; plan.watch.len()],
            all: Vec::new(),
            hosts: vec![None; plan.host_info.as_ref().map_or(0, |plan| plan.identifiers.len())],
            multipliers: [ResourceMultiplier::default(); 2],
            cuts: 0,
        }
    }

    fn attribute(&mut self, attribute: &Attribute<'m>) {
        if self.plan.target_info().is_some() {
            self.all.push((attribute.key, attribute.value));
        }
        let Some(number) = self.plan.watch.find(attribute.key) else {
            return;
        };
        if let Some(slot) = self.watched.get_mut(number) {
            slot.get_or_insert(attribute.value);
        }
        if let AnyValue::String(text @ [_, ..]) = attribute.value
            && let Some(plan) = &self.plan.host_info
        {
            for (slot, (key, _)) in self.hosts.iter_mut().zip(&plan.identifiers) {
                if *key == number && slot.is_none() {
                    *slot = Some(text);
                }
            }
        }
        for (found, key) in self.multipliers.iter_mut().zip(multiplier_keys(self.plan)) {
            if key == Some(number) {
                found.is_present = true;
                found.weight = found.weight.or_else(|| attribute_multiplier(attribute.value));
            }
        }
    }

    fn text(&self, number: usize) -> Vec<u8> {
        let value = self.watched.get(number).copied().flatten();
        value.map_or_else(Vec::new, |value| value.text().into_owned())
    }

    fn finish(self, message: &[u8]) -> Resource {
        let plan = self.plan;
        let instance = self.text(SERVICE_INSTANCE_ID);
        let job = job(&self.text(SERVICE_NAME), &self.text(SERVICE_NAMESPACE));
        let target_info = plan.target_info().map_or(Info::Absent, |plan| {
            let all = self
                .all
                .iter()
                .map(|(key, value)| (*key, value.text().into_owned()));
            plan.build(all, &job, &instance)
        });
        let host_info = plan.host_info.as_ref().map_or(Info::Absent, |plan| {
            let mut named = plan.identifiers.iter().zip(&self.hosts);
            let found = named.find_map(|((_, key), host)| Some((key, (*host)?)));
            found.map_or(Info::Absent, |(key, host)| plan.build(host, key))
        });
        let (segments, label_arena) = match &plan.span_metrics {
            Some(processor) => segments(processor, |arena, label, source| {
                let text = match source {
                    LabelSource::Service => Some(self.text(SERVICE_NAME)),
                    LabelSource::Job => Some(job.clone()),
                    LabelSource::Instance => Some(instance.clone()),
                    LabelSource::Attribute(number) => {
                        let value = self.watched.get(number).copied().flatten();
                        value.map(|value| value.text().into_owned())
                    }
                    _ => None,
                }?;
                put_text(arena, label, truncate(&text, plan.max_value_len));
                Some(text.is_empty())
            }),
            None => Default::default(),
        };
        let values = self.watched.iter().enumerate();
        Resource {
            values: values
                .filter_map(|(number, value)| Some((number, StoredValue::new(message, (*value)?))))
                .collect(),
            message: message.into(),
            segments: segments.into(),
            label_arena: label_arena.into(),
            info_hash: [&target_info, &host_info]
                .into_iter()
                .fold(0, |hash, info| match info {
                    Info::Set(set) => hash ^ trace_hash(set),
                    _ => hash,
                }),
            target_info,
            host_info,
            multipliers: self.multipliers,
            cuts: self.cuts,
            told_target_info: Told::default(),
            told_host_info: Told::default(),
            service: ServiceNumber::default(),
        }
    }
}

/// `job` of a resource: empty without a service name (processors §1.5).
fn job(name: &[u8], namespace: &[u8]) -> Vec<u8> {
    if name.is_empty() || namespace.is_empty() {
        name.to_vec()
    } else {
        [namespace, b"/", name].concat()
    }
}

/// The attributes that hold the sampling ratio, of span metrics and of service graphs.
pub fn multiplier_keys(plan: &Plan) -> [Option<usize>; 2] {
    [
        plan.span_metrics.as_ref().and_then(|plan| plan.multiplier.key),
        plan.service_graphs.as_ref().and_then(|plan| plan.multiplier.key),
    ]
}

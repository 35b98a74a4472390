//! What a shard has counted since its last flush, by label set.
//!
//! A group holds the metrics of one processor, which all share their label sets: a few counters and histograms for each
//! entity (label set), in flat arrays. All processors are instances of the same group with other shapes.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::bounds::Bounds;
use crate::duration_sum;
use crate::exemplar::{Exemplar, ExemplarRank};
use crate::labels::label_set;
use crate::native_buckets::NativeBuckets;
use crate::native_exemplars::exemplar_slot;
use crate::native_schema::BucketFinder;
use crate::record::{DeltaWriter, GroupWriter};

/// Most entities of one group in one shard. Beyond it, new label sets are counted in the overflow entity.
pub const MAX_ENTITIES: usize = 1 << 20;

/// Most bytes of their label sets, likewise.
const MAX_LABEL_BYTES: usize = 512 << 20;

/// The number of a label set that lost its place; it is looked up anew.
pub const NO_ENTITY: u32 = u32::MAX;

/// Label of the entity that counts what does not fit a limit (processors §4.7).
pub const OVERFLOW_LABEL: (&[u8], &[u8]) = (b"metric_overflow", b"true");

/// How many counters and which histograms each entity has.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Counters, stored first.
    pub counters: usize,
    /// Histograms, in order.
    pub histograms: Vec<HistogramShape>,
}

/// In which buckets a histogram counts.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramShape {
    /// Classic buckets; none but +Inf where only native ones are wanted.
    pub bounds: Arc<Bounds>,
    /// There are classic series. Where there are none, exemplars are kept by native range instead of bucket.
    pub has_classic: bool,
    /// Native buckets, if they are wanted.
    pub native: Option<Arc<BucketFinder>>,
}

impl Default for HistogramShape {
    fn default() -> Self {
        Self {
            bounds: Arc::default(),
            has_classic: true,
            native: None,
        }
    }
}

impl HistogramShape {
    /// Where the exemplar of an observation is kept: its bucket, or its native range.
    #[inline]
    pub fn exemplar_place(&self, duration_ns: u64) -> u8 {
        if self.has_classic {
            self.bounds.bucket(duration_ns) as u8
        } else {
            exemplar_slot(duration_ns)
        }
    }

    /// The greatest of these places.
    pub fn last_exemplar_place(&self) -> u8 {
        self.exemplar_place(u64::MAX)
    }
}

impl Shape {
    /// Doubles an entity takes: counters, then every histogram's buckets.
    pub fn stride(&self) -> usize {
        self.counters
            + self
                .histograms
                .iter()
                .map(|histogram| histogram.bounds.buckets())
                .sum::<usize>()
    }

    /// Where each histogram's buckets begin within an entity's doubles.
    pub fn offsets(&self) -> Vec<usize> {
        let mut offset = self.counters;
        self.histograms
            .iter()
            .map(|histogram| {
                let start = offset;
                offset += histogram.bounds.buckets();
                start
            })
            .collect()
    }

    /// Whether any histogram has native buckets.
    pub fn has_native(&self) -> bool {
        self.histograms.iter().any(|histogram| histogram.native.is_some())
    }
}

#[derive(Debug)]
struct Entity {
    labels: Box<[u8]>,
    used_at_ns: u64,
    /// First of this entity's exemplar slots, `NO_ENTITY` if it observed nothing since the flush.
    exemplars: u32,
    /// First of this entity's native histograms, likewise.
    natives: u32,
    /// Times it was counted in since the flush.
    updates: u32,
    is_dirty: bool,
    is_defined: bool,
}

/// The native buckets of one histogram, and its exemplars where no classic bucket has them.
#[derive(Debug, Default)]
pub struct NativePart {
    /// Buckets.
    pub buckets: NativeBuckets,
    /// The best exemplar of each power of two of nanoseconds.
    pub exemplars: Vec<(u8, Exemplar)>,
}

impl NativePart {
    fn clear(&mut self) {
        self.buckets.clear();
        self.exemplars.clear();
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.buckets.heap_bytes()
            + self.exemplars.capacity() * size_of::<(u8, Exemplar)>()
    }

    fn offer(&mut self, range: u8, exemplar: Exemplar) {
        match self.exemplars.iter_mut().find(|(other, _)| *other == range) {
            Some((_, held)) => held.offer(exemplar),
            None => self.exemplars.push((range, exemplar)),
        }
    }
}

/// The delta accumulators of one processor in one shard.
#[derive(Debug)]
pub struct Group {
    shape: Shape,
    offsets: Vec<usize>,
    stride: usize,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    entities: Vec<Option<Entity>>,
    /// Length of all label sets.
    label_bytes: usize,
    free: Vec<u32>,
    values: Vec<f64>,
    /// Sums of observations, see [`duration_sum`].
    sums: Vec<u128>,
    exemplars: Vec<Exemplar>,
    /// Native parts of the entities counted in since the flush; those behind `natives_used` wait to be used again.
    natives: Vec<NativePart>,
    natives_used: usize,
    dirty: Vec<u32>,
    retired: Vec<u32>,
}

impl Group {
    /// An empty group.
    pub fn new(shape: Shape) -> Self {
        Self {
            offsets: shape.offsets(),
            stride: shape.stride(),
            shape,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            entities: Vec::new(),
            label_bytes: 0,
            free: Vec::new(),
            values: Vec::new(),
            sums: Vec::new(),
            exemplars: Vec::new(),
            natives: Vec::new(),
            natives_used: 0,
            dirty: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// The counters and histograms each entity has.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How many entities there are.
    pub fn len(&self) -> usize {
        self.entities.len() - self.free.len()
    }

    /// Whether there are no entities.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entity of a canonical label set; at the bound, the overflow entity.
    #[inline]
    pub fn entity(&mut self, labels: &[u8], now_ns: u64) -> u32 {
        if let Some(number) = self.find(labels) {
            self.touch(number, now_ns);
            return number;
        }
        if self.len() >= MAX_ENTITIES || self.label_bytes + labels.len() > MAX_LABEL_BYTES {
            let overflow = overflow_labels();
            return match self.find(&overflow) {
                Some(number) => number,
                None => self.insert(&overflow, now_ns),
            };
        }
        self.insert(labels, now_ns)
    }

    fn find(&self, labels: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(labels);
        let is_equal = |number: &u32| labels_of(&self.entities, *number) == labels;
        self.numbers.find(hash, is_equal).copied()
    }

    /// Note that the entity is in use.
    #[inline]
    pub fn touch(&mut self, number: u32, now_ns: u64) {
        if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
            entity.used_at_ns = now_ns;
        }
    }

    fn insert(&mut self, labels: &[u8], now_ns: u64) -> u32 {
        self.label_bytes += labels.len();
        let entity = Some(Entity {
            labels: labels.into(),
            used_at_ns: now_ns,
            exemplars: NO_ENTITY,
            natives: NO_ENTITY,
            updates: 0,
            is_dirty: false,
            is_defined: false,
        });
        let number = if let Some(number) = self.free.pop() {
            self.entities[number as usize] = entity;
            number
        } else {
            self.entities.push(entity);
            self.values.resize(self.entities.len() * self.stride, 0.0);
            self.sums
                .resize(self.entities.len() * self.shape.histograms.len(), 0);
            self.entities.len() as u32 - 1
        };
        let (entities, hasher) = (&self.entities, &self.hasher);
        self.numbers
            .insert_unique(hasher.hash_one(labels), number, |number| {
                hasher.hash_one(labels_of(entities, *number))
            });
        number
    }

    /// Begin to count in an entity; `None` if the number is of no entity.
    #[inline]
    pub fn update(&mut self, number: u32) -> Option<Update<'_>> {
        let index = number as usize;
        let entity = self.entities.get_mut(index)?.as_mut()?;
        if !entity.is_dirty {
            entity.is_dirty = true;
            self.dirty.push(number);
        }
        entity.updates = entity.updates.saturating_add(1);
        let histograms = self.shape.histograms.len();
        Some(Update {
            values: self
                .values
                .get_mut(index * self.stride..(index + 1) * self.stride)?,
            sums: self.sums.get_mut(index * histograms..(index + 1) * histograms)?,
            shape: &self.shape,
            offsets: &self.offsets,
            first_exemplar: &mut entity.exemplars,
            exemplars: &mut self.exemplars,
            first_native: &mut entity.natives,
            natives: &mut self.natives,
            natives_used: &mut self.natives_used,
        })
    }

    /// Whether there is nothing to flush.
    pub fn is_quiet(&self) -> bool {
        self.dirty.is_empty() && self.retired.is_empty()
    }

    /// Write what was counted since the last flush, and begin anew.
    pub fn flush(&mut self, out: &mut GroupWriter) {
        out.begin(&self.shape, &self.retired);
        self.retired.clear();
        // Neighbours take a byte less in the record, and are read and written one behind the other.
        self.dirty.sort_unstable();
        let mut undefined = Vec::new();
        for number in &self.dirty {
            if let Some(Some(entity)) = self.entities.get_mut(*number as usize)
                && !std::mem::replace(&mut entity.is_defined, true)
            {
                undefined.push(*number);
            }
        }
        out.count(undefined.len());
        for number in undefined {
            out.definition(number, labels_of(&self.entities, number));
        }
        out.count(self.dirty.len());
        let (stride, histograms) = (self.stride, self.shape.histograms.len());
        for number in self.dirty.drain(..) {
            let index = number as usize;
            let Some(Some(entity)) = self.entities.get_mut(index) else {
                continue;
            };
            entity.is_dirty = false;
            let updates = std::mem::take(&mut entity.updates);
            let first = std::mem::replace(&mut entity.exemplars, NO_ENTITY) as usize;
            let first_native = std::mem::replace(&mut entity.natives, NO_ENTITY) as usize;
            let slots = stride - self.shape.counters;
            let values = &mut self.values[index * stride..(index + 1) * stride];
            let sums = &mut self.sums[index * histograms..(index + 1) * histograms];
            out.delta(&DeltaWriter {
                number,
                updates,
                shape: &self.shape,
                values,
                sums,
                exemplars: self
                    .exemplars
                    .get(first..first.saturating_add(slots))
                    .unwrap_or_default(),
                natives: self
                    .natives
                    .get(first_native..first_native.saturating_add(histograms))
                    .unwrap_or_default(),
            });
            values.fill(0.0);
            sums.fill(0);
        }
        self.exemplars.clear();
        for native in self.natives.iter_mut().take(self.natives_used) {
            native.clear();
        }
        self.natives_used = 0;
    }

    /// Forget entities not used since `before_ns`, but for those that have something to flush.
    pub fn retire(&mut self, before_ns: u64) {
        for (number, slot) in self.entities.iter_mut().enumerate() {
            if slot
                .as_ref()
                .is_some_and(|entity| entity.used_at_ns < before_ns && !entity.is_dirty)
                && let Some(entity) = slot.take()
            {
                let number = number as u32;
                let hash = self.hasher.hash_one(&*entity.labels);
                if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
                    entry.remove();
                }
                self.label_bytes -= entity.labels.len();
                if entity.is_defined {
                    self.retired.push(number);
                }
                self.free.push(number);
            }
        }
    }

    /// Write the definitions of all entities and nothing else: for a collector that knows none of them.
    pub fn redefine(&mut self, out: &mut GroupWriter) {
        out.begin(&self.shape, &[]);
        self.retired.clear();
        out.count(self.len());
        for (number, entity) in self.entities.iter_mut().enumerate() {
            if let Some(entity) = entity {
                entity.is_defined = true;
                out.definition(number as u32, &entity.labels);
            }
        }
        out.count(0);
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        self.label_bytes
            + self.entities.capacity() * size_of::<Option<Entity>>()
            + self.numbers.capacity() * (size_of::<u32>() + 1)
            + self.values.capacity() * size_of::<f64>()
            + self.sums.capacity() * size_of::<u128>()
            + self.exemplars.capacity() * size_of::<Exemplar>()
            + self.natives.iter().map(NativePart::state_bytes).sum::<usize>()
            + (self.dirty.capacity() + self.free.capacity()) * size_of::<u32>()
    }
}

fn labels_of(entities: &[Option<Entity>], number: u32) -> &[u8] {
    match entities.get(number as usize) {
        Some(Some(entity)) => &entity.labels,
        _ => &[],
    }
}

/// One entity being counted in.
#[derive(Debug)]
pub struct Update<'g> {
    values: &'g mut [f64],
    sums: &'g mut [u128],
    shape: &'g Shape,
    offsets: &'g [usize],
    first_exemplar: &'g mut u32,
    exemplars: &'g mut Vec<Exemplar>,
    first_native: &'g mut u32,
    natives: &'g mut Vec<NativePart>,
    natives_used: &'g mut usize,
}

/// One duration to be counted.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    /// How long it took.
    pub duration_ns: u64,
    /// The trace that the exemplar names; zero: none.
    pub trace: u128,
    /// It ended in an error.
    pub is_error: bool,
    /// What it counts for.
    pub weight: f64,
}

impl Update<'_> {
    /// Add to a counter.
    #[inline]
    pub fn add(&mut self, counter: usize, amount: f64) {
        if let Some(value) = self.values.get_mut(counter) {
            *value += amount;
        }
    }

    /// Observe a duration in a histogram and offer it as exemplar.
    #[inline]
    pub fn observe(&mut self, histogram: usize, observed: &Observation) {
        let (Some(shape), Some(offset), Some(sum)) = (
            self.shape.histograms.get(histogram),
            self.offsets.get(histogram),
            self.sums.get_mut(histogram),
        ) else {
            return;
        };
        let slot = offset + shape.bounds.bucket(observed.duration_ns);
        *sum = sum.saturating_add(duration_sum::observed(observed.duration_ns, observed.weight));
        if let Some(count) = self.values.get_mut(slot) {
            *count += observed.weight;
        }
        let has_native_exemplars = !shape.has_classic;
        if let Some(finder) = &shape.native {
            let index = finder.bucket(observed.duration_ns);
            self.observe_native(histogram, index, observed, has_native_exemplars);
        }
        if observed.trace != 0 && !has_native_exemplars {
            self.offer_exemplar(slot, observed);
        }
    }

    #[inline]
    fn offer_exemplar(&mut self, slot: usize, observed: &Observation) {
        if *self.first_exemplar == NO_ENTITY {
            *self.first_exemplar = self.exemplars.len() as u32;
            let slots = self.values.len() - self.shape.counters;
            self.exemplars
                .resize(self.exemplars.len() + slots, Exemplar::default());
        }
        let at = *self.first_exemplar as usize + slot - self.shape.counters;
        if let Some(held) = self.exemplars.get_mut(at) {
            held.offer(observed.exemplar());
        }
    }

    #[inline]
    fn observe_native(
        &mut self,
        histogram: usize,
        index: Option<i16>,
        observed: &Observation,
        has_exemplars: bool,
    ) {
        if *self.first_native == NO_ENTITY {
            *self.first_native = *self.natives_used as u32;
            *self.natives_used += self.shape.histograms.len();
            if self.natives.len() < *self.natives_used {
                self.natives.resize_with(*self.natives_used, NativePart::default);
            }
        }
        let at = *self.first_native as usize + histogram;
        if let Some(native) = self.natives.get_mut(at) {
            native.buckets.observe(index, observed.weight);
            if has_exemplars && observed.trace != 0 {
                native.offer(exemplar_slot(observed.duration_ns), observed.exemplar());
            }
        }
    }
}

impl Observation {
    #[inline]
    fn exemplar(&self) -> Exemplar {
        Exemplar::new(ExemplarRank::new(self.is_error, self.duration_ns), self.trace)
    }
}

/// The canonical label set of the overflow entity.
pub fn overflow_labels() -> Vec<u8> {
    label_set(vec![OVERFLOW_LABEL])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_beyond_the_bytes_that_are_kept_are_counted_in_the_overflow_entity() {
        let labels = label_set(vec![(b"service", b"shop")]);
        let mut group = Group::new(Shape {
            counters: 1,
            histograms: Vec::new(),
        });
        group.label_bytes = MAX_LABEL_BYTES - labels.len();
        let last = group.entity(&labels, 0);
        assert_eq!(labels_of(&group.entities, last), labels);
        let next = group.entity(&label_set(vec![(b"service", b"web")]), 0);
        assert_eq!(labels_of(&group.entities, next), overflow_labels());
        assert_eq!(group.entity(&labels, 0), last);
    }
}

//! The cumulative series of one processor of one tenant, by label set.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::error::FrameError;
use crate::exemplar::Exemplar;
use crate::group::{NO_ENTITY, Shape, overflow_labels};
use crate::plan::Bounds;
use crate::record::{Delta, HistogramDelta, RecordReader, RecordShape};
use crate::remote_write::{BatchWriter, ExemplarOut, ExternalLabels, STALE, SeriesLabels};

/// One metric of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Metric name; of a histogram without `_bucket`, `_sum`, `_count`.
    pub name: &'static str,
    /// Where its numbers are.
    pub kind: FamilyKind,
    /// Whether the settings ask for it.
    pub is_enabled: bool,
}

/// Which numbers of an entity a metric shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// The counter of this index.
    Counter(usize),
    /// The histogram of this index.
    Histogram(usize),
}

/// The tenant's series limit and what it has come to (processors §4.7).
#[derive(Debug, Clone, Copy, Default)]
pub struct SeriesBudget {
    /// Most series; 0: no limit.
    pub limit: u64,
    /// Series admitted, overflow aside.
    pub active: u64,
    /// Series ever admitted.
    pub added: u64,
    /// Series that ended.
    pub removed: u64,
    /// Series turned away, counted at every attempt.
    pub limited: u64,
}

impl SeriesBudget {
    fn admit(&mut self, cost: u64) -> bool {
        if self.limit > 0 && self.active + cost > self.limit {
            self.limited += cost;
            return false;
        }
        self.active += cost;
        self.added += cost;
        true
    }

    fn release(&mut self, cost: u64) {
        self.active = self.active.saturating_sub(cost);
        self.removed += cost;
    }
}

#[derive(Debug)]
struct Entity {
    labels: Box<[u8]>,
    updated_at_ms: i64,
    /// How many shards have a number for it.
    references: u32,
    /// Bit by family: it has series within the limit.
    admitted: u8,
    /// Bit by family: its series were sent at least once.
    sent: u8,
}

/// When a collection happens, and what it stamps on everything.
#[derive(Debug)]
pub struct Moment<'a> {
    /// Timestamp of every sample.
    pub now_ms: i64,
    /// Timestamp of zero samples; not used unless it is before `now_ms`.
    pub zero_ms: i64,
    /// Series last updated before this end.
    pub stale_before_ms: i64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label: &'a str,
    /// Labels set on every series.
    pub external: &'a ExternalLabels,
}

/// The series of one processor.
#[derive(Debug)]
pub struct SeriesGroup {
    families: Vec<Family>,
    shape: Shape,
    /// What the last collection sent: which families, under which `le`.
    sent_families: Vec<Family>,
    sent_shape: Shape,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    entities: Vec<Option<Entity>>,
    free: Vec<u32>,
    overflow: Option<u32>,
    values: Vec<f64>,
    sums: Vec<u128>,
    /// Best exemplar since the last collection by entity, histogram and bucket.
    exemplars: HashMap<(u32, u8, u8), Exemplar>,
    /// The numbers that each shard gave to entities.
    sources: HashMap<u64, Vec<u32>>,
}

impl SeriesGroup {
    /// An empty group.
    pub fn new(families: Vec<Family>, shape: Shape) -> Self {
        Self {
            sent_families: families.clone(),
            sent_shape: shape.clone(),
            families,
            shape,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            entities: Vec::new(),
            free: Vec::new(),
            overflow: None,
            values: Vec::new(),
            sums: Vec::new(),
            exemplars: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    /// Go on with other families or buckets. Counts move to the bucket that surely holds them: the one whose bound is
    /// the next at or above their old bound, so that `_sum`, `_count` and every bound that stays keep their values.
    pub fn set_families(&mut self, families: Vec<Family>, shape: Shape) {
        if shape != self.shape {
            let (old_stride, new_stride) = (self.shape.stride(), shape.stride());
            let slots = slot_map(&self.shape, &shape);
            let mut values = vec![0.0; self.entities.len() * new_stride];
            for entity in 0..self.entities.len() {
                for (old, new) in slots.iter().enumerate() {
                    if let (Some(from), Some(to)) = (
                        self.values.get(entity * old_stride + old),
                        values.get_mut(entity * new_stride + new),
                    ) {
                        *to += from;
                    }
                }
            }
            self.values = values;
            let held = std::mem::take(&mut self.exemplars);
            for ((entity, histogram, _), exemplar) in held {
                if let Some(bounds) = shape.histograms.get(usize::from(histogram)) {
                    let bucket = bounds.bucket(exemplar.rank.duration_ns()) as u8;
                    let slot = self.exemplars.entry((entity, histogram, bucket)).or_default();
                    slot.offer(exemplar);
                }
            }
            self.shape = shape;
        }
        self.families = families;
    }

    /// Read one group of a record without adding it: whether [`Self::merge`] will find everything that it refers to.
    pub fn check(&self, source: u64, record: &mut RecordReader<'_>) -> Result<(), FrameError> {
        let shape = record.shape()?;
        let known = self.sources.get(&source).map(Vec::as_slice).unwrap_or_default();
        let mut changed: HashMap<u32, bool> = HashMap::new();
        for _ in 0..record.count()? {
            changed.insert(record.number()?, false);
        }
        for _ in 0..record.count()? {
            let (number, _) = record.definition()?;
            if number as usize > crate::group::MAX_ENTITIES {
                return Err(refuse("a number is out of range"));
            }
            changed.insert(number, true);
        }
        let deltas = record.count()?;
        if deltas > 0
            && (shape.counters != self.shape.counters || shape.bounds.len() != self.shape.histograms.len())
        {
            return Err(refuse("metrics of another processor"));
        }
        let mut delta = Delta::default();
        for _ in 0..deltas {
            record.delta(&shape, &mut delta)?;
            let was_known = known
                .get(delta.number as usize)
                .is_some_and(|entity| *entity != NO_ENTITY);
            if !changed.get(&delta.number).copied().unwrap_or(was_known) {
                return Err(refuse("an entity was not defined"));
            }
        }
        Ok(())
    }

    /// Add one group of a record that was checked.
    pub fn merge(
        &mut self,
        source: u64,
        record: &mut RecordReader<'_>,
        now_ms: i64,
        budget: &mut SeriesBudget,
    ) -> Result<(), FrameError> {
        let shape = record.shape()?;
        for _ in 0..record.count()? {
            let number = record.number()?;
            self.unmap(source, number);
        }
        for _ in 0..record.count()? {
            let (number, labels) = record.definition()?;
            self.unmap(source, number);
            self.map(source, number, labels, now_ms);
        }
        let deltas = record.count()?;
        let buckets = bucket_maps(&shape, &self.shape);
        let mut delta = Delta::default();
        for _ in 0..deltas {
            record.delta(&shape, &mut delta)?;
            rebucket(&mut delta, &buckets, &self.shape);
            let entity = self
                .sources
                .get(&source)
                .and_then(|numbers| numbers.get(delta.number as usize))
                .copied()
                .filter(|entity| *entity != NO_ENTITY)
                .ok_or(refuse("an entity was not defined"))?;
            self.add(entity, &delta, now_ms, budget);
        }
        Ok(())
    }

    fn map(&mut self, source: u64, number: u32, labels: &[u8], now_ms: i64) {
        let entity = self.entity(labels, now_ms);
        if let Some(Some(entity)) = self.entities.get_mut(entity as usize) {
            entity.references += 1;
        }
        let numbers = self.sources.entry(source).or_default();
        if numbers.len() <= number as usize {
            numbers.resize(number as usize + 1, NO_ENTITY);
        }
        numbers[number as usize] = entity;
    }

    fn unmap(&mut self, source: u64, number: u32) {
        let slot = self
            .sources
            .get_mut(&source)
            .and_then(|numbers| numbers.get_mut(number as usize));
        if let Some(slot) = slot
            && let Some(Some(entity)) = self.entities.get_mut(std::mem::replace(slot, NO_ENTITY) as usize)
        {
            entity.references = entity.references.saturating_sub(1);
        }
    }

    /// Drop the numbers of a shard that is gone.
    pub fn forget_source(&mut self, source: u64) {
        for entity in self.sources.remove(&source).unwrap_or_default() {
            if let Some(Some(entity)) = self.entities.get_mut(entity as usize) {
                entity.references = entity.references.saturating_sub(1);
            }
        }
    }

    fn entity(&mut self, labels: &[u8], now_ms: i64) -> u32 {
        let hash = self.hasher.hash_one(labels);
        let entities = &self.entities;
        if let Some(number) = self
            .numbers
            .find(hash, |number| labels_of(entities, *number) == labels)
        {
            return *number;
        }
        let entity = Some(Entity {
            labels: labels.into(),
            updated_at_ms: now_ms,
            references: 0,
            admitted: 0,
            sent: 0,
        });
        let number = if let Some(number) = self.free.pop() {
            self.entities[number as usize] = entity;
            number
        } else {
            self.entities.push(entity);
            self.values.resize(self.entities.len() * self.shape.stride(), 0.0);
            self.sums
                .resize(self.entities.len() * self.shape.histograms.len(), 0);
            self.entities.len() as u32 - 1
        };
        let (entities, hasher) = (&self.entities, &self.hasher);
        self.numbers.insert_unique(hash, number, |number| {
            hasher.hash_one(labels_of(entities, *number))
        });
        number
    }

    fn add(&mut self, entity: u32, delta: &Delta, now_ms: i64, budget: &mut SeriesBudget) {
        for index in 0..self.families.len() {
            let Some(family) = self
                .families
                .get(index)
                .copied()
                .filter(|family| family.is_enabled)
            else {
                continue;
            };
            if !delta.has(family.kind) {
                continue;
            }
            let target = self.admit(entity, index, family, now_ms, budget);
            self.add_family(target, family, delta);
            if let Some(Some(entity)) = self.entities.get_mut(target as usize) {
                entity.updated_at_ms = entity.updated_at_ms.max(now_ms);
            }
        }
    }

    /// The entity that this family's numbers go to: itself, or overflow if the limit does not let it in.
    fn admit(
        &mut self,
        number: u32,
        index: usize,
        family: Family,
        now_ms: i64,
        budget: &mut SeriesBudget,
    ) -> u32 {
        let bit = 1u8 << index;
        let cost = cost(family, &self.shape);
        if let Some(Some(entity)) = self.entities.get_mut(number as usize)
            && (entity.admitted & bit != 0 || self.overflow == Some(number) || budget.admit(cost))
        {
            entity.admitted |= bit;
            return number;
        }
        let overflow = self.overflow.unwrap_or_else(|| {
            let number = self.entity(&overflow_labels(), now_ms);
            self.overflow = Some(number);
            number
        });
        if let Some(Some(entity)) = self.entities.get_mut(overflow as usize) {
            entity.admitted |= bit;
        }
        overflow
    }

    fn add_family(&mut self, entity: u32, family: Family, delta: &Delta) {
        let (stride, offsets) = (self.shape.stride(), self.shape.offsets());
        let base = entity as usize * stride;
        match family.kind {
            FamilyKind::Counter(counter) => {
                if let (Some(value), Some(more)) =
                    (self.values.get_mut(base + counter), delta.counters.get(counter))
                {
                    *value += more;
                }
            }
            FamilyKind::Histogram(histogram) => {
                let (Some(more), Some(offset)) = (delta.histograms.get(histogram), offsets.get(histogram))
                else {
                    return;
                };
                for (bucket, count) in &more.buckets {
                    if let Some(value) = self.values.get_mut(base + offset + bucket) {
                        *value += count;
                    }
                }
                let at = entity as usize * self.shape.histograms.len() + histogram;
                if let Some(sum) = self.sums.get_mut(at) {
                    *sum += more.sum_ns;
                }
                for (own, bucket, exemplar) in &delta.exemplars {
                    if *own == histogram {
                        let key = (entity, histogram as u8, *bucket as u8);
                        self.exemplars.entry(key).or_default().offer(*exemplar);
                    }
                }
            }
        }
    }

    /// Write every series, and markers for those that ended.
    pub fn collect(&mut self, out: &mut BatchWriter, moment: &Moment<'_>, budget: &mut SeriesBudget) {
        let mut labels = SeriesLabels::default();
        let le: Vec<Vec<String>> = self
            .shape
            .histograms
            .iter()
            .map(|bounds| bounds.le_texts())
            .collect();
        let is_same_layout = self.sent_families == self.families && self.sent_shape == self.shape;
        for number in 0..self.entities.len() as u32 {
            let Some(Some(entity)) = self.entities.get(number as usize) else {
                continue;
            };
            if entity.admitted == 0 && entity.sent == 0 {
                self.drop_unreferenced(number, moment.stale_before_ms);
                continue;
            }
            out.next_entity(2 * self.series_per_entity());
            labels.set(&entity.labels, moment.external);
            let is_stale = entity.updated_at_ms < moment.stale_before_ms;
            if !is_same_layout && !is_stale {
                self.end_dropped_series(number, out, &labels, moment, budget);
            }
            if is_stale {
                self.end(number, out, &labels, moment, budget);
                self.drop_unreferenced(number, moment.stale_before_ms);
            } else {
                self.write(number, out, &labels, &le, moment);
            }
        }
        self.exemplars.clear();
        self.sent_families.clone_from(&self.families);
        self.sent_shape = self.shape.clone();
    }

    fn write(
        &mut self,
        number: u32,
        out: &mut BatchWriter,
        labels: &SeriesLabels,
        le: &[Vec<String>],
        moment: &Moment<'_>,
    ) {
        let (stride, offsets) = (self.shape.stride(), self.shape.offsets());
        let base = number as usize * stride;
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        let (admitted, sent) = (entity.admitted, entity.sent);
        entity.sent = admitted;
        for (index, family) in self.families.iter().enumerate() {
            let bit = 1u8 << index;
            if admitted & bit == 0 || !family.is_enabled {
                continue;
            }
            let needs_zero = sent & bit == 0 && moment.zero_ms < moment.now_ms;
            let samples = |value: f64| [(moment.zero_ms, 0.0), (moment.now_ms, value)];
            let from = usize::from(!needs_zero);
            match family.kind {
                FamilyKind::Counter(counter) => {
                    let value = self.values.get(base + counter).copied().unwrap_or_default();
                    out.series(
                        labels,
                        family.name.as_bytes(),
                        None,
                        &samples(value)[from..],
                        None,
                    );
                }
                FamilyKind::Histogram(histogram) => {
                    let at = number as usize * self.shape.histograms.len() + histogram;
                    let sum = self.sums.get(at).copied().unwrap_or_default() as f64 / 1e9;
                    let start = base + offsets.get(histogram).copied().unwrap_or_default();
                    let texts = le.get(histogram).map(Vec::as_slice).unwrap_or_default();
                    let counts = self.values.get(start..start + texts.len()).unwrap_or_default();
                    let name = format!("{}_bucket", family.name);
                    let mut count = 0.0;
                    for (bucket, (text, more)) in texts.iter().zip(counts).enumerate() {
                        count += more;
                        let key = (number, histogram as u8, bucket as u8);
                        let exemplar = self.exemplars.get(&key).map(|held| ExemplarOut {
                            label: moment.trace_id_label,
                            trace: held.trace_text(),
                            seconds: held.rank.duration_ns() as f64 / 1e9,
                        });
                        let samples = &samples(count)[from..];
                        out.series(labels, name.as_bytes(), Some(text), samples, exemplar.as_ref());
                    }
                    let name = format!("{}_count", family.name);
                    out.series(labels, name.as_bytes(), None, &samples(count)[from..], None);
                    let name = format!("{}_sum", family.name);
                    out.series(labels, name.as_bytes(), None, &samples(sum)[from..], None);
                }
            }
        }
    }

    /// End what the last collection sent and the present settings do not produce.
    fn end_dropped_series(
        &mut self,
        number: u32,
        out: &mut BatchWriter,
        labels: &SeriesLabels,
        moment: &Moment<'_>,
        budget: &mut SeriesBudget,
    ) {
        for index in 0..self.sent_families.len() {
            let (Some(old), Some(new)) = (self.sent_families.get(index), self.families.get(index)) else {
                continue;
            };
            let (old, new) = (*old, *new);
            let bit = 1u8 << index;
            let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
                continue;
            };
            if old.is_enabled && !new.is_enabled && entity.admitted & bit != 0 {
                if entity.sent & bit != 0 {
                    mark_stale(out, labels, old, &self.sent_shape, moment.now_ms, |_| true);
                }
                entity.admitted &= !bit;
                entity.sent &= !bit;
                if self.overflow != Some(number) {
                    budget.release(cost(old, &self.sent_shape));
                }
                self.zero(number, new.kind);
            } else if entity.sent & bit != 0
                && let FamilyKind::Histogram(histogram) = new.kind
                && let (Some(before), Some(after)) = (
                    self.sent_shape.histograms.get(histogram),
                    self.shape.histograms.get(histogram),
                )
            {
                let is_gone = |bound: Option<f64>| bound.is_some_and(|bound| !after.seconds.contains(&bound));
                mark_stale_buckets(out, labels, new, before, moment.now_ms, is_gone);
                if self.overflow != Some(number) {
                    let (was, is) = (cost(old, &self.sent_shape), cost(new, &self.shape));
                    budget.active = (budget.active + is).saturating_sub(was);
                }
            }
        }
    }

    fn zero(&mut self, number: u32, kind: FamilyKind) {
        let (stride, offsets) = (self.shape.stride(), self.shape.offsets());
        let base = number as usize * stride;
        match kind {
            FamilyKind::Counter(counter) => {
                if let Some(value) = self.values.get_mut(base + counter) {
                    *value = 0.0;
                }
            }
            FamilyKind::Histogram(histogram) => {
                let start = base + offsets.get(histogram).copied().unwrap_or_default();
                let buckets = self
                    .shape
                    .histograms
                    .get(histogram)
                    .map_or(0, |bounds| bounds.buckets());
                if let Some(values) = self.values.get_mut(start..start + buckets) {
                    values.fill(0.0);
                }
                let at = number as usize * self.shape.histograms.len() + histogram;
                if let Some(sum) = self.sums.get_mut(at) {
                    *sum = 0;
                }
            }
        }
    }

    /// End all series of an entity: markers for what was sent, then it starts from nothing if it is seen again.
    fn end(
        &mut self,
        number: u32,
        out: &mut BatchWriter,
        labels: &SeriesLabels,
        moment: &Moment<'_>,
        budget: &mut SeriesBudget,
    ) {
        let is_overflow = self.overflow == Some(number);
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        let (admitted, sent) = (entity.admitted, entity.sent);
        (entity.admitted, entity.sent) = (0, 0);
        for (index, family) in self.sent_families.clone().into_iter().enumerate() {
            let bit = 1u8 << index;
            if sent & bit != 0 {
                mark_stale(out, labels, family, &self.sent_shape, moment.now_ms, |_| true);
            }
            if admitted & bit != 0 && !is_overflow {
                budget.release(cost(family, &self.sent_shape));
            }
            self.zero(number, family.kind);
        }
    }

    /// End every series there is.
    pub fn end_all(&mut self, out: &mut BatchWriter, moment: &Moment<'_>, budget: &mut SeriesBudget) {
        let mut labels = SeriesLabels::default();
        for number in 0..self.entities.len() as u32 {
            if let Some(Some(entity)) = self.entities.get(number as usize) {
                out.next_entity(2 * self.series_per_entity());
                labels.set(&entity.labels, moment.external);
                self.end(number, out, &labels, moment, budget);
            }
        }
        self.exemplars.clear();
    }

    fn drop_unreferenced(&mut self, number: u32, stale_before_ms: i64) {
        let slot = self.entities.get_mut(number as usize);
        if let Some(slot) = slot
            && let Some(entity) = slot
            && entity.references == 0
            && entity.admitted == 0
            && entity.updated_at_ms < stale_before_ms
        {
            let hash = self.hasher.hash_one(&*entity.labels);
            *slot = None;
            if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
                entry.remove();
            }
            if self.overflow == Some(number) {
                self.overflow = None;
            }
            self.free.push(number);
        }
    }

    /// Most series of one entity, those that end with a change of settings included.
    fn series_per_entity(&self) -> usize {
        let series = |families: &[Family], shape: &Shape| -> u64 {
            families.iter().map(|family| cost(*family, shape)).sum()
        };
        series(&self.families, &self.shape).max(series(&self.sent_families, &self.sent_shape)) as usize
    }

    /// How many entities have series.
    pub fn len(&self) -> usize {
        self.entities
            .iter()
            .flatten()
            .filter(|entity| entity.admitted != 0)
            .count()
    }

    /// Whether no entity has series.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, for the state gauge.
    pub fn state_bytes(&self) -> usize {
        let labels: usize = self
            .entities
            .iter()
            .flatten()
            .map(|entity| entity.labels.len())
            .sum();
        let sources: usize = self
            .sources
            .values()
            .map(|numbers| numbers.capacity() * size_of::<u32>())
            .sum();
        labels
            + sources
            + self.entities.capacity() * size_of::<Option<Entity>>()
            + self.numbers.capacity() * (size_of::<u32>() + 1)
            + self.values.capacity() * size_of::<f64>()
            + self.sums.capacity() * size_of::<u128>()
            + self.exemplars.capacity() * (size_of::<((u32, u8, u8), Exemplar)>() + 1)
    }
}

impl Delta {
    fn has(&self, kind: FamilyKind) -> bool {
        match kind {
            FamilyKind::Counter(counter) => self.counters.get(counter).is_some_and(|value| *value != 0.0),
            FamilyKind::Histogram(histogram) => self
                .histograms
                .get(histogram)
                .is_some_and(|delta| !delta.buckets.is_empty()),
        }
    }
}

fn labels_of(entities: &[Option<Entity>], number: u32) -> &[u8] {
    match entities.get(number as usize) {
        Some(Some(entity)) => &entity.labels,
        _ => &[],
    }
}

/// Series that an entity takes up in a family (processors §4.3).
fn cost(family: Family, shape: &Shape) -> u64 {
    match family.kind {
        FamilyKind::Counter(_) => 1,
        FamilyKind::Histogram(histogram) => shape
            .histograms
            .get(histogram)
            .map_or(0, |bounds| bounds.buckets() + 2) as u64,
    }
}

fn mark_stale(
    out: &mut BatchWriter,
    labels: &SeriesLabels,
    family: Family,
    shape: &Shape,
    now_ms: i64,
    is_gone: impl Fn(Option<f64>) -> bool,
) {
    let marker = [(now_ms, STALE)];
    match family.kind {
        FamilyKind::Counter(_) => out.series(labels, family.name.as_bytes(), None, &marker, None),
        FamilyKind::Histogram(histogram) => {
            if let Some(bounds) = shape.histograms.get(histogram) {
                mark_stale_buckets(out, labels, family, bounds, now_ms, is_gone);
            }
            for suffix in ["_count", "_sum"] {
                let name = format!("{}{suffix}", family.name);
                out.series(labels, name.as_bytes(), None, &marker, None);
            }
        }
    }
}

/// Mark the buckets whose bound `is_gone`; the bound of +Inf is `None`.
fn mark_stale_buckets(
    out: &mut BatchWriter,
    labels: &SeriesLabels,
    family: Family,
    bounds: &Bounds,
    now_ms: i64,
    is_gone: impl Fn(Option<f64>) -> bool,
) {
    let name = format!("{}_bucket", family.name);
    for (bucket, text) in bounds.le_texts().iter().enumerate() {
        if is_gone(bounds.seconds.get(bucket).copied()) {
            out.series(labels, name.as_bytes(), Some(text), &[(now_ms, STALE)], None);
        }
    }
}

/// For each old bucket the new one that surely holds its observations; `None` where nothing changes.
fn bucket_map(old: &[f64], new: &Bounds) -> Option<Vec<usize>> {
    if old == new.seconds {
        return None;
    }
    let finite = old
        .iter()
        .map(|bound| new.seconds.iter().filter(|other| **other < *bound).count());
    Some(finite.chain([new.seconds.len()]).collect())
}

fn bucket_maps(old: &RecordShape, new: &Shape) -> Vec<Option<Vec<usize>>> {
    old.bounds
        .iter()
        .zip(&new.histograms)
        .map(|(old, new)| bucket_map(old, new))
        .collect()
}

fn rebucket(delta: &mut Delta, maps: &[Option<Vec<usize>>], shape: &Shape) {
    for (histogram, map) in maps.iter().enumerate() {
        let (Some(map), Some(HistogramDelta { buckets, .. })) = (map, delta.histograms.get_mut(histogram))
        else {
            continue;
        };
        for (bucket, _) in buckets.iter_mut() {
            *bucket = map.get(*bucket).copied().unwrap_or(*bucket);
        }
        for (own, bucket, exemplar) in &mut delta.exemplars {
            if *own == histogram
                && let Some(bounds) = shape.histograms.get(histogram)
            {
                *bucket = bounds.bucket(exemplar.rank.duration_ns());
            }
        }
    }
}

/// For each slot of the old shape the slot of the new one that its number moves to.
fn slot_map(old: &Shape, new: &Shape) -> Vec<usize> {
    let mut slots: Vec<usize> = (0..old.counters).collect();
    for ((old, new), offset) in old.histograms.iter().zip(&new.histograms).zip(new.offsets()) {
        let map = bucket_map(&old.seconds, new).unwrap_or_else(|| (0..old.buckets()).collect());
        slots.extend(map.into_iter().map(|bucket| offset + bucket));
    }
    slots
}

fn refuse(fault: &'static str) -> FrameError {
    FrameError {
        what: "record",
        fault,
    }
}

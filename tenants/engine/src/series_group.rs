//! The cumulative numbers of one processor of one tenant, by label set. `series_write.rs` makes series of them.

mod checkpoint;

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::budget::Budget;
use crate::error::FrameError;
use crate::exemplar::Exemplar;
use crate::family::{Family, FamilyKind};
use crate::group::{MAX_ENTITIES, NO_ENTITY, Shape, overflow_labels};
use crate::labels::Labels;
use crate::ledger::{Entry, Ledger, OTHER_SERVICES};
use crate::native_histogram::{NativeHistogram, NativeParameters};
use crate::native_schema::Schema;
use crate::rebucket::{rebucket, rebucketings, slot_map};
use crate::record::{Delta, RecordReader};
use crate::record_envelope::refuse;
use crate::rewriter::Rewriter;
use crate::sketch::{Sketch, Window};

pub(crate) use checkpoint::GroupState;

/// Most label sets that a group knows, admitted or not. Beyond it new ones are counted in the overflow entity.
const MAX_KNOWN: usize = 2 * MAX_ENTITIES;
/// Most bytes of their label sets, likewise.
const MAX_LABEL_BYTES: usize = 1 << 30;
const NO_ROW: u32 = u32::MAX;
/// In the place of the time since when a series counts: it begins with the next collection.
pub(crate) const NOT_YET: i64 = 0;

/// A label set.
#[derive(Debug)]
pub(crate) struct Entity {
    pub(crate) labels: Box<[u8]>,
    pub(crate) updated_at_ms: i64,
    /// Version of the rewriter under which `target` was found.
    version: u64,
    /// How many shards have a number for it, and how many label sets became this one.
    references: u32,
    /// What the rewriter made of it: the entity that counts its numbers, itself unless it was rewritten.
    target: u32,
    /// Where its numbers are, from its first admission on.
    pub(crate) row: u32,
    /// Bit by family: it has series within the limit.
    pub(crate) admitted: u8,
    /// Bit by family: its series were sent at least once.
    pub(crate) sent: u8,
    /// Bit by family: it is in the sketch of the window's newest slot.
    offered: u8,
    /// Low byte of that slot's number.
    offered_slot: u8,
    /// Bit by family: it was counted in since the last collection.
    pub(crate) news: u8,
    is_sanitized: bool,
}

/// What merging needs beside the group.
pub struct MergeContext<'m> {
    /// The time.
    pub now_ms: i64,
    /// The tenant's limit.
    pub budget: &'m mut Budget,
    /// What label sets go through; `None`: the group is of an info metric (processors §0.5).
    pub rewriter: Option<&'m mut Rewriter>,
    /// Distinct label sets of all groups.
    pub entity_demand: &'m mut Sketch,
    /// How native histograms stay within their bounds.
    pub native: NativeParameters,
    /// Native histograms that were reset.
    pub native_resets: &'m mut u64,
    /// Key of the hashes that sketches are fed with.
    pub seed: u64,
    /// Where updates that a limit puts into overflow are counted, if they are spans.
    pub folded: Option<&'m mut Ledger>,
}

/// The numbers of one processor.
#[derive(Debug)]
pub struct SeriesGroup {
    pub(crate) families: Vec<Family>,
    pub(crate) shape: Shape,
    pub(crate) offsets: Vec<usize>,
    pub(crate) stride: usize,
    /// What the last collection sent: which families, under which `le`.
    pub(crate) sent_families: Vec<Family>,
    pub(crate) sent_shape: Shape,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    pub(crate) entities: Vec<Option<Entity>>,
    /// Length of all label sets.
    label_bytes: usize,
    free: Vec<u32>,
    pub(crate) overflow: Option<u32>,
    pub(crate) values: Vec<f64>,
    /// Sums of observations, see [`crate::duration_sum`].
    pub(crate) sums: Vec<u128>,
    /// Native histograms, where there are any.
    pub(crate) natives: Vec<NativeHistogram>,
    /// Since when each of them counts, as receivers were told.
    pub(crate) native_starts: Vec<i64>,
    /// Since when the other series count, by row and family.
    pub(crate) starts: Vec<i64>,
    rows: u32,
    pub(crate) free_rows: Vec<u32>,
    /// Best exemplar since the last collection by entity, histogram and place.
    pub(crate) exemplars: HashMap<(u32, u8, u8), Exemplar>,
    /// The numbers that each shard gave to entities.
    sources: HashMap<u64, Vec<u32>>,
    window: Window,
    /// Distinct label sets offered to each family, before the limit (processors §4.10).
    demand: Vec<Sketch>,
}

impl SeriesGroup {
    /// An empty group.
    pub fn new(families: Vec<Family>, shape: Shape, window: Window, now_ms: i64) -> Self {
        Self {
            window,
            demand: families.iter().map(|_| Sketch::new(window, now_ms)).collect(),
            sent_families: families.clone(),
            sent_shape: shape.clone(),
            families,
            offsets: shape.offsets(),
            stride: shape.stride(),
            shape,
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            entities: Vec::new(),
            label_bytes: 0,
            free: Vec::new(),
            overflow: None,
            values: Vec::new(),
            sums: Vec::new(),
            natives: Vec::new(),
            native_starts: Vec::new(),
            starts: Vec::new(),
            rows: 0,
            free_rows: Vec::new(),
            exemplars: HashMap::new(),
            sources: HashMap::new(),
        }
    }

    /// Go on with other families or buckets. Counts move to the bucket that surely holds them: the one whose bound is
    /// the next at or above their old bound, so that `_sum`, `_count` and every bound that stays keep their values.
    /// Native histograms begin at nothing, and keep a resolution that is coarser than the new one; so do classic ones
    /// where there were none.
    pub fn set_families(
        &mut self,
        families: Vec<Family>,
        mut shape: Shape,
        now_ms: i64,
        budget: &mut Budget,
    ) {
        // What is off ends with the buckets that it had.
        for (index, (new, old)) in std::iter::zip(&mut shape.histograms, &self.shape.histograms).enumerate() {
            let kind = FamilyKind::Histogram(index);
            if !families
                .iter()
                .any(|family| family.is_enabled && family.kind == kind)
            {
                new.clone_from(old);
            }
        }
        let former = std::mem::replace(&mut self.families, families);
        for (family, former) in self.families.iter_mut().zip(&former) {
            family.is_ending = former.is_counted() && !family.is_enabled;
        }
        if shape == self.shape {
            return;
        }
        self.reprice(&shape, budget);
        let (old_stride, new_stride) = (self.stride, shape.stride());
        let slots = slot_map(&self.shape, &shape);
        let mut values = vec![0.0; self.rows as usize * new_stride];
        for row in 0..self.rows as usize {
            for (old, new) in slots.iter().enumerate() {
                if let (Some(from), Some(to)) = (
                    self.values.get(row * old_stride + old),
                    values.get_mut(row * new_stride + new),
                ) {
                    *to += from;
                }
            }
        }
        self.values = values;
        self.clear_new_classic(&shape);
        for ((entity, histogram, _), exemplar) in std::mem::take(&mut self.exemplars) {
            if let Some(histogram_shape) = shape.histograms.get(usize::from(histogram)) {
                let place = histogram_shape.exemplar_place(exemplar.rank.duration_ns());
                let slot = self.exemplars.entry((entity, histogram, place)).or_default();
                slot.offer(exemplar);
            }
        }
        self.offsets = shape.offsets();
        self.stride = new_stride;
        let former = std::mem::replace(&mut self.shape, shape);
        self.fit_natives(&former, now_ms);
    }

    /// Histograms with other buckets take up another number of series, sent or not.
    fn reprice(&self, shape: &Shape, budget: &mut Budget) {
        for (number, entity) in self.entities.iter().enumerate() {
            let Some(entity) = entity else {
                continue;
            };
            for (index, family) in self.families.iter().enumerate() {
                if entity.admitted & 1u8 << index != 0 && self.overflow != Some(number as u32) {
                    budget.change(family.cost(&self.shape), family.cost(shape));
                }
            }
        }
    }

    /// Classic series that begin must not begin with what was counted before: that would look like an increase.
    fn clear_new_classic(&mut self, shape: &Shape) {
        let (stride, histograms) = (shape.stride(), shape.histograms.len());
        let each = std::iter::zip(&self.shape.histograms, &shape.histograms).zip(shape.offsets());
        for (index, ((old, new), offset)) in each.enumerate() {
            if old.has_classic || !new.has_classic {
                continue;
            }
            for row in 0..self.rows as usize {
                let start = row * stride + offset;
                if let Some(counts) = self.values.get_mut(start..start + new.bounds.buckets()) {
                    counts.fill(0.0);
                }
                if let Some(sum) = self.sums.get_mut(row * histograms + index) {
                    *sum = 0;
                }
            }
        }
    }

    /// Give every row its native histograms: those that were there keep what they counted.
    fn fit_natives(&mut self, former: &Shape, now_ms: i64) {
        if !self.shape.has_native() {
            self.natives = Vec::new();
            self.native_starts = Vec::new();
            return;
        }
        let histograms = self.shape.histograms.len();
        self.native_starts
            .resize(self.rows as usize * histograms, NOT_YET);
        for row in 0..self.rows as usize {
            for (index, histogram) in self.shape.histograms.iter().enumerate() {
                let had_native = former
                    .histograms
                    .get(index)
                    .is_some_and(|old| old.native.is_some());
                let schema = histogram
                    .native
                    .as_ref()
                    .map_or(Schema::COARSEST, |finder| finder.schema());
                match self.natives.get_mut(row * histograms + index) {
                    Some(native) if had_native => native.coarsen(schema),
                    Some(native) => *native = NativeHistogram::new(schema, now_ms),
                    None => self.natives.push(NativeHistogram::new(schema, now_ms)),
                }
            }
        }
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
            if number as usize > MAX_ENTITIES {
                return Err(refuse("a number is out of range"));
            }
            changed.insert(number, true);
        }
        let deltas = record.count()?;
        if deltas > 0
            && (shape.counters != self.shape.counters
                || shape.histograms.len() != self.shape.histograms.len())
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
        context: &mut MergeContext<'_>,
    ) -> Result<(), FrameError> {
        let shape = record.shape()?;
        for _ in 0..record.count()? {
            let number = record.number()?;
            self.unmap(source, number);
        }
        for _ in 0..record.count()? {
            let (number, labels) = record.definition()?;
            self.unmap(source, number);
            self.map(source, number, labels, context.now_ms);
        }
        let deltas = record.count()?;
        let rebucketings = rebucketings(&shape, &self.shape);
        let schemas: Vec<_> = shape
            .histograms
            .iter()
            .map(|histogram| histogram.native)
            .collect();
        let mut delta = Delta::default();
        for _ in 0..deltas {
            record.delta(&shape, &mut delta)?;
            if let Some(each) = &rebucketings {
                rebucket(&mut delta, each, &self.shape);
            }
            let entity = self
                .sources
                .get(&source)
                .and_then(|numbers| numbers.get(delta.number as usize))
                .copied()
                .filter(|entity| *entity != NO_ENTITY)
                .ok_or(refuse("an entity was not defined"))?;
            // Counted by the record's own resolution, unless it was guessed in that of now.
            for (histogram, schema) in delta.histograms.iter_mut().zip(&schemas) {
                histogram.native_schema = *schema;
            }
            self.add(entity, &delta, context);
        }
        Ok(())
    }

    fn map(&mut self, source: u64, number: u32, labels: &[u8], now_ms: i64) {
        let entity = self.entity(labels, now_ms);
        self.refer(entity);
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
        if let Some(slot) = slot {
            let entity = std::mem::replace(slot, NO_ENTITY);
            self.unrefer(entity);
        }
    }

    fn refer(&mut self, number: u32) {
        if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
            entity.references += 1;
        }
    }

    fn unrefer(&mut self, number: u32) {
        if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
            entity.references = entity.references.saturating_sub(1);
        }
    }

    /// Drop the numbers of a shard that is gone.
    pub fn forget_source(&mut self, source: u64) {
        for entity in self.sources.remove(&source).unwrap_or_default() {
            self.unrefer(entity);
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
        // A tenant's own label set may be that of overflow; it is never admitted as another.
        let is_overflow = labels == overflow_labels();
        let is_full = self.entities.len() - self.free.len() >= MAX_KNOWN;
        if is_overflow || is_full || self.label_bytes + labels.len() > MAX_LABEL_BYTES {
            return self.overflow_entity(now_ms);
        }
        self.insert(labels, hash, now_ms)
    }

    fn overflow_entity(&mut self, now_ms: i64) -> u32 {
        if let Some(number) = self.overflow {
            return number;
        }
        let labels = overflow_labels();
        let hash = self.hasher.hash_one(&*labels);
        let entities = &self.entities;
        let known = self
            .numbers
            .find(hash, |number| labels_of(entities, *number) == &*labels)
            .copied();
        let number = known.unwrap_or_else(|| self.insert(&labels, hash, now_ms));
        self.overflow = Some(number);
        number
    }

    fn insert(&mut self, labels: &[u8], hash: u64, now_ms: i64) -> u32 {
        self.label_bytes += labels.len();
        let number = self.free.pop().unwrap_or(self.entities.len() as u32);
        let entity = Some(Entity {
            labels: labels.into(),
            updated_at_ms: now_ms,
            version: 0,
            references: 0,
            target: number,
            row: NO_ROW,
            admitted: 0,
            sent: 0,
            offered: 0,
            offered_slot: 0,
            news: 0,
            is_sanitized: false,
        });
        match self.entities.get_mut(number as usize) {
            Some(slot) => *slot = entity,
            None => self.entities.push(entity),
        }
        let (entities, hasher) = (&self.entities, &self.hasher);
        self.numbers.insert_unique(hash, number, |number| {
            hasher.hash_one(labels_of(entities, *number))
        });
        number
    }

    fn add(&mut self, raw: u32, delta: &Delta, context: &mut MergeContext<'_>) {
        let target = self.target(raw, delta.updates, context);
        // Not of `raw`: what it counted before it became another ends when it is stale.
        if let Some(Some(entity)) = self.entities.get_mut(target as usize) {
            entity.updated_at_ms = entity.updated_at_ms.max(context.now_ms);
        }
        let mut is_folded = self.overflow == Some(target);
        for index in 0..self.families.len() {
            let Some(family) = self.families.get(index) else {
                continue;
            };
            let kind = family.kind;
            if !family.is_counted() || !delta.has(kind) {
                continue;
            }
            self.offer(target, index, context);
            let place = self.admit(target, index, context);
            is_folded |= place != target;
            if let Some(Some(entity)) = self.entities.get_mut(place as usize) {
                entity.news |= 1u8 << index;
            }
            self.add_numbers(place, kind, delta, context);
        }
        if is_folded && let Some(ledger) = context.folded.as_mut() {
            let service = service_of(labels_of(&self.entities, raw));
            ledger.add_bounded(service, Entry::Folded, u64::from(delta.updates));
        }
    }

    /// The entity that counts what `raw` does: another where span names are learned or a label has too many values.
    fn target(&mut self, raw: u32, updates: u32, context: &mut MergeContext<'_>) -> u32 {
        let Some(rewriter) = context.rewriter.as_mut().filter(|rewriter| rewriter.is_active()) else {
            return raw;
        };
        let Some(Some(entity)) = self.entities.get(raw as usize) else {
            return raw;
        };
        if entity.version == rewriter.version() && entity.target == raw && !entity.is_sanitized {
            return raw;
        }
        let rewritten = rewriter.rewrite(&entity.labels, updates, context.now_ms);
        let version = rewriter.version();
        let target = match rewritten.set {
            Some(labels) => self.entity(&labels, context.now_ms),
            None => raw,
        };
        // What a label set points to must not leave before it does.
        if target != raw {
            self.refer(target);
        }
        let mut before = raw;
        if let Some(Some(entity)) = self.entities.get_mut(raw as usize) {
            before = std::mem::replace(&mut entity.target, target);
            entity.version = version;
            entity.is_sanitized = rewritten.is_sanitized;
        }
        if before != raw {
            self.unrefer(before);
        }
        target
    }

    /// Note in the sketches that the entity asks for a place in the family.
    fn offer(&mut self, number: u32, index: usize, context: &mut MergeContext<'_>) {
        let (bit, now_ms) = (1u8 << index, context.now_ms);
        let Some(sketch) = self.demand.get_mut(index) else {
            return;
        };
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        let slot = self.window.slot(now_ms) as u8;
        if entity.offered_slot != slot {
            (entity.offered_slot, entity.offered) = (slot, 0);
        }
        if entity.offered & bit == 0 {
            let hash = xxh3_64_with_seed(&entity.labels, context.seed);
            sketch.insert(hash, now_ms);
            if entity.offered == 0 {
                context.entity_demand.insert(hash, now_ms);
            }
            entity.offered |= bit;
        }
    }

    /// The entity that this family's numbers go to: itself, or overflow if the limit does not let it in.
    fn admit(&mut self, number: u32, index: usize, context: &mut MergeContext<'_>) -> u32 {
        let bit = 1u8 << index;
        let is_overflow = self.overflow == Some(number);
        let cost = self
            .families
            .get(index)
            .map_or(0, |family| family.cost(&self.shape));
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return number;
        };
        if entity.admitted & bit != 0 {
            return number;
        }
        if is_overflow || context.budget.admit(cost, entity.admitted != 0) {
            entity.admitted |= bit;
            self.give_row(number, context.now_ms);
            return number;
        }
        let overflow = self.overflow_entity(context.now_ms);
        if let Some(Some(entity)) = self.entities.get_mut(overflow as usize) {
            let is_new = entity.admitted == 0;
            entity.admitted |= bit;
            entity.updated_at_ms = entity.updated_at_ms.max(context.now_ms);
            if is_new {
                context
                    .entity_demand
                    .insert(xxh3_64_with_seed(&entity.labels, context.seed), context.now_ms);
            }
        }
        self.give_row(overflow, context.now_ms);
        overflow
    }

    fn give_row(&mut self, number: u32, now_ms: i64) {
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        if entity.row != NO_ROW {
            return;
        }
        if let Some(row) = self.free_rows.pop() {
            entity.row = row;
            return;
        }
        entity.row = self.rows;
        self.rows += 1;
        let (rows, histograms) = (self.rows as usize, self.shape.histograms.len());
        self.values.resize(rows * self.stride, 0.0);
        self.sums.resize(rows * histograms, 0);
        self.starts.resize(rows * self.families.len(), NOT_YET);
        if self.shape.has_native() {
            let schemas = self.shape.histograms.iter().map(|histogram| {
                let finder = histogram.native.as_ref();
                finder.map_or(Schema::COARSEST, |finder| finder.schema())
            });
            self.natives
                .extend(schemas.map(|schema| NativeHistogram::new(schema, now_ms)));
            self.native_starts.resize(rows * histograms, NOT_YET);
        }
    }

    fn add_numbers(&mut self, number: u32, kind: FamilyKind, delta: &Delta, context: &mut MergeContext<'_>) {
        let Some(Some(entity)) = self.entities.get(number as usize) else {
            return;
        };
        let row = entity.row as usize;
        let base = row * self.stride;
        match kind {
            FamilyKind::Gauge(_) => {}
            FamilyKind::Counter(counter) => {
                if let (Some(value), Some(more)) =
                    (self.values.get_mut(base + counter), delta.counters.get(counter))
                {
                    *value += more;
                }
            }
            FamilyKind::Histogram(histogram) => {
                let (Some(more), Some(offset), Some(shape)) = (
                    delta.histograms.get(histogram),
                    self.offsets.get(histogram),
                    self.shape.histograms.get(histogram),
                ) else {
                    return;
                };
                for (bucket, count) in &more.buckets {
                    if let Some(value) = self.values.get_mut(base + offset + bucket) {
                        *value += count;
                    }
                }
                let at = row * self.shape.histograms.len() + histogram;
                if let Some(sum) = self.sums.get_mut(at) {
                    *sum = sum.saturating_add(more.sum);
                }
                if let (Some(finder), Some(native)) = (&shape.native, self.natives.get_mut(at)) {
                    let schema = more.native_schema.unwrap_or(finder.schema());
                    let is_reset =
                        native.merge(&more.native, schema, more.sum, context.now_ms, &context.native);
                    *context.native_resets += u64::from(is_reset);
                    if is_reset && let Some(start) = self.native_starts.get_mut(at) {
                        *start = NOT_YET;
                    }
                }
                for (own, place, exemplar) in &delta.exemplars {
                    if *own == histogram {
                        let key = (number, histogram as u8, *place as u8);
                        self.exemplars.entry(key).or_default().offer(*exemplar);
                    }
                }
            }
        }
    }

    /// Set what a family shows of an entity back to nothing.
    pub(crate) fn zero(&mut self, row: u32, kind: FamilyKind, now_ms: i64) {
        let row = row as usize;
        let base = row * self.stride;
        match kind {
            FamilyKind::Counter(counter) => {
                if let Some(value) = self.values.get_mut(base + counter) {
                    *value = 0.0;
                }
            }
            FamilyKind::Gauge(_) => {}
            FamilyKind::Histogram(histogram) => {
                let (Some(offset), Some(shape)) =
                    (self.offsets.get(histogram), self.shape.histograms.get(histogram))
                else {
                    return;
                };
                let start = base + offset;
                if let Some(values) = self.values.get_mut(start..start + shape.bounds.buckets()) {
                    values.fill(0.0);
                }
                let at = row * self.shape.histograms.len() + histogram;
                if let Some(sum) = self.sums.get_mut(at) {
                    *sum = 0;
                }
                if let (Some(finder), Some(native)) = (&shape.native, self.natives.get_mut(at)) {
                    *native = NativeHistogram::new(finder.schema(), now_ms);
                }
            }
        }
    }

    /// Take an entity's row away; its numbers must have been zeroed.
    pub(crate) fn free_row(&mut self, number: u32) {
        if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
            let row = std::mem::replace(&mut entity.row, NO_ROW);
            if row != NO_ROW {
                self.free_rows.push(row);
            }
        }
    }

    /// Forget a label set that has no series, that no shard knows, and that nothing became.
    pub(crate) fn drop_unreferenced(&mut self, number: u32, stale_before_ms: i64) {
        let slot = self.entities.get_mut(number as usize);
        if let Some(slot) = slot
            && let Some(entity) = slot
            && entity.references == 0
            && entity.admitted == 0
            && entity.updated_at_ms < stale_before_ms
        {
            let hash = self.hasher.hash_one(&*entity.labels);
            let target = entity.target;
            self.label_bytes -= entity.labels.len();
            *slot = None;
            if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
                entry.remove();
            }
            if self.overflow == Some(number) {
                self.overflow = None;
            }
            self.free.push(number);
            if target != number {
                self.unrefer(target);
            }
        }
    }

    /// Distinct series that were asked for within the window, before the limit (processors §4.10).
    pub fn series_demand(&mut self, now_ms: i64) -> u64 {
        let costs = self.families.iter().map(|family| family.cost(&self.shape));
        std::iter::zip(&mut self.demand, costs)
            .map(|(sketch, cost)| sketch.estimate(now_ms) * cost)
            .sum()
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
        let sources: usize = self
            .sources
            .values()
            .map(|numbers| numbers.capacity() * size_of::<u32>())
            .sum();
        let natives: usize = self
            .natives
            .iter()
            .map(|native| size_of::<NativeHistogram>() + native.heap_bytes())
            .sum();
        self.label_bytes
            + sources
            + natives
            + self.entities.capacity() * size_of::<Option<Entity>>()
            + (self.free.capacity() + self.free_rows.capacity()) * size_of::<u32>()
            + self.numbers.capacity() * (size_of::<u32>() + 1)
            + self.values.capacity() * size_of::<f64>()
            + self.sums.capacity() * size_of::<u128>()
            + (self.starts.capacity() + self.native_starts.capacity()) * size_of::<i64>()
            + self.exemplars.capacity() * (size_of::<((u32, u8, u8), Exemplar)>() + 1)
            + self.demand.iter().map(Sketch::state_bytes).sum::<usize>()
    }
}

impl Delta {
    fn has(&self, kind: FamilyKind) -> bool {
        match kind {
            FamilyKind::Counter(counter) | FamilyKind::Gauge(counter) => {
                self.counters.get(counter).is_some_and(|value| *value != 0.0)
            }
            FamilyKind::Histogram(histogram) => self
                .histograms
                .get(histogram)
                .is_some_and(|delta| !delta.buckets.is_empty()),
        }
    }
}

/// The service that a label set of span metrics is of, if it says so.
fn service_of(labels: &[u8]) -> &[u8] {
    let mut labels = Labels(labels);
    labels
        .find(|(name, _)| *name == b"service")
        .map_or(OTHER_SERVICES, |(_, service)| service)
}

fn labels_of(entities: &[Option<Entity>], number: u32) -> &[u8] {
    match entities.get(number as usize) {
        Some(Some(entity)) => &entity.labels,
        _ => &[],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::group::{Group, HistogramShape};
    use crate::record::{GroupWriter, ShardCounters};

    fn shape(counters: usize, histograms: usize) -> Shape {
        Shape {
            counters,
            histograms: vec![HistogramShape::default(); histograms],
        }
    }

    #[test]
    fn a_record_of_another_processor_is_refused() {
        let registry = SeriesGroup::new(Vec::new(), shape(2, 1), Window::of(0), 0);
        for (counters, histograms, is_taken) in [(2, 1, true), (1, 1, false), (2, 0, false), (3, 2, false)] {
            let mut shard = Group::new(shape(counters, histograms));
            let entity = shard.entity(&overflow_labels(), 0);
            shard.update(entity).unwrap().add(0, 1.0);
            let mut out = GroupWriter::new(&ShardCounters::default(), &Ledger::default(), 1);
            shard.flush(&mut out);
            let record = out.finish();
            let checked = registry.check(0, &mut RecordReader::new(&record).unwrap());
            assert_eq!(
                checked.is_ok(),
                is_taken,
                "{counters} counters, {histograms} histograms"
            );
        }
    }
}

//! A group in a checkpoint: all but exemplars, which the next collection sends or nobody misses.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use serde::{Deserialize, Serialize};

use super::{Entity, NO_ROW, SeriesGroup, labels_of};
use crate::bounds::Bounds;
use crate::checkpoint::{Amount, Sparse, Sum, check_each, differences, refuse, steps};
use crate::error::FrameError;
use crate::family::{Family, FamilyKind};
use crate::group::{HistogramShape, NO_ENTITY, Shape, overflow_labels};
use crate::native_histogram::NativeHistogram;
use crate::native_schema::{BucketFinder, Schema};
use crate::sketch::{Sketch, Window};

/// A group. What is nearly the same in neighbours is written as the step from one to the next.
#[derive(Serialize, Deserialize)]
pub(crate) struct GroupState<'a> {
    families: Vec<FamilyState<'a>>,
    shape: Vec<HistogramState>,
    sent_families: Vec<FamilyState<'a>>,
    sent_shape: Vec<HistogramState>,
    #[serde(borrow)]
    entities: Vec<Option<EntityState<'a>>>,
    free: Cow<'a, [u32]>,
    free_rows: Cow<'a, [u32]>,
    values: Sparse<Amount>,
    sums: Sparse<Sum>,
    natives: Cow<'a, [NativeHistogram]>,
    #[serde(with = "differences")]
    native_starts: Cow<'a, [i64]>,
    #[serde(with = "differences")]
    starts: Cow<'a, [i64]>,
    sources: Vec<SourceState<'a>>,
    window: Window,
    demand: Cow<'a, [Sketch]>,
}

/// A metric; its kind follows from its place.
#[derive(Serialize, Deserialize)]
struct FamilyState<'a> {
    name: &'a str,
    is_enabled: bool,
    is_ending: bool,
}

/// The buckets of a histogram.
#[derive(Serialize, Deserialize)]
struct HistogramState {
    bounds: Vec<f64>,
    has_classic: bool,
    native: Option<Schema>,
}

/// A label set. How often it is referred to follows from what refers to it.
#[derive(Serialize, Deserialize)]
struct EntityState<'a> {
    labels: &'a [u8],
    updated_ms_after: i64,
    version: u64,
    /// `None`: itself.
    target: Option<u32>,
    /// From the row of the one before to its own, of those that have one.
    row_step: Option<i64>,
    admitted: u8,
    sent: u8,
    offered: u8,
    offered_slot: u8,
    news: u8,
    is_sanitized: bool,
}

/// The numbers of a shard.
#[derive(Serialize, Deserialize)]
struct SourceState<'a> {
    source: u64,
    #[serde(with = "steps")]
    entities: Cow<'a, [u32]>,
}

impl SeriesGroup {
    /// What a checkpoint holds of it.
    pub(crate) fn state(&self) -> GroupState<'_> {
        let mut sources: Vec<SourceState<'_>> = self.sources.iter().map(source_state).collect();
        // The same state has the same bytes.
        sources.sort_unstable_by_key(|state| state.source);
        GroupState {
            families: self.families.iter().map(FamilyState::of).collect(),
            shape: self.shape.histograms.iter().map(HistogramState::of).collect(),
            sent_families: self.sent_families.iter().map(FamilyState::of).collect(),
            sent_shape: self
                .sent_shape
                .histograms
                .iter()
                .map(HistogramState::of)
                .collect(),
            entities: entity_states(&self.entities),
            free: Cow::Borrowed(&self.free),
            free_rows: Cow::Borrowed(&self.free_rows),
            values: Sparse::of(self.values.iter().copied().map(Amount)),
            sums: Sparse::of(self.sums.iter().copied().map(Sum)),
            natives: Cow::Borrowed(&self.natives),
            native_starts: Cow::Borrowed(&self.native_starts),
            starts: Cow::Borrowed(&self.starts),
            sources,
            window: self.window,
            demand: Cow::Borrowed(&self.demand),
        }
    }

    /// The group of a checkpoint, under settings that lay it out like this.
    pub(crate) fn restored(
        state: GroupState<'_>,
        families: &[Family],
        shape: &Shape,
    ) -> Result<Self, FrameError> {
        let mut group = Self::new(families.to_vec(), shape.clone(), state.window, 0);
        if state.demand.len() != group.demand.len() {
            return Err(refuse("another number of metrics"));
        }
        group.demand = state.demand.into_owned();
        group.sent_families = restored_families(&state.sent_families, families)?;
        group.sent_shape = restored_shape(state.sent_shape, shape)?;
        group.families = restored_families(&state.families, families)?;
        group.shape = restored_shape(state.shape, shape)?;
        group.check_layout(families, shape)?;
        (group.offsets, group.stride) = (group.shape.offsets(), group.shape.stride());

        group.entities = restored_entities(state.entities)?;
        let mut is_empty: Vec<bool> = group.entities.iter().map(Option::is_none).collect();
        check_each(&state.free, &mut is_empty)?;
        group.free = state.free.into_owned();
        group.restore_numbers()?;
        group.restore_rows(state.free_rows.into_owned())?;
        let (rows, histograms) = (group.rows as usize, group.shape.histograms.len());
        let values = state.values.filled(rows * group.stride)?;
        group.values = values.into_iter().map(|Amount(value)| value).collect();
        let sums = state.sums.filled(rows * histograms)?;
        group.sums = sums.into_iter().map(|Sum(sum)| sum).collect();
        group.natives = state.natives.into_owned();
        let has_native = group.shape.has_native();
        if group.natives.len() != if has_native { rows * histograms } else { 0 } {
            return Err(refuse("another number of native histograms"));
        }
        group.native_starts = state.native_starts.into_owned();
        group.starts = state.starts.into_owned();
        if group.native_starts.len() != group.natives.len() || group.starts.len() != rows * families.len() {
            return Err(refuse("another number of beginnings"));
        }
        for source in state.sources {
            group.sources.insert(source.source, source.entities.into_owned());
        }
        group.restore_references()?;
        Ok(group)
    }

    /// What the settings ask for is what they asked for when the checkpoint was made. What is off may have any name and
    /// any buckets: those that it had.
    fn check_layout(&self, families: &[Family], shape: &Shape) -> Result<(), FrameError> {
        let is_same = std::iter::zip(&self.families, families).all(|(own, asked)| {
            let has_buckets = match own.kind {
                FamilyKind::Histogram(index) => {
                    self.shape.histograms.get(index) == shape.histograms.get(index)
                }
                FamilyKind::Counter(_) | FamilyKind::Gauge(_) => true,
            };
            own.is_enabled == asked.is_enabled && (!own.is_enabled || own.name == asked.name && has_buckets)
        });
        is_same.then_some(()).ok_or(refuse(
            "made under settings with other metrics or buckets; restore it with those and change them afterwards",
        ))
    }

    /// Find every label set again.
    fn restore_numbers(&mut self) -> Result<(), FrameError> {
        let mut numbers = HashTable::with_capacity(self.entities.len());
        let entities = &self.entities;
        let hash = |labels: &[u8]| self.hasher.hash_one(labels);
        for (number, entity) in (0u32..).zip(entities) {
            let Some(entity) = entity else {
                continue;
            };
            let entry = numbers.entry(
                hash(&entity.labels),
                |other| labels_of(entities, *other) == &*entity.labels,
                |other| hash(labels_of(entities, *other)),
            );
            let Entry::Vacant(place) = entry else {
                return Err(refuse("a label set is there twice"));
            };
            place.insert(number);
            if *entity.labels == *overflow_labels() {
                self.overflow = Some(number);
            }
        }
        self.label_bytes = self
            .entities
            .iter()
            .flatten()
            .map(|entity| entity.labels.len())
            .sum();
        self.numbers = numbers;
        Ok(())
    }

    /// Every row belongs to one label set or is free.
    fn restore_rows(&mut self, free_rows: Vec<u32>) -> Result<(), FrameError> {
        let owned = self.entities.iter().flatten().map(|entity| entity.row);
        let mut rows: Vec<u32> = owned.filter(|row| *row != NO_ROW).collect();
        rows.extend_from_slice(&free_rows);
        check_each(&rows, &mut vec![true; rows.len()])?;
        self.rows = rows.len() as u32;
        self.free_rows = free_rows;
        Ok(())
    }

    /// Count what refers to each label set.
    fn restore_references(&mut self) -> Result<(), FrameError> {
        let by_shards = self.sources.values().flatten().copied();
        let by_shards = by_shards.filter(|number| *number != NO_ENTITY);
        let targets = (0u32..).zip(&self.entities).filter_map(|(number, entity)| {
            let target = entity.as_ref()?.target;
            (target != number).then_some(target)
        });
        let mut references = vec![0; self.entities.len()];
        for number in by_shards.chain(targets) {
            let count = references.get_mut(number as usize);
            *count.ok_or(refuse("a label set is missing"))? += 1;
        }
        for (entity, references) in std::iter::zip(&mut self.entities, references) {
            match entity {
                Some(entity) => entity.references = references,
                None if references > 0 => return Err(refuse("a label set is missing")),
                None => {}
            }
        }
        Ok(())
    }
}

fn source_state<'a>((source, entities): (&u64, &'a Vec<u32>)) -> SourceState<'a> {
    SourceState {
        source: *source,
        entities: Cow::Borrowed(entities),
    }
}

fn entity_states(entities: &[Option<Entity>]) -> Vec<Option<EntityState<'_>>> {
    let (mut updated_at_ms, mut row) = (0, 0);
    let states = (0u32..).zip(entities).map(|(number, entity)| {
        let entity = entity.as_ref()?;
        let before_ms = std::mem::replace(&mut updated_at_ms, entity.updated_at_ms);
        let row_step = (entity.row != NO_ROW).then(|| {
            let own = i64::from(entity.row);
            own - std::mem::replace(&mut row, own)
        });
        Some(EntityState {
            labels: &entity.labels,
            updated_ms_after: updated_at_ms.wrapping_sub(before_ms),
            version: entity.version,
            target: (entity.target != number).then_some(entity.target),
            row_step,
            admitted: entity.admitted,
            sent: entity.sent,
            offered: entity.offered,
            offered_slot: entity.offered_slot,
            news: entity.news,
            is_sanitized: entity.is_sanitized,
        })
    });
    states.collect()
}

fn restored_entities(states: Vec<Option<EntityState<'_>>>) -> Result<Vec<Option<Entity>>, FrameError> {
    let (mut updated_at_ms, mut row) = (0i64, 0i64);
    let entities = (0u32..).zip(states).map(|(number, state)| {
        let Some(state) = state else {
            return Ok(None);
        };
        updated_at_ms = updated_at_ms.wrapping_add(state.updated_ms_after);
        let mut own_row = NO_ROW;
        if let Some(step) = state.row_step {
            row = row.wrapping_add(step);
            own_row = u32::try_from(row).map_err(|_| refuse("a row is out of range"))?;
        } else if state.admitted != 0 {
            return Err(refuse("a label set has series and no row"));
        }
        Ok(Some(Entity {
            labels: state.labels.into(),
            updated_at_ms,
            version: state.version,
            references: 0,
            target: state.target.unwrap_or(number),
            row: own_row,
            admitted: state.admitted,
            sent: state.sent,
            offered: state.offered,
            offered_slot: state.offered_slot,
            news: state.news,
            is_sanitized: state.is_sanitized,
        }))
    });
    entities.collect()
}

impl<'a> FamilyState<'a> {
    fn of(family: &'a Family) -> Self {
        Self {
            name: &family.name,
            is_enabled: family.is_enabled,
            is_ending: family.is_ending,
        }
    }
}

fn restored_families(states: &[FamilyState<'_>], asked: &[Family]) -> Result<Vec<Family>, FrameError> {
    if states.len() != asked.len() {
        return Err(refuse("another number of metrics"));
    }
    let restored = std::iter::zip(states, asked).map(|(state, asked)| {
        let mut family = Family::new(state.name, asked.kind, state.is_enabled)
            .with_exemplar(asked.exemplar)
            .described(asked.metadata.help, asked.metadata.unit);
        family.is_ending = state.is_ending;
        family
    });
    Ok(restored.collect())
}

impl HistogramState {
    fn of(histogram: &HistogramShape) -> Self {
        Self {
            bounds: histogram.bounds.seconds.clone(),
            has_classic: histogram.has_classic,
            native: histogram.native.as_ref().map(|finder| finder.schema()),
        }
    }

    fn restored(self) -> Result<HistogramShape, FrameError> {
        let bounds = Bounds::new("", &self.bounds).map_err(|_| refuse("bounds are out of range"))?;
        Ok(HistogramShape {
            bounds: Arc::new(bounds),
            has_classic: self.has_classic,
            native: self.native.map(|schema| Arc::new(BucketFinder::new(schema))),
        })
    }
}

/// The shape, with the plan's own buckets where they are equal: they take memory.
fn restored_shape(states: Vec<HistogramState>, asked: &Shape) -> Result<Shape, FrameError> {
    if states.len() != asked.histograms.len() {
        return Err(refuse("another number of histograms"));
    }
    let histograms = std::iter::zip(states, &asked.histograms).map(|(state, asked)| {
        let histogram = state.restored()?;
        Ok(if histogram == *asked {
            asked.clone()
        } else {
            histogram
        })
    });
    Ok(Shape {
        counters: asked.counters,
        histograms: histograms.collect::<Result<_, FrameError>>()?,
    })
}

//! From the numbers of a group to series: samples, zero samples, exemplars, and markers where series end.

use crate::budget::Budget;
use crate::duration_sum;
use crate::exemplar::Exemplar;
use crate::family::{CounterExemplar, Family, FamilyKind};
use crate::group::{HistogramShape, Shape};
use crate::native_exemplars::choose_exemplars;
use crate::remote_write::{BatchWriter, ExemplarOut, ExternalLabels, STALE};
use crate::remote_write_histogram::{CountForm, NativeSample, NativeValue};
use crate::series_group::{NOT_YET, SeriesGroup};

/// How far before its first value a series begins, at most. After an outage the collection before may be hours ago, and a
/// receiver whose other writers went on refuses what is so old: Prometheus what is an hour older than its newest sample.
/// Five minutes are as far as a query looks back for a sample, by default: with more there would be a gap before the value.
const MOST_ZERO_AGE_MS: i64 = 300_000;

/// When a collection happens, and what it stamps on everything.
pub struct Moment<'a> {
    /// Timestamp of every sample.
    pub now_ms: i64,
    /// Timestamp of the collection before.
    pub before_ms: i64,
    /// Series last updated before this end.
    pub stale_before_ms: i64,
    /// Label of exemplars that carries the trace id.
    pub trace_id_label: &'a str,
    /// Labels set on every series.
    pub external: &'a ExternalLabels,
    /// Native histograms are written with fractions.
    pub is_weighted: bool,
    /// Whether the settings of now can still make a label set; `None`: all of them were made under these settings.
    pub can_produce: Option<CanProduce<'a>>,
}

/// Tells of a label set whether the settings of now can still make it.
pub type CanProduce<'a> = &'a dyn Fn(&[u8]) -> bool;

/// How much of a series is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Its value.
    Value,
    /// What it came to since it was last sent, and that it ended.
    Last,
}

/// Up to three samples of a series, oldest first.
struct Points {
    points: [(i64, f64); 3],
    len: usize,
}

impl Points {
    fn get(&self) -> &[(i64, f64)] {
        self.points.get(..self.len).unwrap_or_default()
    }
}

impl Moment<'_> {
    /// After everything that was sent before, and before the first value, but not long before it.
    fn zero_ms(&self) -> i64 {
        let oldest_ms = self.now_ms.saturating_sub(MOST_ZERO_AGE_MS);
        self.before_ms.saturating_add(1).max(oldest_ms)
    }

    /// Where a value goes that is the last: just before the marker, if there is room after a zero sample.
    fn last_ms(&self) -> Option<i64> {
        Some(self.now_ms - 1).filter(|last_ms| *last_ms > self.zero_ms())
    }

    fn points(&self, value: f64, part: Part, needs_zero: bool) -> Points {
        let mut points = Points {
            points: [(0, 0.0); 3],
            len: 0,
        };
        let mut put = |at_ms, value| {
            if let Some(point) = points.points.get_mut(points.len) {
                *point = (at_ms, value);
                points.len += 1;
            }
        };
        let has_value = part == Part::Value || (part == Part::Last && self.last_ms().is_some());
        if needs_zero && has_value && self.zero_ms() < self.now_ms {
            put(self.zero_ms(), 0.0);
        }
        match (part, self.last_ms()) {
            (Part::Value, _) => put(self.now_ms, value),
            (Part::Last, Some(last_ms)) => put(last_ms, value),
            _ => {}
        }
        if part != Part::Value {
            put(self.now_ms, STALE);
        }
        points
    }
}

impl SeriesGroup {
    /// Write every series, and markers for those that ended.
    pub fn collect(&mut self, out: &mut BatchWriter, moment: &Moment<'_>, budget: &mut Budget) {
        let le = le_texts(&self.shape);
        let mut sent = 0;
        if moment.can_produce.is_none() {
            // Whatever was counted before the settings changed is here by now.
            self.families
                .iter_mut()
                .for_each(|family| family.is_ending = false);
        }
        let is_same_layout = self.sent_families == self.families && self.sent_shape == self.shape;
        let has_ending = self.families.iter().any(|family| family.is_ending);
        let series = self.series_per_entity();
        let first_freed = self.free_rows.len();
        for number in self.numbers_in_order(out.needs_order()) {
            let Some(Some(entity)) = self.entities.get(number as usize) else {
                continue;
            };
            if entity.admitted == 0 && entity.sent == 0 {
                continue;
            }
            let is_stale = entity.updated_at_ms < moment.stale_before_ms;
            let is_overflow = self.overflow == Some(number);
            let is_unmade = !is_overflow
                && moment
                    .can_produce
                    .is_some_and(|can_produce| !can_produce(&entity.labels));
            let most_samples = series * if is_unmade { 3 } else { 2 };
            out.next_entity(&entity.labels, moment.external, most_samples);
            let has_news = entity.news != 0;
            // What ends as a whole, below, ends under what was sent: it must not be told twice.
            if (!is_same_layout || has_ending) && !is_stale && (!is_unmade || has_news) {
                self.end_dropped_series(number, out, &le, moment, budget);
            }
            if is_unmade && has_news && !is_stale {
                self.write(number, out, &le, moment, Part::Last);
                self.end(number, &mut None, moment, budget);
            } else if is_unmade || is_stale {
                self.end(number, &mut Some(out), moment, budget);
            } else {
                self.write(number, out, &le, moment, Part::Value);
            }
            if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
                entity.news = 0;
                sent |= entity.sent;
            }
        }
        for (index, family) in self.families.iter().enumerate() {
            if sent & 1u8 << index != 0 {
                out.describe(family);
            }
        }
        // Not while writing: who comes first there depends on the rules of endpoints, and what remains must not.
        for number in 0..self.entities.len() as u32 {
            self.drop_unreferenced(number, moment.stale_before_ms);
        }
        if let Some(freed) = self.free_rows.get_mut(first_freed..) {
            freed.sort_unstable();
        }
        self.exemplars.clear();
        self.sent_families.clone_from(&self.families);
        self.sent_shape = self.shape.clone();
    }

    /// The numbers of all entities; by label set if it matters which comes first, because numbers depend on who arrived
    /// first and on the number of shards.
    fn numbers_in_order(&self, is_by_labels: bool) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..self.entities.len() as u32).collect();
        if is_by_labels {
            numbers.sort_by_key(|number| {
                let entity = self.entities.get(*number as usize)?.as_ref();
                entity.map(|entity| &*entity.labels)
            });
        }
        numbers
    }

    fn write(
        &mut self,
        number: u32,
        out: &mut BatchWriter,
        le: &[Vec<String>],
        moment: &Moment<'_>,
        part: Part,
    ) {
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        let (admitted, sent, row) = (entity.admitted, entity.sent, entity.row as usize);
        entity.sent = admitted;
        for index in 0..self.families.len() {
            let bit = 1u8 << index;
            let is_written = |family: &Family| admitted & bit != 0 && family.is_enabled;
            if self.families.get(index).is_some_and(is_written) {
                let is_new = sent & bit == 0;
                let written = Written {
                    number,
                    row,
                    is_new,
                    part,
                    starts: self.begin(row, index, is_new, moment),
                };
                if let Some(family) = self.families.get(index) {
                    self.write_family(&written, family, out, le, moment);
                }
            }
        }
    }

    /// Since when the series of a family count. Those that are sent for the first time begin with the zero sample before
    /// their first value, and a native histogram that was reset where that would be.
    fn begin(&mut self, row: usize, index: usize, is_new: bool, moment: &Moment<'_>) -> Starts {
        let start_ms = moment.zero_ms().min(moment.now_ms - 1);
        let Some(family) = self.families.get(index) else {
            return Starts::default();
        };
        let mut is_new_classic = is_new;
        if let FamilyKind::Histogram(histogram) = family.kind {
            let sent_shape = self.sent_shape.histograms.get(histogram);
            is_new_classic |= !sent_shape.is_some_and(|shape| shape.has_classic);
            let had_native = sent_shape.is_some_and(|shape| shape.native.is_some());
            let at = row * self.shape.histograms.len() + histogram;
            if let Some(native) = self.native_starts.get_mut(at)
                && (is_new || !had_native || *native == NOT_YET)
            {
                *native = start_ms;
            }
        }
        if is_new_classic && let Some(start) = self.starts.get_mut(row * self.families.len() + index) {
            *start = start_ms;
        }
        self.starts(row, index)
    }

    /// Since when the series of a family count, as receivers were told.
    fn starts(&self, row: usize, index: usize) -> Starts {
        let Some(family) = self.families.get(index) else {
            return Starts::default();
        };
        let start = self.starts.get(row * self.families.len() + index).copied();
        let start_ms = start.unwrap_or(NOT_YET);
        match family.kind {
            FamilyKind::Gauge(_) => Starts::default(),
            FamilyKind::Counter(_) => Starts {
                start_ms,
                native_ms: NOT_YET,
            },
            FamilyKind::Histogram(histogram) => {
                let at = row * self.shape.histograms.len() + histogram;
                Starts {
                    start_ms,
                    native_ms: self.native_starts.get(at).copied().unwrap_or(NOT_YET),
                }
            }
        }
    }

    fn write_family(
        &self,
        written: &Written,
        family: &Family,
        out: &mut BatchWriter,
        le: &[Vec<String>],
        moment: &Moment<'_>,
    ) {
        match family.kind {
            FamilyKind::Gauge(_) => {
                let points = moment.points(1.0, written.part, false);
                out.series(&family.metric(), None, points.get(), 0, None);
            }
            FamilyKind::Counter(counter) => {
                let value = self.values.get(written.row * self.stride + counter).copied();
                let points = moment.points(value.unwrap_or_default(), written.part, written.is_new);
                let start_ms = written.starts.start_ms;
                let exemplar = out
                    .has_counter_exemplars()
                    .then(|| self.counter_exemplar(written.number, family, moment))
                    .flatten();
                out.series(&family.metric(), None, points.get(), start_ms, exemplar.as_ref());
            }
            FamilyKind::Histogram(histogram) => {
                self.write_classic(written, histogram, family, out, le, moment);
                self.write_native(written, histogram, family, out, moment);
            }
        }
    }

    fn write_classic(
        &self,
        written: &Written,
        histogram: usize,
        family: &Family,
        out: &mut BatchWriter,
        le: &[Vec<String>],
        moment: &Moment<'_>,
    ) {
        if !self
            .shape
            .histograms
            .get(histogram)
            .is_some_and(|shape| shape.has_classic)
        {
            return;
        }
        let was_classic = self
            .sent_shape
            .histograms
            .get(histogram)
            .is_some_and(|shape| shape.has_classic);
        let needs_zero = written.is_new || !was_classic;
        let sum = self
            .sums
            .get(written.row * self.shape.histograms.len() + histogram)
            .copied();
        let start = written.row * self.stride + self.offsets.get(histogram).copied().unwrap_or_default();
        let texts = le.get(histogram).map(Vec::as_slice).unwrap_or_default();
        let counts = self.values.get(start..start + texts.len()).unwrap_or_default();
        let start_ms = written.starts.start_ms;
        let mut count = 0.0;
        for (bucket, (text, more)) in texts.iter().zip(counts).enumerate() {
            count += more;
            let held = self
                .exemplars
                .get(&(written.number, histogram as u8, bucket as u8));
            let exemplar = held.map(|held| exemplar_out(held, moment));
            let points = moment.points(count, written.part, needs_zero);
            out.series(
                &family.bucket(),
                Some(text),
                points.get(),
                start_ms,
                exemplar.as_ref(),
            );
        }
        let points = moment.points(count, written.part, needs_zero);
        out.series(&family.count(), None, points.get(), start_ms, None);
        let seconds = duration_sum::seconds(sum.unwrap_or_default());
        let points = moment.points(seconds, written.part, needs_zero);
        out.series(&family.sum(), None, points.get(), start_ms, None);
    }

    fn write_native(
        &self,
        written: &Written,
        histogram: usize,
        family: &Family,
        out: &mut BatchWriter,
        moment: &Moment<'_>,
    ) {
        let at = written.row * self.shape.histograms.len() + histogram;
        let (Some(shape), Some(native)) = (self.shape.histograms.get(histogram), self.natives.get(at)) else {
            return;
        };
        if shape.native.is_none() {
            return;
        }
        let sent_shape = self.sent_shape.histograms.get(histogram);
        let needs_zero = written.is_new || sent_shape.is_none_or(|shape| shape.native.is_none());
        // Where there are classic buckets, those have the exemplars (Q23).
        let chosen = if shape.has_classic {
            Vec::new()
        } else {
            let held = (0..=shape.last_exemplar_place())
                .filter_map(|place| self.exemplars.get(&(written.number, histogram as u8, place)));
            choose_exemplars(held.copied(), moment.before_ms, moment.now_ms)
        };
        let exemplars: Vec<_> = chosen
            .iter()
            .map(|(at_ms, held)| (*at_ms, exemplar_out(held, moment)))
            .collect();
        // The points of a series that counts to one: a zero before the value, a marker where it ends.
        let points = moment.points(1.0, written.part, needs_zero);
        let samples: Vec<NativeSample<'_>> = points
            .get()
            .iter()
            .map(|(at_ms, value)| NativeSample {
                at_ms: *at_ms,
                value: if value.is_nan() {
                    NativeValue::Stale
                } else if *value == 0.0 {
                    NativeValue::Empty(native.schema())
                } else {
                    NativeValue::Counted(native)
                },
            })
            .collect();
        let form = CountForm::of(native.buckets(), moment.is_weighted);
        out.native_series(
            &family.metric(),
            form,
            &samples,
            written.starts.native_ms,
            &exemplars,
        );
    }

    /// The best exemplar of the entity's first histogram, for a counter beside it.
    fn counter_exemplar<'m>(
        &self,
        number: u32,
        family: &Family,
        moment: &'m Moment<'_>,
    ) -> Option<ExemplarOut<'m>> {
        if self.exemplars.is_empty() || family.exemplar == CounterExemplar::Never {
            return None;
        }
        let places = 0..=self.shape.histograms.first()?.last_exemplar_place();
        let best = places
            .filter_map(|place| self.exemplars.get(&(number, 0, place)))
            .max()?;
        (family.exemplar == CounterExemplar::Any || best.rank.is_error()).then(|| exemplar_out(best, moment))
    }

    /// End what the last collection sent and the present settings do not produce. What was counted for it since is sent
    /// first.
    fn end_dropped_series(
        &mut self,
        number: u32,
        out: &mut BatchWriter,
        le: &[Vec<String>],
        moment: &Moment<'_>,
        budget: &mut Budget,
    ) {
        let is_overflow = self.overflow == Some(number);
        for index in 0..self.sent_families.len() {
            let (Some(old), Some(new)) = (self.sent_families.get(index), self.families.get(index)) else {
                continue;
            };
            let bit = 1u8 << index;
            let Some(Some(entity)) = self.entities.get(number as usize) else {
                continue;
            };
            let (was_sent, row, kind) = (entity.sent & bit != 0, entity.row, new.kind);
            let starts = self.starts(row as usize, index);
            let cost = new.cost(&self.shape);
            if !new.is_enabled && entity.admitted & bit != 0 {
                if entity.news & bit != 0 && self.shape == self.sent_shape {
                    let written = Written {
                        number,
                        row: row as usize,
                        is_new: !was_sent,
                        part: Part::Last,
                        starts: self.begin(row as usize, index, !was_sent, moment),
                    };
                    if let Some(old) = self.sent_families.get(index) {
                        self.write_family(&written, old, out, le, moment);
                    }
                } else if was_sent {
                    mark_stale(out, old, &self.sent_shape, moment.now_ms, starts);
                }
                let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
                    continue;
                };
                entity.admitted &= !bit;
                entity.sent &= !bit;
                let is_last = entity.admitted == 0;
                if !is_overflow {
                    budget.release(cost, is_last);
                }
                self.zero(row, kind, moment.now_ms);
                if is_last {
                    self.free_row(number);
                }
            } else if was_sent && old.name != new.name {
                mark_stale(out, old, &self.sent_shape, moment.now_ms, starts);
                if let Some(Some(entity)) = self.entities.get_mut(number as usize) {
                    entity.sent &= !bit;
                }
            } else if was_sent
                && let FamilyKind::Histogram(histogram) = new.kind
                && let (Some(before), Some(after)) = (
                    self.sent_shape.histograms.get(histogram),
                    self.shape.histograms.get(histogram),
                )
            {
                mark_dropped_forms(out, old, before, after, moment.now_ms, starts);
            }
        }
    }

    /// End all series of an entity: markers for what was sent, then it starts from nothing if it is seen again.
    fn end(
        &mut self,
        number: u32,
        out: &mut Option<&mut BatchWriter>,
        moment: &Moment<'_>,
        budget: &mut Budget,
    ) {
        let is_overflow = self.overflow == Some(number);
        let Some(Some(entity)) = self.entities.get_mut(number as usize) else {
            return;
        };
        let (admitted, sent, row) = (entity.admitted, entity.sent, entity.row);
        (entity.admitted, entity.sent) = (0, 0);
        let mut left = admitted;
        for index in 0..self.sent_families.len() {
            let bit = 1u8 << index;
            let Some(family) = self.sent_families.get(index) else {
                continue;
            };
            let kind = family.kind;
            if sent & bit != 0
                && let Some(out) = out
            {
                let starts = self.starts(row as usize, index);
                mark_stale(out, family, &self.sent_shape, moment.now_ms, starts);
            }
            if admitted & bit != 0 {
                left &= !bit;
                if !is_overflow {
                    budget.release(family.cost(&self.shape), left == 0);
                }
                self.zero(row, kind, moment.now_ms);
            }
        }
        self.free_row(number);
    }

    /// End every series there is.
    pub fn end_all(&mut self, out: &mut BatchWriter, moment: &Moment<'_>, budget: &mut Budget) {
        let most_samples = self.series_per_entity();
        for number in 0..self.entities.len() as u32 {
            if let Some(Some(entity)) = self.entities.get(number as usize) {
                out.next_entity(&entity.labels, moment.external, most_samples);
                self.end(number, &mut Some(out), moment, budget);
            }
        }
        self.exemplars.clear();
    }

    /// End what is stale without writing anything: nobody is told while collection is off.
    pub fn sweep(&mut self, moment: &Moment<'_>, budget: &mut Budget) {
        for number in 0..self.entities.len() as u32 {
            let Some(Some(entity)) = self.entities.get(number as usize) else {
                continue;
            };
            if entity.updated_at_ms < moment.stale_before_ms {
                self.end(number, &mut None, moment, budget);
                self.drop_unreferenced(number, moment.stale_before_ms);
            }
        }
    }

    /// Most series of one entity, those that end with a change of settings included.
    fn series_per_entity(&self) -> usize {
        let series = |families: &[Family], shape: &Shape| -> u64 {
            families.iter().map(|family| family.cost(shape)).sum()
        };
        series(&self.families, &self.shape).max(series(&self.sent_families, &self.sent_shape)) as usize
    }
}

/// An entity, and how much of it is written.
struct Written {
    number: u32,
    row: usize,
    is_new: bool,
    part: Part,
    starts: Starts,
}

/// Since when the series of a family count, [`NOT_YET`] where they do not or were never sent.
#[derive(Debug, Clone, Copy, Default)]
struct Starts {
    /// A counter's, or those of a classic histogram.
    start_ms: i64,
    /// That of a native histogram.
    native_ms: i64,
}

fn le_texts(shape: &Shape) -> Vec<Vec<String>> {
    let histograms = shape.histograms.iter();
    histograms.map(|histogram| histogram.bounds.le_texts()).collect()
}

fn exemplar_out<'m>(held: &Exemplar, moment: &'m Moment<'_>) -> ExemplarOut<'m> {
    ExemplarOut {
        label: moment.trace_id_label,
        trace: held.trace_text(),
        seconds: held.rank.duration_ns() as f64 / 1e9,
    }
}

/// Mark all series of a family as ended.
fn mark_stale(out: &mut BatchWriter, family: &Family, shape: &Shape, now_ms: i64, starts: Starts) {
    match family.kind {
        FamilyKind::Counter(_) | FamilyKind::Gauge(_) => {
            out.series(&family.metric(), None, &[(now_ms, STALE)], starts.start_ms, None);
        }
        FamilyKind::Histogram(histogram) => {
            if let Some(shape) = shape.histograms.get(histogram) {
                mark_classic_stale(out, family, shape, now_ms, starts.start_ms);
                mark_native_stale(out, family, shape, now_ms, starts.native_ms);
            }
        }
    }
}

fn mark_classic_stale(
    out: &mut BatchWriter,
    family: &Family,
    shape: &HistogramShape,
    now_ms: i64,
    start_ms: i64,
) {
    if !shape.has_classic {
        return;
    }
    let marker = [(now_ms, STALE)];
    for text in shape.bounds.le_texts() {
        out.series(&family.bucket(), Some(&text), &marker, start_ms, None);
    }
    out.series(&family.count(), None, &marker, start_ms, None);
    out.series(&family.sum(), None, &marker, start_ms, None);
}

fn mark_native_stale(
    out: &mut BatchWriter,
    family: &Family,
    shape: &HistogramShape,
    now_ms: i64,
    start_ms: i64,
) {
    if shape.native.is_some() {
        let marker = NativeSample {
            at_ms: now_ms,
            value: NativeValue::Stale,
        };
        out.native_series(&family.metric(), CountForm::Integer, &[marker], start_ms, &[]);
    }
}

/// Mark the series of a histogram as ended that its new buckets do not have.
fn mark_dropped_forms(
    out: &mut BatchWriter,
    family: &Family,
    before: &HistogramShape,
    after: &HistogramShape,
    now_ms: i64,
    starts: Starts,
) {
    if before.has_classic && !after.has_classic {
        mark_classic_stale(out, family, before, now_ms, starts.start_ms);
    } else if before.has_classic {
        for (bound, text) in before.bounds.seconds.iter().zip(before.bounds.le_texts()) {
            if !after.bounds.seconds.contains(bound) {
                let marker = [(now_ms, STALE)];
                out.series(&family.bucket(), Some(&text), &marker, starts.start_ms, None);
            }
        }
    }
    if after.native.is_none() {
        mark_native_stale(out, family, before, now_ms, starts.native_ms);
    }
}

//! Counts that were taken under other buckets, brought into those of now.

use crate::bounds::Bounds;
use crate::group::{HistogramShape, Shape};
use crate::native_buckets::NativeBuckets;
use crate::record::{Delta, HistogramDelta, RecordHistogram, RecordShape};

/// How one histogram of a record is brought into the buckets of now.
#[derive(Debug)]
pub struct Rebucketing {
    /// For each old bucket the new one that surely holds its observations; `None` where nothing changes.
    buckets: Option<Vec<usize>>,
    /// Exemplars are kept in other places.
    moves_exemplars: bool,
    /// Native buckets have to be guessed: the shard did not count any.
    guesses_native: bool,
    /// The old bounds.
    bounds: Vec<f64>,
}

impl Rebucketing {
    fn new(old: &RecordHistogram, new: &HistogramShape) -> Self {
        let buckets = bucket_map(&old.bounds, &new.bounds);
        Self {
            moves_exemplars: buckets.is_some() || old.bounds.is_empty(),
            guesses_native: new.native.is_some() && old.native.is_none(),
            buckets,
            bounds: old.bounds.clone(),
        }
    }

    /// Whether nothing changes.
    fn is_idle(&self) -> bool {
        self.buckets.is_none() && !self.moves_exemplars && !self.guesses_native
    }

    fn apply(&self, histogram: usize, delta: &mut Delta, shape: &HistogramShape) {
        let Some(HistogramDelta { buckets, native, .. }) = delta.histograms.get_mut(histogram) else {
            return;
        };
        if self.guesses_native {
            self.guess_native(buckets, native, shape);
        }
        if let Some(map) = &self.buckets {
            for (bucket, _) in buckets.iter_mut() {
                *bucket = map.get(*bucket).copied().unwrap_or(*bucket);
            }
        }
        if self.moves_exemplars {
            for (own, place, exemplar) in &mut delta.exemplars {
                if *own == histogram {
                    *place = usize::from(shape.exemplar_place(exemplar.rank.duration_ns()));
                }
            }
        }
    }

    /// A shard that has not heard of native histograms yet counted in classic buckets: nothing is lost if each count
    /// goes where its bucket ends.
    fn guess_native(&self, buckets: &[(usize, f64)], native: &mut NativeBuckets, shape: &HistogramShape) {
        let Some(finder) = &shape.native else {
            return;
        };
        for (bucket, count) in buckets {
            let bound = self
                .bounds
                .get(*bucket)
                .or(self.bounds.last())
                .copied()
                .unwrap_or(1.0);
            native.observe(finder.bucket((bound * 1e9) as u64), *count);
        }
    }
}

/// How the histograms of a record are brought into the buckets of now; `None`: they are there already.
pub fn rebucketings(old: &RecordShape, new: &Shape) -> Option<Vec<Rebucketing>> {
    let each: Vec<Rebucketing> = std::iter::zip(&old.histograms, &new.histograms)
        .map(|(old, new)| Rebucketing::new(old, new))
        .collect();
    let is_idle = each.iter().all(Rebucketing::is_idle);
    (!is_idle).then_some(each)
}

/// Bring a delta into the buckets of now.
pub fn rebucket(delta: &mut Delta, each: &[Rebucketing], shape: &Shape) {
    for (histogram, (rebucketing, shape)) in std::iter::zip(each, &shape.histograms).enumerate() {
        rebucketing.apply(histogram, delta, shape);
    }
}

/// For each old bucket the new one that surely holds its observations: the one whose bound is the next at or above.
fn bucket_map(old: &[f64], new: &Bounds) -> Option<Vec<usize>> {
    if old == new.seconds {
        return None;
    }
    let finite = old
        .iter()
        .map(|bound| new.seconds.iter().filter(|other| **other < *bound).count());
    Some(finite.chain([new.seconds.len()]).collect())
}

/// For each slot of the old shape the slot of the new one that its number moves to.
pub fn slot_map(old: &Shape, new: &Shape) -> Vec<usize> {
    let mut slots: Vec<usize> = (0..old.counters).collect();
    for ((old, new), offset) in old.histograms.iter().zip(&new.histograms).zip(new.offsets()) {
        let map = bucket_map(&old.bounds.seconds, &new.bounds)
            .unwrap_or_else(|| (0..old.bounds.buckets()).collect());
        slots.extend(map.into_iter().map(|bucket| offset + bucket));
    }
    slots
}

//! What a registry holds, added up for a person who looks: changes nothing, and answers no more rows than were asked for.

use std::cmp::Ordering;

use hashbrown::{HashMap, HashSet};

use super::Registry;
use crate::duration_sum;
use crate::labels::Labels;
use crate::series_group::SeriesGroup;

/// What the observations of a histogram come to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HistogramTotal {
    /// Their sum in seconds.
    pub seconds: f64,
    /// How many fell into each classic bucket, +Inf last; not cumulative.
    pub buckets: Vec<f64>,
}

/// The label sets that have the same values of some labels, as one.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRow {
    /// Those values, empty where there is no such label.
    pub values: Vec<String>,
    /// The counters.
    pub counters: Vec<f64>,
    /// The histograms.
    pub histograms: Vec<HistogramTotal>,
}

/// The rows of one processor.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Those that count most, in that order.
    pub rows: Vec<SummaryRow>,
    /// How many more there are.
    pub left_out: usize,
    /// Bounds of the buckets of each histogram in seconds, +Inf left out.
    pub bounds: Vec<Vec<f64>>,
}

/// How many series each metric has, and how many values each label.
#[derive(Debug, Clone, PartialEq)]
pub struct Cardinality {
    /// By metric, the greatest first.
    pub metrics: Vec<(String, u64)>,
    /// By label, the greatest first: distinct values, and label sets that have it.
    pub labels: Vec<(String, u64, u64)>,
}

/// Counters and histograms of a row.
type Totals = (Vec<f64>, Vec<HistogramTotal>);

impl Registry {
    /// Add up the label sets of one processor by the values of some labels; at most `most` rows.
    pub fn summary(&self, group: usize, by: &[String], most: usize) -> Summary {
        self.groups.get(group).map_or_else(
            || Summary {
                rows: Vec::new(),
                left_out: 0,
                bounds: Vec::new(),
            },
            |group| summary(group, by, most),
        )
    }

    /// Count series by metric and values by label, at most `most` of each.
    pub fn cardinality(&self, most: usize) -> Cardinality {
        let mut metrics = Vec::new();
        let mut labels: HashMap<&[u8], (HashSet<&[u8]>, u64)> = HashMap::new();
        for group in &self.groups {
            for (index, family) in group.families.iter().enumerate() {
                let bit = 1u8 << index;
                let sets = group.entities.iter().flatten();
                let admitted = sets.filter(|entity| entity.admitted & bit != 0).count() as u64;
                if admitted > 0 && family.is_counted() {
                    metrics.push((family.name.clone(), admitted * family.cost(&group.shape)));
                }
            }
            for entity in group.entities.iter().flatten() {
                if entity.admitted != 0 {
                    for (name, value) in Labels(&entity.labels) {
                        let (values, sets) = labels.entry(name).or_default();
                        values.insert(value);
                        *sets += 1;
                    }
                }
            }
        }
        metrics.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        metrics.truncate(most);
        let mut labels: Vec<_> = labels
            .into_iter()
            .map(|(name, (values, sets))| (text(name), values.len() as u64, sets))
            .collect();
        labels.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        labels.truncate(most);
        Cardinality { metrics, labels }
    }
}

fn summary(group: &SeriesGroup, by: &[String], most: usize) -> Summary {
    let mut rows: HashMap<Vec<&[u8]>, Totals> = HashMap::new();
    for entity in group.entities.iter().flatten() {
        let base = entity.row as usize * group.stride;
        let Some(numbers) = group.values.get(base..base + group.stride) else {
            continue;
        };
        if entity.admitted == 0 {
            continue;
        }
        let value = |name: &String| {
            let found = Labels(&entity.labels).find(|(own, _)| *own == name.as_bytes());
            found.map_or(&b""[..], |(_, value)| value)
        };
        let (counters, histograms) = rows.entry(by.iter().map(value).collect()).or_default();
        add(counters, numbers.get(..group.shape.counters).unwrap_or_default());
        let shapes = std::iter::zip(&group.shape.histograms, &group.offsets);
        histograms.resize(group.shape.histograms.len(), HistogramTotal::default());
        for (index, (total, (shape, offset))) in std::iter::zip(histograms, shapes).enumerate() {
            let buckets = numbers.get(*offset..offset + shape.bounds.buckets());
            add(&mut total.buckets, buckets.unwrap_or_default());
            let place = entity.row as usize * group.shape.histograms.len() + index;
            total.seconds += duration_sum::seconds(group.sums.get(place).copied().unwrap_or_default());
        }
    }
    let found = rows.len();
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|left, right| {
        weight(&right.1)
            .total_cmp(&weight(&left.1))
            .then_with(|| left.0.cmp(&right.0))
    });
    rows.truncate(most);
    let rows: Vec<_> = rows
        .into_iter()
        .map(|(values, (counters, histograms))| SummaryRow {
            values: values.into_iter().map(text).collect(),
            counters,
            histograms,
        })
        .collect();
    Summary {
        left_out: found - rows.len(),
        rows,
        bounds: group
            .shape
            .histograms
            .iter()
            .map(|histogram| histogram.bounds.seconds.clone())
            .collect(),
    }
}

/// What a row is ranked by: its first counter, or its observations where that counter is off.
fn weight((counters, histograms): &Totals) -> f64 {
    let counted = counters.first().copied().unwrap_or_default();
    let observed = histograms.iter().map(|total| total.buckets.iter().sum::<f64>());
    match counted.total_cmp(&0.0) {
        Ordering::Greater => counted,
        _ => observed.fold(0.0, f64::max),
    }
}

fn add(totals: &mut Vec<f64>, numbers: &[f64]) {
    totals.resize(numbers.len(), 0.0);
    for (total, number) in std::iter::zip(totals, numbers) {
        *total += number;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

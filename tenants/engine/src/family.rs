//! The metrics of a processor: their names, their numbers, what they cost.

use crate::group::Shape;
use crate::remote_write::Metric;

/// One metric of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Metric name; of a histogram that of its native series.
    pub name: String,
    /// Where its numbers are.
    pub kind: FamilyKind,
    /// Whether the settings ask for it.
    pub is_enabled: bool,
    /// They asked for it a moment ago: what was counted then may still arrive.
    pub is_ending: bool,
    /// Which exemplar of the entity's first histogram a counter may carry.
    pub exemplar: CounterExemplar,
    /// What receivers are told of it.
    pub metadata: Metadata,
    bucket_name: String,
    count_name: String,
    sum_name: String,
}

/// What receivers are told of a metric, without its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its type.
    pub kind: MetricKind,
    /// What it counts.
    pub help: &'static str,
    /// Its unit; empty: it has none.
    pub unit: &'static str,
}

/// The types of metrics, as numbered on the wire (remote-write §1.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    #[default]
    Counter = 1,
    /// It has a value.
    Gauge = 2,
    /// It counts by size.
    Histogram = 3,
}

/// Which numbers of an entity a metric shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// The counter of this index.
    Counter(usize),
    /// One, while the counter of this index grows.
    Gauge(usize),
    /// The histogram of this index.
    Histogram(usize),
}

/// Which exemplar a counter may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CounterExemplar {
    /// None.
    Never,
    /// The best of the interval.
    Any,
    /// The best of the interval, if it is an error.
    Error,
}

impl Family {
    /// A metric.
    pub fn new(name: &str, kind: FamilyKind, is_enabled: bool) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            is_enabled,
            is_ending: false,
            exemplar: CounterExemplar::Never,
            metadata: Metadata {
                kind: match kind {
                    FamilyKind::Counter(_) => MetricKind::Counter,
                    FamilyKind::Gauge(_) => MetricKind::Gauge,
                    FamilyKind::Histogram(_) => MetricKind::Histogram,
                },
                ..Metadata::default()
            },
            bucket_name: format!("{name}_bucket"),
            count_name: format!("{name}_count"),
            sum_name: format!("{name}_sum"),
        }
    }

    /// Whether what was counted for it is taken.
    pub fn is_counted(&self) -> bool {
        self.is_enabled || self.is_ending
    }

    /// The same metric with exemplars.
    pub fn with_exemplar(self, exemplar: CounterExemplar) -> Self {
        Self { exemplar, ..self }
    }

    /// The same metric with what is said of it.
    pub fn described(self, help: &'static str, unit: &'static str) -> Self {
        let metadata = Metadata {
            help,
            unit,
            ..self.metadata
        };
        Self { metadata, ..self }
    }

    /// The series of its name.
    pub fn metric(&self) -> Metric<'_> {
        self.part(&self.name)
    }

    /// The series of a classic bucket.
    pub fn bucket(&self) -> Metric<'_> {
        self.part(&self.bucket_name)
    }

    /// The series of a classic count.
    pub fn count(&self) -> Metric<'_> {
        self.part(&self.count_name)
    }

    /// The series of a classic sum.
    pub fn sum(&self) -> Metric<'_> {
        self.part(&self.sum_name)
    }

    fn part<'f>(&self, name: &'f str) -> Metric<'f> {
        Metric {
            name: name.as_bytes(),
            metadata: self.metadata,
        }
    }

    /// Series that an entity takes up (processors §4.3, §4.4).
    pub fn cost(&self, shape: &Shape) -> u64 {
        match self.kind {
            FamilyKind::Counter(_) | FamilyKind::Gauge(_) => 1,
            FamilyKind::Histogram(histogram) => shape.histograms.get(histogram).map_or(0, |histogram| {
                let classic = if histogram.has_classic {
                    histogram.bounds.buckets() + 2
                } else {
                    0
                };
                classic as u64 + u64::from(histogram.native.is_some())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bounds::Bounds;
    use crate::group::HistogramShape;
    use crate::native_schema::{BucketFinder, Schema};

    #[test]
    fn a_histogram_costs_what_it_sends() {
        let shape = |seconds: &[f64], has_classic, has_native: bool| Shape {
            counters: 0,
            histograms: vec![HistogramShape {
                bounds: Arc::new(Bounds::new("", seconds).unwrap_or_default()),
                has_classic,
                native: has_native.then(|| Arc::new(BucketFinder::new(Schema::FINEST))),
            }],
        };
        let family = Family::new("m", FamilyKind::Histogram(0), true);
        let cases = [
            (shape(&[1.0, 2.0], true, false), 5),
            (shape(&[], true, false), 3),
            (shape(&[], false, true), 1),
            (shape(&[1.0, 2.0], true, true), 6),
            (shape(&[], true, true), 4),
        ];
        for (shape, cost) in cases {
            assert_eq!(family.cost(&shape), cost, "{shape:?}");
        }
    }
}

//! The series of one endpoint with rules: each relabelled, and no label set sent twice.
//!
//! Of series that become the same the first is sent, in the order in which they are written. One that ends gives way to
//! one that lives, whichever comes first: the receiver must not take for ended what goes on.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::family::Metadata;
use crate::relabel::{LabelList, Relabel, Verdict};
use crate::remote_write::{Message, NAME, Series};
use crate::remote_write_1::{Fields, put_label};

/// Series that rules made impossible to send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Another series has become the same label set.
    pub collisions: u64,
    /// They have no name any more.
    pub without_name: u64,
    /// Their labels are larger than any receiver takes.
    pub too_large: u64,
}

/// A series that ends, with everything it says.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) labels: Vec<u8>,
    pub(crate) metadata: Metadata,
    points: Vec<u8>,
    exemplars: Vec<u8>,
    pub(crate) messages: Vec<Message>,
}

impl Ended {
    pub(crate) fn fields(&self) -> Fields<'_> {
        Fields {
            points: &self.points,
            exemplars: &self.exemplars,
        }
    }
}

/// The relabelled series of one collection.
#[derive(Debug)]
pub(crate) struct RelabelledSeries {
    rules: Arc<Relabel>,
    may_collide: bool,
    written: LabelSets,
    ended: Vec<Ended>,
    /// Labels of the series at hand, encoded.
    labels: Vec<u8>,
    pub(crate) left_out: LeftOut,
}

impl RelabelledSeries {
    pub(crate) fn new(rules: Arc<Relabel>) -> Self {
        Self {
            may_collide: rules.changes_labels(),
            rules,
            written: LabelSets::default(),
            ended: Vec::new(),
            labels: Vec::new(),
            left_out: LeftOut::default(),
        }
    }

    /// Whether two series may become the same.
    pub(crate) fn may_collide(&self) -> bool {
        self.may_collide
    }

    /// Relabel a series; returns its encoded labels if it is to be written now.
    pub(crate) fn take(
        &mut self,
        series: &Series<'_>,
        messages: &[Message],
        fields: &Fields<'_>,
    ) -> Option<&[u8]> {
        let mut list = LabelList::new(series.pairs());
        match self.rules.apply(&mut list) {
            Verdict::Kept => {}
            Verdict::Dropped => return None,
            Verdict::TooLarge => {
                self.left_out.too_large += 1;
                return None;
            }
        }
        let mut has_name = false;
        self.labels.clear();
        for (name, value) in list.into_sorted() {
            has_name |= name.as_bytes() == NAME;
            put_label(&mut self.labels, name.as_bytes(), value.as_bytes());
        }
        if !has_name {
            self.left_out.without_name += 1;
            return None;
        }
        if !self.may_collide {
            return Some(&self.labels);
        }
        if series.ends {
            self.ended.push(Ended {
                labels: self.labels.clone(),
                metadata: series.metric.metadata,
                points: fields.points.to_vec(),
                exemplars: fields.exemplars.to_vec(),
                messages: messages.to_vec(),
            });
            return None;
        }
        if self.written.insert(&self.labels) {
            return Some(&self.labels);
        }
        self.left_out.collisions += 1;
        None
    }

    /// The series that ended, but those whose label set goes on as another's.
    pub(crate) fn take_ended(&mut self) -> Vec<Ended> {
        let mut ended = std::mem::take(&mut self.ended);
        ended.retain(|ended| {
            let is_first = self.written.insert(&ended.labels);
            self.left_out.collisions += u64::from(!is_first);
            is_first
        });
        ended
    }
}

/// A set of encoded label sets, side by side in one piece of memory.
#[derive(Debug, Default)]
struct LabelSets {
    bytes: Vec<u8>,
    /// Where each begins and ends.
    places: HashTable<(usize, usize)>,
    hasher: DefaultHashBuilder,
}

impl LabelSets {
    /// Whether it was not there yet.
    fn insert(&mut self, labels: &[u8]) -> bool {
        let (bytes, hasher) = (&mut self.bytes, &self.hasher);
        let at = |bytes: &[u8], (start, end): (usize, usize)| {
            bytes.get(start..end).map(|set| hasher.hash_one(set))
        };
        let hash = hasher.hash_one(labels);
        let is_known = |place: &(usize, usize)| bytes.get(place.0..place.1) == Some(labels);
        if self.places.find(hash, is_known).is_some() {
            return false;
        }
        let start = bytes.len();
        bytes.extend_from_slice(labels);
        self.places.insert_unique(hash, (start, bytes.len()), |place| {
            at(bytes, *place).unwrap_or_default()
        });
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::remote_write::tests::{metric, series_of};
    use crate::remote_write::{BatchWriter, Encoded, ExternalLabels, OutputSpec, STALE};

    const DROP_ID: &str = r#"[{"source_labels": [], "separator": ";", "regex": "id", "modulus": 0,
                               "target_label": "", "replacement": "$1", "action": "labeldrop"}]"#;

    fn write(writer: &mut BatchWriter, id: &str, name: &[u8], samples: &[(i64, f64)]) {
        let entity = label_set(vec![(b"id", id.as_bytes()), (b"zone", b"z")]);
        writer.next_entity(&entity, &ExternalLabels::default(), 0);
        writer.series(&metric(name), None, samples, 0, None);
    }

    fn output(rules: Option<&str>) -> OutputSpec {
        OutputSpec {
            rules: rules.map(|rules| Arc::new(Relabel::from_json(rules).unwrap())),
            ..OutputSpec::default()
        }
    }

    fn encoded(max_samples: usize, fill: impl FnOnce(&mut BatchWriter)) -> [Encoded; 2] {
        let mut writer = BatchWriter::with_outputs(max_samples, &[output(Some(DROP_ID)), output(None)]);
        assert!(writer.needs_order());
        fill(&mut writer);
        writer.finish_each().try_into().unwrap()
    }

    /// The samples by `__name__` and `id`; a marker is written as infinite.
    fn written(encoded: &Encoded) -> Vec<(String, String, Vec<f64>)> {
        let series = encoded.batches.iter().flat_map(series_of);
        series
            .map(|(labels, samples)| {
                let value = |name| {
                    let found = labels.iter().find(|(other, _)| other == name);
                    found.map_or(String::new(), |(_, value)| value.clone())
                };
                let told = |sample: &f64| if sample.is_nan() { f64::INFINITY } else { *sample };
                (value("__name__"), value("id"), samples.iter().map(told).collect())
            })
            .collect()
    }

    #[test]
    fn the_first_of_series_that_become_one_is_sent_and_only_where_the_rules_are() {
        let [relabelled, plain] = encoded(10, |writer| {
            for (id, value) in [("a", 1.0), ("b", 2.0)] {
                for name in [b"m", b"n"] {
                    write(writer, id, name, &[(1, value)]);
                }
            }
        });
        let sent = |name: &str, id: &str, value| (name.to_owned(), id.to_owned(), vec![value]);
        assert_eq!(written(&relabelled), [sent("m", "", 1.0), sent("n", "", 1.0)]);
        assert_eq!(relabelled.left_out.collisions, 2);
        assert_eq!(written(&plain).len(), 4);
        assert_eq!(plain.left_out, LeftOut::default());
        assert_eq!(
            (relabelled.batches[0].series, relabelled.batches[0].samples),
            (2, 2)
        );
    }

    #[test]
    fn what_ends_gives_way_to_what_goes_on() {
        let [relabelled, _] = encoded(10, |writer| {
            write(writer, "a", b"m", &[(1, 5.0), (2, STALE)]);
            write(writer, "b", b"m", &[(2, 7.0)]);
            write(writer, "a", b"n", &[(2, STALE)]);
            write(writer, "b", b"n", &[(2, STALE)]);
        });
        let sent = [("m", 7.0), ("n", f64::INFINITY)];
        let sent = sent.map(|(name, value)| (name.to_owned(), String::new(), vec![value]));
        assert_eq!(written(&relabelled), sent);
        assert_eq!(relabelled.left_out.collisions, 2);
    }

    #[test]
    fn what_ends_fills_batches_like_the_rest() {
        let [relabelled, _] = encoded(2, |writer| {
            for name in [b"m", b"n", b"o"] {
                write(writer, "a", name, &[(2, STALE)]);
            }
        });
        let sizes: Vec<_> = relabelled.batches.iter().map(|batch| batch.samples).collect();
        assert_eq!(sizes, [2, 1]);
    }

    #[test]
    fn a_series_without_a_name_is_left_out() {
        let rules = DROP_ID.replace("\"id\"", "\"__name__\"");
        let mut writer = BatchWriter::with_outputs(10, &[output(Some(&rules))]);
        write(&mut writer, "a", b"m", &[(1, 1.0)]);
        let [encoded] = writer.finish_each().try_into().unwrap();
        assert!(encoded.batches.is_empty());
        assert_eq!(encoded.left_out.without_name, 1);
    }
}

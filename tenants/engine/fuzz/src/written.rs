//! Remote-write messages read back, as strictly as a receiver reads them.

use std::collections::{BTreeMap, HashSet};

use millrace_engine::remote_write::WriteBatch;
use millrace_engine::wire::{Cursor, bytes_tag, fixed64_tag, varint_tag};

/// What one collection wrote.
#[derive(Debug, Default)]
pub struct Written {
    /// Sum of the last float samples of all series, by metric.
    pub totals: BTreeMap<String, f64>,
}

/// Read a collection. Panics where a receiver would refuse: labels out of order or not UTF-8, samples out of order, one
/// series twice, or other counts than the batch states.
pub fn read(batches: &[WriteBatch]) -> Written {
    let mut written = Written::default();
    let mut known = HashSet::new();
    let mut last = Vec::new();
    for batch in batches {
        let message = snap::raw::Decoder::new()
            .decompress_vec(&batch.body)
            .expect("a batch is compressed");
        let mut cursor = Cursor::new(&message, "batch");
        let mut counts = (0, 0, 0, 0);
        loop {
            let tag = cursor.tag().expect("a tag");
            if tag == 0 {
                break;
            }
            let bytes = cursor.bytes().expect("a message");
            if tag == bytes_tag(3) {
                continue; // metadata
            }
            assert_eq!(tag, bytes_tag(1), "a series");
            let series = Series::read(bytes);
            counts.0 += 1;
            counts.1 += series.samples.len();
            counts.2 += series.histograms;
            counts.3 += series.exemplars;
            let name = series.check();
            // The first sample of a new native series goes ahead of its exemplars.
            let is_continued = series.histograms > 0 && series.labels == last;
            last.clone_from(&series.labels);
            assert!(
                known.insert(series.labels) || is_continued,
                "one series twice: {name}"
            );
            if let Some((_, value)) = series.samples.last() {
                *written.totals.entry(name).or_default() += value;
            }
        }
        let stated = (batch.series, batch.samples, batch.histograms, batch.exemplars);
        assert_eq!(counts, stated, "series, samples, histograms, exemplars");
    }
    written
}

impl Written {
    /// The sum over a metric's series; 0 if there are none.
    pub fn total(&self, metric: &str) -> f64 {
        self.totals.get(metric).copied().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Series {
    labels: Vec<(Vec<u8>, Vec<u8>)>,
    samples: Vec<(i64, f64)>,
    histograms: usize,
    exemplars: usize,
}

impl Series {
    fn read(message: &[u8]) -> Self {
        const LABEL: u32 = bytes_tag(1);
        const SAMPLE: u32 = bytes_tag(2);
        const EXEMPLAR: u32 = bytes_tag(3);
        const HISTOGRAM: u32 = bytes_tag(4);
        let mut series = Self::default();
        let mut cursor = Cursor::new(message, "series");
        loop {
            let tag = cursor.tag().expect("a tag");
            if tag == 0 {
                return series;
            }
            let bytes = cursor.bytes().expect("a message");
            match tag {
                LABEL => {
                    let mut label = Cursor::new(bytes, "label");
                    let name = next_bytes(&mut label, bytes_tag(1)).unwrap_or_default();
                    let value = next_bytes(&mut label, bytes_tag(2)).unwrap_or_default();
                    series.labels.push((name.to_vec(), value.to_vec()));
                }
                SAMPLE => series.samples.push(sample(bytes)),
                EXEMPLAR => series.exemplars += 1,
                HISTOGRAM => series.histograms += 1,
                _ => panic!("an unknown field"),
            }
        }
    }

    /// The metric's name, if everything is in order.
    fn check(&self) -> String {
        assert!(
            self.labels.is_sorted_by(|(one, _), (other, _)| one < other),
            "labels out of order: {self:?}"
        );
        for (name, value) in &self.labels {
            assert!(!name.is_empty() && !value.is_empty(), "an empty label: {self:?}");
            assert!(
                std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok(),
                "a label that is not UTF-8: {self:?}"
            );
        }
        assert!(
            self.samples.is_sorted_by(|(one, _), (other, _)| one < other),
            "samples out of order: {self:?}"
        );
        let name = self.labels.iter().find(|(name, _)| name == b"__name__");
        let (_, name) = name.expect("a series has a metric");
        String::from_utf8_lossy(name).into_owned()
    }
}

fn sample(message: &[u8]) -> (i64, f64) {
    let mut cursor = Cursor::new(message, "sample");
    let (mut at_ms, mut value) = (0, 0.0);
    loop {
        match cursor.tag().expect("a tag") {
            0 => return (at_ms, value),
            tag if tag == fixed64_tag(1) => value = f64::from_bits(cursor.fixed64().expect("a double")),
            tag if tag == varint_tag(2) => at_ms = cursor.varint().expect("a time").cast_signed(),
            tag => panic!("unknown field {tag}"),
        }
    }
}

fn next_bytes<'a>(cursor: &mut Cursor<'a>, expected: u32) -> Option<&'a [u8]> {
    let tag = cursor.tag().expect("a tag");
    assert!(tag == 0 || tag == expected, "field {tag}");
    (tag != 0).then(|| cursor.bytes().expect("a message"))
}

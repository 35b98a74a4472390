//! The `Histogram` message, which differs little between Remote-Write 1.0 and 2.0 (remote-write §1.1, §1.5; processors appendix C).

use crate::native_buckets::NativeBuckets;
use crate::native_histogram::NativeHistogram;
use crate::native_schema::Schema;
use crate::remote_write::{Protocol, STALE};
use crate::wire::{bytes_tag, fixed64_tag, put_varint, varint_len, varint_tag};

/// Durations up to this many seconds are in the zero bucket: 2^-128, which only 0 is.
const ZERO_THRESHOLD: f64 = f64::from_bits((1023 - 128) << 52);
/// So many empty buckets are written out; a longer gap begins a new span.
const LONGEST_FILLED_GAP: i32 = 2;
/// Integers up to here are exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// How counts are written. All samples of a series should have one form: a change costs receivers a new chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountForm {
    /// Whole numbers, each bucket as the difference to the one before.
    Integer,
    /// Doubles.
    Float,
}

impl CountForm {
    /// The form of these counts: integer as long as they are exact in it, unless `is_weighted` makes fractions likely.
    pub fn of(buckets: &NativeBuckets, is_weighted: bool) -> Self {
        if is_weighted || !buckets.is_whole() || buckets.total() > EXACT {
            Self::Float
        } else {
            Self::Integer
        }
    }
}

/// One sample of a native histogram series.
#[derive(Debug, Clone, Copy)]
pub struct NativeSample<'a> {
    /// Its timestamp.
    pub at_ms: i64,
    /// What it says.
    pub value: NativeValue<'a>,
}

/// What a sample of a native histogram series says.
#[derive(Debug, Clone, Copy)]
pub enum NativeValue<'a> {
    /// What was observed so far.
    Counted(&'a NativeHistogram),
    /// Nothing was observed yet: what precedes the first value, so that it counts as an increase (processors §4.2).
    Empty(Schema),
    /// The series ended.
    Stale,
}

/// Encodes `Histogram` messages; holds memory for reuse.
#[derive(Debug, Default)]
pub struct HistogramEncoder {
    spans: Vec<Span>,
    counts: Vec<f64>,
    packed: Vec<u8>,
    message: Vec<u8>,
}

/// A run of consecutive buckets.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Span {
    /// From the end of the span before; of the first span, the index of its first bucket.
    offset: i32,
    length: u32,
}

impl HistogramEncoder {
    /// Append one sample as a field of a `TimeSeries`. With 2.0 it says since when the series counts, if that is before.
    pub fn append(
        &mut self,
        out: &mut Vec<u8>,
        sample: &NativeSample<'_>,
        form: CountForm,
        protocol: Protocol,
        start_ms: i64,
    ) {
        self.message.clear();
        match sample.value {
            NativeValue::Counted(histogram) => {
                let buckets = histogram.buckets();
                self.put_head(
                    form,
                    buckets.total(),
                    histogram.sum_seconds(),
                    histogram.schema().number(),
                    ZERO_THRESHOLD,
                    buckets.zero_count(),
                );
                self.lay_out(buckets);
                self.put_spans();
                self.put_counts(form);
            }
            NativeValue::Empty(schema) => self.put_head(form, 0.0, 0.0, schema.number(), 0.0, 0.0),
            NativeValue::Stale => self.put_head(form, 0.0, STALE, 0, 0.0, 0.0),
        }
        put_tag(&mut self.message, varint_tag(15));
        put_varint(&mut self.message, sample.at_ms as u64);
        let number = match protocol {
            Protocol::One => 4,
            Protocol::Two => 3,
        };
        if protocol == Protocol::Two && start_ms != 0 && start_ms < sample.at_ms {
            put_tag(&mut self.message, varint_tag(17));
            put_varint(&mut self.message, start_ms as u64);
        }
        put_delimited(out, number, &self.message);
    }

    /// Fields 1 to 7. Counts are written even where they are zero: which of the two is there tells the form.
    fn put_head(
        &mut self,
        form: CountForm,
        count: f64,
        sum: f64,
        schema: i8,
        zero_threshold: f64,
        zero_count: f64,
    ) {
        put_count(&mut self.message, form, [1, 2], count);
        put_double(&mut self.message, 3, sum);
        put_tag(&mut self.message, varint_tag(4));
        put_varint(&mut self.message, zigzag(i64::from(schema)));
        put_double(&mut self.message, 5, zero_threshold);
        put_count(&mut self.message, form, [6, 7], zero_count);
    }

    /// Arrange buckets in spans, short gaps filled with zeros.
    fn lay_out(&mut self, buckets: &NativeBuckets) {
        self.spans.clear();
        self.counts.clear();
        let mut end = 0;
        for (index, count) in buckets.iter() {
            let index = i32::from(index);
            let gap = index - end;
            match self.spans.last_mut() {
                Some(span) if gap <= LONGEST_FILLED_GAP => {
                    let filled = gap.unsigned_abs();
                    span.length += filled + 1;
                    self.counts.extend(std::iter::repeat_n(0.0, filled as usize));
                }
                _ => self.spans.push(Span {
                    offset: gap,
                    length: 1,
                }),
            }
            self.counts.push(count);
            end = index + 1;
        }
    }

    fn put_spans(&mut self) {
        for span in &self.spans {
            let offset = zigzag(i64::from(span.offset));
            let length = u64::from(span.length);
            put_tag(&mut self.message, bytes_tag(11));
            put_varint(
                &mut self.message,
                (2 + varint_len(offset) + varint_len(length)) as u64,
            );
            put_tag(&mut self.message, varint_tag(1));
            put_varint(&mut self.message, offset);
            put_tag(&mut self.message, varint_tag(2));
            put_varint(&mut self.message, length);
        }
    }

    fn put_counts(&mut self, form: CountForm) {
        if self.counts.is_empty() {
            return;
        }
        self.packed.clear();
        let number = match form {
            CountForm::Integer => {
                let mut before = 0;
                for count in &self.counts {
                    let count = *count as i64;
                    put_varint(&mut self.packed, zigzag(count - before));
                    before = count;
                }
                12
            }
            CountForm::Float => {
                for count in &self.counts {
                    self.packed.extend_from_slice(&count.to_le_bytes());
                }
                13
            }
        };
        put_delimited(&mut self.message, number, &self.packed);
    }
}

fn put_tag(out: &mut Vec<u8>, tag: u32) {
    put_varint(out, u64::from(tag));
}

fn put_delimited(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, bytes_tag(number));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, fixed64_tag(number));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Write a count as the integer or the float field of a choice.
fn put_count(out: &mut Vec<u8>, form: CountForm, [integer, float]: [u32; 2], count: f64) {
    match form {
        CountForm::Integer => {
            put_tag(out, varint_tag(integer));
            put_varint(out, count as u64);
        }
        CountForm::Float => put_double(out, float, count),
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::native_buckets::tests::buckets;
    use crate::native_histogram::NativeParameters;
    use crate::wire::Cursor;
    use proptest::prelude::*;

    /// The fields of a message by number; numbers as they stand on the wire.
    #[derive(Debug, Default, PartialEq)]
    struct Decoded {
        integers: Vec<(u32, u64)>,
        doubles: Vec<(u32, f64)>,
        spans: Vec<(i64, u64)>,
        deltas: Vec<i64>,
        counts: Vec<f64>,
    }

    fn unzigzag(value: u64) -> i64 {
        (value >> 1) as i64 ^ -((value & 1) as i64)
    }

    fn decode(field: &[u8]) -> Decoded {
        let mut cursor = Cursor::new(field, "test");
        assert_eq!(cursor.tag().unwrap(), bytes_tag(4));
        let message = cursor.bytes().unwrap();
        assert_eq!(cursor.tag().unwrap(), 0);
        let mut decoded = Decoded::default();
        let mut cursor = cursor.nested(message, "test");
        loop {
            let tag = cursor.tag().unwrap();
            match (tag >> 3, tag & 7) {
                (0, _) => return decoded,
                (11, 2) => {
                    let bytes = cursor.bytes().unwrap();
                    let mut span = cursor.nested(bytes, "test");
                    assert_eq!(span.tag().unwrap(), varint_tag(1));
                    let offset = unzigzag(span.varint().unwrap());
                    assert_eq!(span.tag().unwrap(), varint_tag(2));
                    decoded.spans.push((offset, span.varint().unwrap()));
                    assert_eq!(span.tag().unwrap(), 0);
                }
                (12, 2) => {
                    let bytes = cursor.bytes().unwrap();
                    let mut packed = cursor.nested(bytes, "test");
                    while let Ok(delta) = packed.varint() {
                        decoded.deltas.push(unzigzag(delta));
                    }
                }
                (13, 2) => {
                    let bytes = cursor.bytes().unwrap();
                    let (doubles, rest) = bytes.as_chunks::<8>();
                    assert!(rest.is_empty());
                    decoded
                        .counts
                        .extend(doubles.iter().map(|bytes| f64::from_le_bytes(*bytes)));
                }
                (number, 0) => decoded.integers.push((number, cursor.varint().unwrap())),
                (number, 1) => decoded
                    .doubles
                    .push((number, f64::from_bits(cursor.fixed64().unwrap()))),
                _ => unreachable!("tag {tag}"),
            }
        }
    }

    fn encoded(value: NativeValue<'_>, form: CountForm) -> Decoded {
        let mut out = Vec::new();
        let mut encoder = HistogramEncoder::default();
        // Twice, so that nothing is left of the first.
        let mut append = |out: &mut Vec<u8>, at_ms| {
            let sample = NativeSample { at_ms, value };
            encoder.append(out, &sample, form, Protocol::One, 1);
        };
        append(&mut Vec::new(), 1);
        append(&mut out, 1_700);
        decode(&out)
    }

    fn histogram(schema: i8, counts: &[(i16, f64)], zero_count: f64) -> NativeHistogram {
        let schema = Schema::new(schema).unwrap();
        let mut delta = buckets(counts);
        delta.observe(None, zero_count);
        let mut histogram = NativeHistogram::new(schema, 0);
        let limits = NativeParameters {
            schema,
            max_buckets: 0,
            min_reset_ms: 0,
        };
        histogram.merge(&delta, schema, 1_500_000_000 << 20, 0, &limits);
        histogram
    }

    #[test]
    fn short_gaps_are_filled_and_long_ones_begin_a_span() {
        let one = |index| (index, 1.0);
        let first = histogram(3, &[-79, 0, 1, 5].map(one), 0.0);
        let decoded = encoded(NativeValue::Counted(&first), CountForm::Integer);
        assert_eq!(decoded.spans, [(-79, 1), (78, 2), (3, 1)]);
        assert_eq!(decoded.deltas, [1, 0, 0, 0]);
        let second = histogram(2, &[-39, 0, 1, 3].map(one), 0.0);
        let decoded = encoded(NativeValue::Counted(&second), CountForm::Integer);
        assert_eq!(decoded.spans, [(-39, 1), (38, 4)]);
        assert_eq!(decoded.deltas, [1, 0, 0, -1, 1]);
        let third = histogram(2, &[0, 3].map(one), 0.0);
        let decoded = encoded(NativeValue::Counted(&third), CountForm::Float);
        assert_eq!(decoded.spans, [(0, 4)]);
        assert_eq!(decoded.counts, [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn an_integer_histogram() {
        let histogram = histogram(3, &[(5, 1.0)], 2.0);
        assert_eq!(
            encoded(NativeValue::Counted(&histogram), CountForm::Integer),
            Decoded {
                integers: vec![(1, 3), (4, 6), (6, 2), (15, 1_700)],
                doubles: vec![(3, 1.5), (5, 2.938_735_877_055_719e-39)],
                spans: vec![(5, 1)],
                deltas: vec![1],
                counts: vec![],
            }
        );
    }

    #[test]
    fn a_float_histogram() {
        let histogram = histogram(-4, &[(-1, 0.5), (0, 2.25)], 0.0);
        assert_eq!(
            encoded(NativeValue::Counted(&histogram), CountForm::Float),
            Decoded {
                integers: vec![(4, 7), (15, 1_700)],
                doubles: vec![(2, 2.75), (3, 1.5), (5, 2.938_735_877_055_719e-39), (7, 0.0)],
                spans: vec![(-1, 2)],
                deltas: vec![],
                counts: vec![0.5, 2.25],
            }
        );
    }

    #[test]
    fn an_empty_histogram_and_a_marker_have_no_buckets() {
        let schema = Schema::new(3).unwrap();
        assert_eq!(
            encoded(NativeValue::Empty(schema), CountForm::Integer),
            Decoded {
                integers: vec![(1, 0), (4, 6), (6, 0), (15, 1_700)],
                doubles: vec![(3, 0.0), (5, 0.0)],
                ..Decoded::default()
            }
        );
        let marker = encoded(NativeValue::Stale, CountForm::Float);
        assert_eq!(marker.doubles[0], (2, 0.0));
        assert_eq!(marker.doubles[1].1.to_bits(), STALE.to_bits());
        assert!(marker.spans.is_empty() && marker.counts.is_empty());
    }

    #[test]
    fn the_form_is_integer_while_counts_are_exact_in_it() {
        let form = |counts: &[(i16, f64)], is_weighted| CountForm::of(&buckets(counts), is_weighted);
        assert_eq!(form(&[(1, 3.0)], false), CountForm::Integer);
        assert_eq!(form(&[], false), CountForm::Integer);
        assert_eq!(form(&[(1, 3.0)], true), CountForm::Float);
        assert_eq!(form(&[(1, 3.0), (2, 0.5)], false), CountForm::Float);
        assert_eq!(form(&[(1, EXACT)], false), CountForm::Integer);
        assert_eq!(form(&[(1, EXACT), (2, 2.0)], false), CountForm::Float);
    }

    proptest! {
        #[test]
        fn spans_and_counts_tell_every_bucket(
            counts in prop::collection::btree_map(any::<i16>(), 1..1_000_000u32, 0..60),
        ) {
            let pairs: Vec<_> = counts.iter().map(|(index, count)| (*index, f64::from(*count))).collect();
            let histogram = histogram(8, &pairs, 0.0);
            let integer = encoded(NativeValue::Counted(&histogram), CountForm::Integer);
            let float = encoded(NativeValue::Counted(&histogram), CountForm::Float);
            prop_assert_eq!(&integer.spans, &float.spans);
            let absolute: Vec<i64> = integer.deltas.iter().scan(0, |count, delta| {
                *count += delta;
                Some(*count)
            }).collect();
            let doubles: Vec<f64> = absolute.iter().map(|count| *count as f64).collect();
            prop_assert_eq!(&doubles, &float.counts);
            let mut indexes = Vec::new();
            let mut next = 0;
            for (number, (offset, length)) in integer.spans.iter().enumerate() {
                prop_assert!(*length > 0 && (number == 0 || *offset > i64::from(LONGEST_FILLED_GAP)));
                next += offset;
                indexes.extend(next..next + *length as i64);
                next += *length as i64;
            }
            prop_assert_eq!(indexes.len(), float.counts.len());
            let filled = indexes.into_iter().zip(float.counts).filter(|(_, count)| *count != 0.0);
            let filled: Vec<_> = filled.map(|(index, count)| (index as i16, count)).collect();
            prop_assert_eq!(filled, pairs);
        }
    }
}

//! Halves of edges and label sets: what is well-formed against a plain model, and arbitrary bytes.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use millrace_engine::half::{self, DIMENSIONS, HalfBuilder};
use millrace_engine::labels::{Labels, label_set, sanitize, truncate};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    lower: BTreeMap<u8, &'a [u8]>,
    upper: BTreeMap<u8, &'a [u8]>,
    from: BTreeMap<u8, &'a [u8]>,
    to: BTreeMap<u8, &'a [u8]>,
    pairs: Vec<(&'a [u8], &'a [u8])>,
    name: &'a str,
    limit: u8,
    raw: [&'a [u8]; 4],
}

fuzz_target!(|input: Input<'_>| {
    let (lower, upper) = (half_of(&input.lower), half_of(&input.upper));
    let mut expected = input.lower.clone();
    expected.extend(&input.upper);
    assert_eq!(half::overlay(&lower, &upper), half_of(&expected));
    let same = slot_names(&input.from);
    let moved = half::moved(&lower, &same, &same);
    for (slot, text) in half::slots(&moved) {
        assert!(slot < DIMENSIONS + input.from.len());
        assert_eq!(half::slot(&lower, slot), Some(text));
    }
    half::moved(&moved, &same, &slot_names(&input.to));

    let set = label_set(input.pairs.clone());
    let model: BTreeMap<&[u8], &[u8]> = input.pairs.iter().copied().collect();
    let wanted = model.into_iter().filter(|(_, value)| !value.is_empty());
    assert!(Labels(&set).eq(wanted), "{set:?}");

    let cut = truncate(input.name.as_bytes(), usize::from(input.limit));
    assert!(input.limit == 0 || cut.len() <= usize::from(input.limit));
    assert!(std::str::from_utf8(cut).is_ok() && input.name.as_bytes().starts_with(cut));
    assert!(
        sanitize(input.name)
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    );

    let [one, two, three, four] = input.raw;
    let merged = half::overlay(one, two);
    assert!(merged.len() <= one.len() + two.len());
    half::moved(one, three, four);
    half::moved(&merged, three, four);
    assert!(half::slots(one).count() <= one.len());
    assert!(Labels(three).count() <= three.len());
    Labels(four).is_valid();
    truncate(four, usize::from(input.limit));
});

fn half_of(slots: &BTreeMap<u8, &[u8]>) -> Vec<u8> {
    let mut half = HalfBuilder::default();
    for (slot, text) in slots {
        half.put(usize::from(*slot), text);
    }
    half.bytes().to_vec()
}

/// Slot names as a plan has them; numbers make them differ.
fn slot_names(names: &BTreeMap<u8, &[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, name) in names {
        millrace_engine::labels::put_label(&mut out, &[*number], name);
    }
    out
}

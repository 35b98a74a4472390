//! Span names, one a line, for the model that learns patterns. Byte 0 is the most clusters it may know.
//!
//! A second model learns the names of all inputs, because only then its bound of bytes is reached. What it finds needs
//! more than one input to happen again.

#![no_main]

use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;
use millrace_engine::drain::{Drain, MAX_BYTES, MAX_CLUSTERS};
use millrace_engine::drain_clusters::WILDCARD;

static LASTING: Mutex<Option<Drain>> = Mutex::new(None);

fuzz_target!(|input: &[u8]| {
    let Some((first, lines)) = input.split_first() else {
        return;
    };
    let capacity = usize::from(*first).max(1);
    let mut model = Drain::new(capacity, 7);
    let mut slot = LASTING.lock().expect("no panic is survived");
    let lasting = slot.get_or_insert_with(|| Drain::new(MAX_CLUSTERS, 7));
    let names = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok());
    for name in names {
        learn(&mut model, name, capacity);
        learn(lasting, name, MAX_CLUSTERS);
    }
});

fn learn(model: &mut Drain, name: &str, capacity: usize) {
    let version = model.version();
    let trained = model.train(name);
    if let Some(pattern) = trained.pattern {
        check_pattern(pattern, name);
    }
    let memo = trained.memo;
    if model.version() == version {
        assert!(model.recall(memo), "what was just learned is known: {name:?}");
    } else {
        model.recall(memo);
    }
    assert!(model.len() <= capacity, "{} clusters", model.len());
    assert!(model.state_bytes() <= MAX_BYTES, "{} bytes", model.state_bytes());
}

/// A pattern is the name with some tokens replaced: what stands between wildcards stands in the name, in this order.
fn check_pattern(pattern: &str, name: &str) {
    assert_ne!(pattern, name);
    let mut rest = name;
    for (index, piece) in pattern.split(WILDCARD).enumerate() {
        let at = rest
            .find(piece)
            .unwrap_or_else(|| panic!("{pattern:?} does not stand for {name:?}"));
        assert!(index > 0 || at == 0, "{pattern:?} does not stand for {name:?}");
        rest = &rest[at + piece.len()..];
    }
}

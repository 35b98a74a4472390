//! Write relabelling: rules as a JSON text, or made; and the labels of a series.
//!
//! Byte 0 is even for a text, which goes up to a byte 0xff; else the rest makes the rules.

#![no_main]

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use millrace_engine::relabel::{LabelList, Relabel, Verdict};
use serde_json::{Value, json};

const ACTIONS: [&str; 11] = [
    "replace",
    "keep",
    "drop",
    "keepequal",
    "dropequal",
    "hashmod",
    "labelmap",
    "labeldrop",
    "labelkeep",
    "lowercase",
    "uppercase",
];

#[derive(Debug, Arbitrary)]
struct Rule<'a> {
    sources: Vec<&'a str>,
    separator: &'a str,
    regex: &'a str,
    modulus: u64,
    target: &'a str,
    replacement: &'a str,
    action: u8,
}

impl Rule<'_> {
    fn document(&self) -> Value {
        json!({
            "source_labels": self.sources,
            "separator": self.separator,
            "regex": self.regex,
            "modulus": self.modulus,
            "target_label": self.target,
            "replacement": self.replacement,
            "action": ACTIONS[usize::from(self.action) % ACTIONS.len()],
        })
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == 0xff).unwrap_or(rest.len());
    let (text, labels) = rest.split_at(end);
    let mut unread = Unstructured::new(if first & 1 == 0 { labels } else { rest });
    let rules = if first & 1 == 0 {
        let Ok(text) = std::str::from_utf8(text) else {
            return;
        };
        text.to_owned()
    } else {
        let rules = Vec::<Rule>::arbitrary(&mut unread).unwrap_or_default();
        rules.iter().map(Rule::document).collect::<Value>().to_string()
    };
    let Ok(relabel) = Relabel::from_json(&rules) else {
        return;
    };
    let mut labels = BTreeMap::<String, String>::arbitrary(&mut unread).unwrap_or_default();
    labels.retain(|name, value| !name.is_empty() && !value.is_empty());
    labels.insert("__name__".to_owned(), "traces_spanmetrics_calls_total".to_owned());
    check(&relabel, &labels);
});

fn check(relabel: &Relabel, labels: &BTreeMap<String, String>) {
    let apply = || {
        let mut list = LabelList::new(
            labels
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        );
        (relabel.apply(&mut list), list.into_sorted())
    };
    let (verdict, left) = apply();
    assert_eq!((verdict, &left), (apply().0, &apply().1), "rules have no memory");
    if verdict != Verdict::Kept {
        return;
    }
    for pair in left.windows(2) {
        assert!(pair[0].0 < pair[1].0, "no label twice: {left:?}");
    }
    for (name, value) in &left {
        assert!(
            !name.is_empty() && !value.is_empty(),
            "an empty label is none: {left:?}"
        );
    }
    if !relabel.changes_labels() {
        let is_same = left
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .eq(labels.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        assert!(is_same, "rules that only choose change nothing");
    }
}

//! Settings: a JSON text, or the document with values replaced; what compiles is used on a request.
//!
//! Byte 0 is even for a text, which is the rest; else the rest says which values are replaced by what.

#![no_main]

use std::sync::{Arc, OnceLock};

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use millrace_engine::plan::Plan;
use millrace_engine::settings::Settings;
use millrace_engine_fuzz::journey::{Journey, read_request};
use millrace_engine_fuzz::plans::{self, KEYS, document};
use millrace_engine_fuzz::request::Request;
use millrace_engine_fuzz::written;
use serde_json::{Map, Value, json};

#[derive(Debug, Arbitrary)]
enum Replacement<'a> {
    Null,
    Bool(bool),
    Whole(u64),
    Number(f64),
    Text(&'a str),
    Numbers(Vec<f64>),
    Keys(Vec<Key<'a>>),
    Mappings(Vec<(Key<'a>, Vec<Key<'a>>, &'a str)>),
    Policies(Vec<[Option<Block<'a>>; 3]>),
    Mode(u8),
    HostInfo(Vec<Key<'a>>, &'a str),
}

#[derive(Debug, Arbitrary)]
struct Block<'a> {
    is_regex: bool,
    attributes: Vec<(Key<'a>, Compared<'a>)>,
}

#[derive(Debug, Arbitrary)]
enum Compared<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
}

#[derive(Debug, Arbitrary)]
enum Key<'a> {
    Watched(u8),
    Intrinsic(u8),
    Any(&'a str),
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let settings = if first & 1 == 0 {
        std::str::from_utf8(rest)
            .ok()
            .and_then(|text| Settings::from_json(text).ok())
    } else {
        Settings::from_json(&replaced(rest).to_string()).ok()
    };
    let Some(plan) = settings.and_then(|settings| Plan::compile(&settings).ok()) else {
        return;
    };
    let plan = Arc::new(plan);
    let Some(split) = read_request(request(), &plan, 2, true) else {
        panic!("a well-formed request was refused");
    };
    let mut journey = Journey::new(&plan, 2);
    journey.apply(&split.frames);
    let batches = journey.collect();
    journey.check_counts(&batches, &[&split]);
    journey.set_plan(&plans::plan(1));
    journey.set_plan(&plan);
    journey.apply(&split.frames);
    written::read(&journey.collect());
    journey.end();
});

/// One request for all: enough to fill every label, edge and info metric.
fn request() -> &'static [u8] {
    static REQUEST: OnceLock<Vec<u8>> = OnceLock::new();
    REQUEST.get_or_init(Request::example)
}

fn replaced(bytes: &[u8]) -> Value {
    let mut json = document();
    let mut pointers = Vec::new();
    list(&json, "", &mut pointers);
    let mut source = Unstructured::new(bytes);
    while !source.is_empty() {
        let Ok((number, replacement)) = <(u8, Replacement<'_>)>::arbitrary(&mut source) else {
            break;
        };
        let pointer = &pointers[usize::from(number) % pointers.len()];
        if let Some(slot) = json.pointer_mut(pointer) {
            *slot = replacement.value();
        }
    }
    json
}

fn list(json: &Value, path: &str, pointers: &mut Vec<String>) {
    for (key, value) in json.as_object().into_iter().flat_map(Map::iter) {
        let path = format!("{path}/{key}");
        list(value, &path, pointers);
        pointers.push(path);
    }
}

impl Replacement<'_> {
    fn value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => json!(value),
            Self::Whole(value) => json!(value),
            Self::Number(value) => json!(value),
            Self::Text(text) => json!(text),
            Self::Numbers(values) => json!(values),
            Self::Keys(keys) => keys.iter().map(Key::text).collect(),
            Self::Mappings(mappings) => mappings
                .iter()
                .map(|(name, sources, join)| {
                    let sources: Vec<&str> = sources.iter().map(Key::text).collect();
                    json!({"name": name.text(), "source_labels": sources, "join": join})
                })
                .collect(),
            Self::Policies(policies) => policies.iter().map(policy).collect(),
            Self::Mode(number) => {
                let modes = [
                    "classic", "native", "both", "series", "entity", "dry_run", "enabled", "",
                ];
                json!(modes[usize::from(*number) % modes.len()])
            }
            Self::HostInfo(keys, name) => {
                let keys: Vec<&str> = keys.iter().map(Key::text).collect();
                json!({"host_identifiers": keys, "metric_name": name})
            }
        }
    }
}

fn policy(blocks: &[Option<Block<'_>>; 3]) -> Value {
    let named = std::iter::zip(["include", "include_any", "exclude"], blocks);
    named
        .filter_map(|(name, block)| Some((name.to_owned(), block.as_ref()?.value())))
        .collect::<Map<_, _>>()
        .into()
}

impl Block<'_> {
    fn value(&self) -> Value {
        let attributes: Vec<Value> = self
            .attributes
            .iter()
            .map(|(key, compared)| {
                let value = match compared {
                    Compared::Bool(value) => json!(value),
                    Compared::Int(value) => json!(value),
                    Compared::Double(value) => json!(value),
                    Compared::Text(text) => json!(text),
                };
                json!({"key": key.text(), "value": value})
            })
            .collect();
        let match_type = if self.is_regex { "regex" } else { "strict" };
        json!({"match_type": match_type, "attributes": attributes})
    }
}

impl Key<'_> {
    fn text(&self) -> &str {
        const INTRINSIC: [&str; 8] = [
            "name",
            "kind",
            "status",
            "statusMessage",
            "resource.region",
            "span.region",
            "span_name",
            "server",
        ];
        match self {
            Self::Watched(number) => KEYS[usize::from(*number) % KEYS.len()],
            Self::Intrinsic(number) => INTRINSIC[usize::from(*number) % INTRINSIC.len()],
            Self::Any(text) => text,
        }
    }
}

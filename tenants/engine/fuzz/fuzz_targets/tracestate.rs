//! The header tracestate, and what its first eight bytes say as a sampling ratio.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::any_value::AnyValue;
use millrace_engine::multiplier::{
    MAX_MULTIPLIER, MultiplierPlan, attribute_multiplier, tracestate_multiplier,
};

fuzz_target!(|tracestate: &[u8]| {
    let is_weight = |weight: f64| weight > 0.0 && weight <= MAX_MULTIPLIER;
    let weight = tracestate_multiplier(tracestate);
    assert!(weight == 0.0 || is_weight(weight), "{weight}");
    let ratio = tracestate
        .first_chunk()
        .map_or(0.0, |bytes| f64::from_le_bytes(*bytes));
    let from_attribute = attribute_multiplier(AnyValue::Double(ratio));
    assert!(from_attribute.is_none_or(is_weight), "{from_attribute:?}");
    let plan = MultiplierPlan {
        key: Some(0),
        tracestate: true,
    };
    assert!(is_weight(plan.weight(tracestate, from_attribute)));
});

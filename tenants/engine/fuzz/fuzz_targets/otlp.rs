//! An OTLP request, as bytes or well-formed, goes the whole way: gateway, shards, registry, remote write.
//!
//! Byte 0 chooses the plan, and whether the shards are cut anew and everything is sent again; byte 1 the way; the rest is
//! the request, or what one is made of.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine_fuzz::journey::{Journey, read_request};
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::request::Request;
use millrace_engine_fuzz::written;

fuzz_target!(|input: &[u8]| {
    let [first, way, rest @ ..] = input else {
        return;
    };
    let has = |bit: u8| way & 1 << bit != 0;
    let made;
    let body = if has(0) {
        made = Request::encode(rest);
        &*made
    } else {
        rest
    };
    let shard_count = if has(1) { 3 } else { 1 };
    let before = plan(*first);
    let Some(split) = read_request(body, &before, shard_count, !has(2)) else {
        assert!(!has(0) || has(2), "a well-formed request was refused");
        return;
    };
    let mut journey = Journey::new(&before, shard_count);
    if *first >= 0x80 && !has(2) {
        let mut twice = Journey::new(&before, shard_count);
        twice.apply_once(body, &split.frames, shard_count);
        for count in [2, 1, 5] {
            twice.rescale(count);
            twice.apply_once(body, &split.frames, shard_count);
        }
        let batches = twice.collect();
        // What was merged earlier than now is gone where series live no time.
        if before.stale_ms > 0 {
            twice.check_counts(&batches, &[&split]);
        }
        twice.end();
    }
    journey.apply(&split.frames);
    if has(3) {
        journey.apply(&split.frames);
        let batches = journey.collect();
        journey.check_counts(&batches, &[&split, &split]);
    } else if !has(4) {
        let batches = journey.collect();
        journey.check_counts(&batches, &[&split]);
    }
    if has(4) {
        // The frames of before come once more, as from a gateway that has not heard.
        let after = plan(way >> 5);
        journey.set_plan(&after);
        journey.apply(&split.frames);
        if let Some(split) = read_request(body, &after, shard_count, !has(2)) {
            journey.apply(&split.frames);
        }
        written::read(&journey.collect());
    }
    journey.end();
});

//! Bytes given to a registry as its checkpoint. Byte 0 chooses the plans; the rest is the checkpoint without its checksum.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use millrace_engine::plan::Plan;
use millrace_engine::registry::Registry;
use millrace_engine::remote_write::{ExternalLabels, Protocol};
use millrace_engine::shard::{Origin, Shard};
use millrace_engine_fuzz::journey::read_request;
use millrace_engine_fuzz::plans::{PLANS, plan};
use millrace_engine_fuzz::request::Request;
use millrace_engine_fuzz::sealed::sealed;
use millrace_engine_fuzz::{NOW_MS, NOW_NS, everything};

const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let (before, after) = (plan(*first), plan(first >> 4));
    assert!(Registry::restore(Arc::clone(&before), content).is_err());
    let Ok(mut registry) = Registry::restore(Arc::clone(&before), &sealed(content)) else {
        return;
    };
    let checkpoint = registry.checkpoint();
    let again = Registry::restore(before, &checkpoint).expect("a checkpoint just made");
    assert!(again.checkpoint() == checkpoint, "the same state has other bytes");
    let external = ExternalLabels::new(&[("cluster".to_owned(), "fuzz".to_owned())]);
    registry.collect(NOW_MS + 1_000, &external, 1000, everything(Protocol::Two));
    for (source, record) in (1..).zip(records(*first)) {
        let _ = registry.merge(source, record, NOW_NS + 2 * SECOND_NS);
    }
    registry.collect_silently(NOW_MS + 3_000);
    registry.set_plan(after);
    for (source, record) in (1..).zip(records(first >> 4)) {
        let _ = registry.merge(source, record, NOW_NS + 4 * SECOND_NS);
    }
    registry.collect(NOW_MS + 5_000, &external, 1000, everything(Protocol::Two));
    registry.forget_source(1);
    registry.sweep(NOW_MS + 1_000_000);
    registry.end_all(NOW_MS + 1_001_000, &external, 1000, Protocol::Two);
    registry.stats();
    registry.label_stats().for_each(drop);
    registry.checkpoint();
});

/// What shards tell of one request, by the plan that a byte chooses.
fn records(number: u8) -> &'static [Vec<u8>] {
    static RECORDS: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    let records = RECORDS.get_or_init(|| (0..PLANS as u8).map(|number| told(&plan(number))).collect());
    &records[usize::from(number) % PLANS]
}

fn told(plan: &Arc<Plan>) -> Vec<Vec<u8>> {
    let split = read_request(&Request::example(), plan, 2, true);
    let frames = split.iter().flat_map(|split| &split.frames);
    let record = |(_, frame): &(usize, Vec<u8>)| {
        let mut shard = Shard::new(Arc::clone(plan));
        shard
            .apply(frame, NOW_NS, Origin::default())
            .expect("a frame just made");
        shard.flush(NOW_NS, true)
    };
    frames.map(record).collect()
}

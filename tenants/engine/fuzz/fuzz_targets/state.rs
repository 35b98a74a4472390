//! Bytes given to a shard as the state of its former owner. Byte 0 chooses the plans; the rest is the state without its
//! checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::mirror::Mirror;
use millrace_engine::registry::Registry;
use millrace_engine::shard::{DEDUPLICATION_WINDOW_NS, Shard};
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::sealed::sealed;
use millrace_engine_fuzz::{NOW_MS, NOW_NS};

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let (before, after) = (plan(*first), plan(first >> 4));
    let resume = |state: &[u8]| Shard::resume(before.clone(), (0, 1), DEDUPLICATION_WINDOW_NS, state);
    assert!(content.is_empty() || resume(content).is_err());
    let state = sealed(content);
    let Ok(mut shard) = resume(&state) else {
        return;
    };
    let waiting = shard.stats().open_edges;
    let mut registry = Registry::new(before.clone(), NOW_MS);
    let mut mirror = Mirror::new(DEDUPLICATION_WINDOW_NS);
    let mut take = |record: &[u8]| {
        if !record.is_empty() {
            registry.merge(1, record, NOW_NS).expect("a record just made");
            mirror.apply(0, 1, record, NOW_NS).expect("a record just made");
        }
    };
    // At time 0 nothing has waited for long.
    take(&shard.flush(0, false));
    assert_eq!(shard.stats().open_edges, waiting);
    take(&shard.set_plan(after, NOW_NS));
    take(&shard.flush(NOW_NS, true));
    assert_eq!(shard.stats().open_edges, 0);
    assert_eq!(mirror.stats().open_edges, 0);
});

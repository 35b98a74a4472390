//! Bytes given to a shard as a frame. Byte 0 chooses the plan; the rest is the frame without its checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::fingerprint::Fingerprint;
use millrace_engine::hash_range::HashRange;
use millrace_engine::mirror::Mirror;
use millrace_engine::registry::Registry;
use millrace_engine::remote_write::{ExternalLabels, Protocol};
use millrace_engine::shard::{DEDUPLICATION_WINDOW_NS, Origin, Shard};
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::sealed::sealed;
use millrace_engine_fuzz::{NOW_MS, NOW_NS, everything};

const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let (before, after) = (plan(*first), plan(first >> 4));
    let mut shard = Shard::new(before.clone());
    let empty = shard.stats();
    if shard.apply(content, NOW_NS, origin(0)).is_err() {
        assert_eq!(shard.stats(), empty, "a refused frame left something behind");
    }
    let frame = sealed(content);
    if shard.apply(&frame, NOW_NS, origin(0)).is_err() {
        assert_eq!(shard.stats(), empty, "a refused frame left something behind");
        return;
    }
    let mut registry = Registry::new(before, NOW_MS - 60_000);
    let mut records = vec![shard.flush(NOW_NS, false)];
    let taken = shard.apply(&frame, NOW_NS + 400 * SECOND_NS, origin(0));
    assert_eq!(taken, Ok(false), "a request is counted twice");
    let taken = shard.apply(&frame, NOW_NS + 400 * SECOND_NS, origin(1));
    assert_eq!(taken, Ok(true), "a frame is taken once and not again");
    records.push(shard.set_plan(after.clone(), NOW_NS + 400 * SECOND_NS));
    let taken = shard.apply(&frame, NOW_NS + 401 * SECOND_NS, Origin::default());
    assert_eq!(
        taken,
        Ok(true),
        "a frame is taken under one plan and not under another"
    );
    records.push(shard.flush(NOW_NS + 402 * SECOND_NS, true));
    records.push(shard.redefine());
    assert_eq!(shard.stats().open_edges, 0);
    let mut mirror = Mirror::new(DEDUPLICATION_WINDOW_NS);
    for (index, record) in records
        .iter()
        .enumerate()
        .filter(|(_, record)| !record.is_empty())
    {
        registry
            .merge(1, record, NOW_NS + 402 * SECOND_NS)
            .expect("a record that a shard made");
        mirror
            .apply(0, 1, record, NOW_NS + 402 * SECOND_NS)
            .expect("a record that a shard made");
        if index == 1 {
            registry.collect(
                NOW_MS + 403_000,
                &ExternalLabels::default(),
                1000,
                everything(Protocol::Two),
            );
            registry.set_plan(after.clone());
        }
    }
    registry.collect(
        NOW_MS + 404_000,
        &ExternalLabels::default(),
        1000,
        everything(Protocol::Two),
    );
});

/// A request of which this is the frame for a half of the hashes.
fn origin(number: u8) -> Origin {
    Origin {
        fingerprint: Some(Fingerprint::of(&[number])),
        made_for: HashRange::of(u32::from(number), 2),
    }
}

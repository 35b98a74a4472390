//! Bytes given to a registry and a mirror as a record. Byte 0 chooses the plans; the rest are the parts of the record
//! (`sealed_record`).

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::mirror::Mirror;
use millrace_engine::record_envelope::durable_part;
use millrace_engine::registry::{Registry, RegistryStats};
use millrace_engine::remote_write::{ExternalLabels, Protocol};
use millrace_engine::shard::{DEDUPLICATION_WINDOW_NS, Shard};
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::sealed::sealed_record;
use millrace_engine_fuzz::{NOW_MS, NOW_NS, everything};

const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let external = ExternalLabels::new(&[("cluster".to_owned(), "fuzz".to_owned())]);
    let (before, after) = (plan(*first), plan(first >> 4));
    let mut registry = Registry::new(before.clone(), NOW_MS - 60_000);
    let empty = kept(&registry.stats());
    if registry.merge(1, content, NOW_NS).is_err() {
        assert_eq!(
            kept(&registry.stats()),
            empty,
            "a refused record left something behind"
        );
    }
    let record = sealed_record(content);
    let durable = durable_part(&record).expect("a sealed record");
    mirrored(durable, *first);
    let is_readable = Registry::new(before.clone(), NOW_MS)
        .merge(1, &record, NOW_NS)
        .is_ok();
    let is_durable = Registry::new(before.clone(), NOW_MS)
        .merge(1, durable, NOW_NS)
        .is_ok();
    assert!(
        !is_readable || is_durable,
        "a record is readable with exemplars only"
    );
    if registry.merge(1, &record, NOW_NS).is_err() {
        assert_eq!(
            kept(&registry.stats()),
            empty,
            "a refused record left something behind"
        );
        return;
    }
    registry.collect(NOW_MS + 1_000, &external, 1000, everything(Protocol::Two));
    let _ = registry.merge(2, &record, NOW_NS + 2 * SECOND_NS);
    registry.set_plan(after);
    let _ = registry.merge(1, &record, NOW_NS + 3 * SECOND_NS);
    registry.collect(NOW_MS + 4_000, &external, 1000, everything(Protocol::Two));
    registry.forget_source(1);
    registry.sweep(NOW_MS + 1_000_000);
    registry.end_all(NOW_MS + 1_001_000, &external, 1000, Protocol::Two);
    let stats = registry.stats();
    assert_eq!((stats.budget.series.active, stats.budget.entities.active), (0, 0));
    registry.label_stats().for_each(drop);
});

/// A mirror takes the record or stays as it is, and what it then knows can be gone on with.
fn mirrored(record: &[u8], number: u8) {
    let mut mirror = Mirror::new(DEDUPLICATION_WINDOW_NS);
    let is_taken = mirror.apply(1, 3, record, NOW_NS).is_ok();
    assert_eq!(Mirror::check(1, 3, record).is_ok(), is_taken);
    if !is_taken {
        assert_eq!(
            mirror.stats().state_bytes,
            0,
            "a refused record left something behind"
        );
        return;
    }
    let checkpoint = mirror.checkpoint();
    let mut restored = Mirror::restore(&checkpoint).expect("a checkpoint just made");
    assert_eq!(restored.checkpoint(), checkpoint);
    for (index, count) in [(0, 2), (1, 2), (0, 1)] {
        let state = mirror.claim(index, count, NOW_NS).expect("a range that there is");
        assert_eq!(restored.claim(index, count, NOW_NS).as_ref(), Ok(&state));
        let resumed = Shard::resume(plan(number), (index, count), DEDUPLICATION_WINDOW_NS, &state);
        let told = resumed.expect("a state just made").flush(NOW_NS, true);
        if !told.is_empty() {
            restored
                .apply(index, count, &told, NOW_NS)
                .expect("a record just made");
            assert_eq!(
                restored
                    .ranges()
                    .find(|range| (range.0, range.1) == (index, count)),
                Some((index, count, 0))
            );
            restored = Mirror::restore(&mirror.checkpoint()).expect("a checkpoint just made");
        }
    }
}

/// What a record may change.
fn kept(stats: &RegistryStats) -> (usize, u64, u64, [u64; 4]) {
    let counters = stats.counters;
    let counted = [
        counters.edges,
        counters.dropped_spans,
        counters.dropped_edges,
        counters.marker_overflow,
    ];
    (
        stats.entities,
        stats.budget.series.added,
        stats.series_demand,
        counted,
    )
}

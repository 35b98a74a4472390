//! Bytes given to a registry as a record. Byte 0 chooses the plans; the rest is the record without its checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::registry::{Registry, RegistryStats};
use millrace_engine::remote_write::ExternalLabels;
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::sealed::sealed;
use millrace_engine_fuzz::{NOW_MS, NOW_NS};

const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let external = ExternalLabels::new(&[("cluster".to_owned(), "fuzz".to_owned())]);
    let (before, after) = (plan(*first), plan(first >> 4));
    let mut registry = Registry::new(before, NOW_MS - 60_000);
    let empty = kept(&registry.stats());
    if registry.merge(1, content, NOW_NS).is_err() {
        assert_eq!(
            kept(&registry.stats()),
            empty,
            "a refused record left something behind"
        );
    }
    let record = sealed(content);
    if registry.merge(1, &record, NOW_NS).is_err() {
        assert_eq!(
            kept(&registry.stats()),
            empty,
            "a refused record left something behind"
        );
        return;
    }
    registry.collect(NOW_MS + 1_000, &external, 1000, true);
    let _ = registry.merge(2, &record, NOW_NS + 2 * SECOND_NS);
    registry.set_plan(after);
    let _ = registry.merge(1, &record, NOW_NS + 3 * SECOND_NS);
    registry.collect(NOW_MS + 4_000, &external, 1000, true);
    registry.forget_source(1);
    registry.sweep(NOW_MS + 1_000_000);
    registry.end_all(NOW_MS + 1_001_000, &external, 1000);
    let stats = registry.stats();
    assert_eq!((stats.budget.series.active, stats.budget.entities.active), (0, 0));
    registry.label_stats().for_each(drop);
});

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

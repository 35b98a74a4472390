//! Bytes given to a collector as the checkpoint of a mirror. Byte 0 chooses the plan of a successor, and which range it
//! claims; the rest is the checkpoint without its checksum.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::mirror::Mirror;
use millrace_engine::shard::Shard;
use millrace_engine_fuzz::NOW_NS;
use millrace_engine_fuzz::plans::plan;
use millrace_engine_fuzz::sealed::sealed;

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    assert!(Mirror::restore(content).is_err());
    let Ok(mut mirror) = Mirror::restore(&sealed(content)) else {
        return;
    };
    let mut twin = Mirror::restore(&mirror.checkpoint()).expect("a checkpoint just made");
    let count = u32::from(first >> 4) + 1;
    let ranges = [(u32::from(*first) % count, count), (0, 1)];
    for (index, count) in ranges {
        let state = mirror.claim(index, count, NOW_NS).expect("a range that there is");
        assert_eq!(twin.claim(index, count, NOW_NS).as_ref(), Ok(&state));
        assert_eq!(mirror.claim(index, count, NOW_NS).as_ref(), Ok(&state));
        Shard::resume(plan(*first), (index, count), u64::MAX, &state).expect("a state just made");
    }
    assert_eq!(
        (mirror.stats().ranges, mirror.checkpoint()),
        (1, twin.checkpoint())
    );
});

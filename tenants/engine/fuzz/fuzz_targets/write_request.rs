//! Bytes given out as a remote-write batch that is to be said in 1.0, divided, or sent in steps. Byte 0 chooses whether they are compressed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::batch_rewrite::{Steps, as_remote_write_1, split_batch, steps};
use millrace_engine::remote_write::{Protocol, WriteBatch};

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let compressed = snap::raw::Encoder::new()
        .compress_vec(content)
        .expect("an input is small");
    let body = if first & 1 == 0 { content } else { &compressed };
    if let Ok(halves) = split_batch(body, Protocol::One) {
        check_halves(&halves, Protocol::One);
    }
    let halves = split_batch(body, Protocol::Two);
    if let Ok(halves) = &halves {
        check_halves(halves, Protocol::Two);
    }
    for protocol in Protocol::ALL {
        if let (Ok(steps), Ok(halves)) = (steps(body, protocol), split_batch(body, protocol)) {
            check_steps(steps, &halves);
        }
    }
    let Ok(whole) = as_remote_write_1(body) else {
        return;
    };
    let halves = halves.expect("what can be said in 1.0 can be halved");
    let said = halves.iter().map(|half| as_remote_write_1(&half.body));
    let said: Vec<WriteBatch> = said
        .collect::<Result<_, _>>()
        .expect("a half can be said like the whole");
    assert_eq!(counts(&said), counts(std::slice::from_ref(&whole)));
    let again = split_batch(&whole.body, Protocol::One).expect("a batch just made");
    assert_eq!(counts(&again), counts(&[whole]));
});

/// What cannot be divided comes back as it is, the rest in two parts.
fn check_halves(halves: &[WriteBatch], protocol: Protocol) {
    assert!(halves.len() <= 2);
    for half in halves {
        let parts = split_batch(&half.body, protocol).expect("a half is a batch");
        assert_eq!(counts(&parts), counts(std::slice::from_ref(half)));
        assert_eq!(parts.len(), half.series.min(2));
    }
}

/// Every sample is in one step, and every exemplar of a series that has samples.
fn check_steps(steps: Steps, halves: &[WriteBatch]) {
    let mut all = steps.ahead;
    all.extend(steps.alone);
    all.extend(steps.last);
    let ([_, samples, histograms, exemplars], [_, of_samples, of_histograms, of_exemplars]) =
        (counts(&all), counts(halves));
    assert_eq!((samples, histograms), (of_samples, of_histograms));
    assert!(exemplars <= of_exemplars);
}

fn counts(batches: &[WriteBatch]) -> [usize; 4] {
    let mut sums = [0; 4];
    for batch in batches {
        let each = [batch.series, batch.samples, batch.histograms, batch.exemplars];
        for (sum, count) in sums.iter_mut().zip(each) {
            *sum += count;
        }
    }
    sums
}

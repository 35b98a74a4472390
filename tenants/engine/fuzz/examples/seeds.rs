//! Writes what fuzzing begins with into `corpus/`: one file for each thing worth varying. The same files every time.

use std::path::Path;
use std::{fs, io};

use millrace_engine::fingerprint::Fingerprint;
use millrace_engine::mirror::Mirror;
use millrace_engine::registry::Registry;
use millrace_engine::remote_write::{ExternalLabels, Protocol};
use millrace_engine::shard::{DEDUPLICATION_WINDOW_NS, Origin, Shard};
use millrace_engine_fuzz::journey::read_request;
use millrace_engine_fuzz::plans::{PLANS, documents};
use millrace_engine_fuzz::request::Request;
use millrace_engine_fuzz::sealed::{CHECKSUM, parts_of_record};
use millrace_engine_fuzz::{NOW_MS, NOW_NS, everything, plans};

const PATTERNS: [&str; 8] = [
    "^GET /[a-z]+$",
    r"(?i)(a|b\d+)*?\x{1F600}[^\w&&x]{2,5}",
    r"\Q[a]\E+|\pL{3}",
    r"[[:alpha:]\p{Greek}-]\b.",
    "(?P<name>(?s:.)*)",
    r"(?m)^\S+$",
    r"\pN\PN\z",
    "((a{10}){10}){10}",
];
const TRACESTATES: [&str; 5] = [
    "ot=th:8",
    "vendor=1, ot=rv:abcdefabcdefab;th:c",
    "ot=th:0;rv:00000000000000;x:y",
    "ot=th:ffffffffffffff;rv:ffffffffffffff",
    "ot=p:8;r:62\t",
];
const RULES: [&str; 3] = [
    r#"[{"source_labels":["span_name"],"separator":";","regex":"GET (.+)","modulus":0,"target_label":"route","replacement":"$1","action":"replace"}]"#,
    r#"[{"source_labels":["a","b"],"separator":"/","regex":"(?P<x>a+)/.*","modulus":7,"target_label":"${x}","replacement":"${x}$$1","action":"hashmod"},{"source_labels":[],"separator":"","regex":"b(.*)","modulus":0,"target_label":"","replacement":"c$1","action":"labelmap"}]"#,
    r#"[{"source_labels":["__name__"],"separator":";","regex":"traces_.*","modulus":0,"target_label":"","replacement":"","action":"keep"},{"source_labels":[],"separator":"","regex":"a|b","modulus":0,"target_label":"","replacement":"","action":"labeldrop"}]"#,
];
const NAMES: [&str; 4] = [
    "GET /users/1\nGET /users/2\nGET /users/me/settings",
    "SELECT * FROM t_1 WHERE id = 123\nSELECT * FROM t_2 WHERE id = 456",
    "a b c\nd b c\n<_> b c\n%2F%20x 0000-ffff",
    "Größe ändern ⅧX\nGröße holen 日本\n",
];

fn main() -> io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, parts: &[&[u8]]| {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("seed-{name}")), parts.concat())
    };
    let texts = |target: &str, first: &[u8], texts: &[&str]| {
        for (number, text) in texts.iter().enumerate() {
            write(target, &number.to_string(), &[first, text.as_bytes()])?;
        }
        io::Result::Ok(())
    };
    texts("pattern", &[], &PATTERNS)?;
    write("pattern", "text", &[b"[0-9]+ ?\\.", &[0xff], b"no 42.\xf0\x28"])?;
    texts("tracestate", &[], &TRACESTATES)?;
    texts("span_names", &[3], &NAMES)?;
    texts("relabel", &[0], &RULES)?;
    let example = Request::example();
    for (number, document) in documents().iter().enumerate() {
        let (chosen, name) = (number as u8, number.to_string());
        write(
            "settings",
            &format!("text-{name}"),
            &[&[0], document.to_string().as_bytes()],
        )?;
        write(
            "settings",
            &format!("made-{name}"),
            &[&[1], &noise(number as u64, 400)],
        )?;
        write(
            "relabel",
            &format!("made-{name}"),
            &[&[1], &noise(number as u64, 300)],
        )?;
        write("halves", &name, &[&noise(number as u64, 600)])?;
        write("otlp", &format!("bytes-{name}"), &[&[chosen, 0], &example])?;
        for (size, way) in [(300, 1), (1500, 0b1011), (3000, 0b11_0011)] {
            let way = way | chosen << 6;
            write(
                "otlp",
                &format!("made-{name}-{size}"),
                &[&[chosen, way], &noise(size, size)],
            )?;
        }
        frames_records_and_states(chosen, &example, |target, bytes| {
            let other = (PLANS as u8 - chosen) << 4;
            write(target, &name, &[&[chosen], bytes])?;
            write(
                target,
                &format!("{name}-other"),
                &[&[(chosen % 3) | other], bytes],
            )
        })?;
    }
    Ok(())
}

/// What a request becomes on its way, under one plan: frames, records, and the states of a registry and of a shard.
fn frames_records_and_states(
    number: u8,
    request: &[u8],
    mut write: impl FnMut(&str, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let plan = plans::plan(number);
    let mut shard = Shard::new(plan.clone());
    let mut registry = Registry::seeded(plan.clone(), NOW_MS - 60_000, 7);
    let mut mirror = Mirror::new(DEDUPLICATION_WINDOW_NS);
    let origin = Origin {
        fingerprint: Some(Fingerprint::of(request)),
        made_for: None,
    };
    let split = read_request(request, &plan, 1, true);
    for (_, frame) in split.iter().flat_map(|split| &split.frames) {
        write("frame", unsealed(frame))?;
        if shard.apply(frame, NOW_NS, origin).is_ok() {
            let record = shard.flush(NOW_NS, false);
            write("record", &parts_of_record(&record))?;
            mirror.apply(0, 1, &record, NOW_NS).expect("a record just made");
            if registry.merge(1, &record, NOW_NS).is_ok() {
                // In both protocols, as they are and decompressed.
                let protocol = Protocol::ALL[usize::from(number / 2 % 2)];
                let external = ExternalLabels::default();
                let batches = registry.collect(NOW_MS + 1_000, &external, 1000, everything(protocol));
                if let Some(batch) = batches.first() {
                    let message = snap::raw::Decoder::new()
                        .decompress_vec(&batch.body)
                        .expect("a batch is compressed");
                    write(
                        "write_request",
                        if number % 2 == 0 { &batch.body } else { &message },
                    )?;
                }
                write("checkpoint", unsealed(&registry.checkpoint()))?;
            }
        }
    }
    write("mirror", unsealed(&mirror.checkpoint()))?;
    let state = mirror.claim(0, 1, NOW_NS).expect("a range that there is");
    write("state", unsealed(&state))
}

fn unsealed(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len() - CHECKSUM]
}

/// Bytes that look random (xorshift).
fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed | 1 << 40;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}

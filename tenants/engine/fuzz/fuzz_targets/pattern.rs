//! A filter's pattern, a byte 0xff, and a text to search.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_engine::filter_regex::Pattern;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == 0xff).unwrap_or(input.len());
    let (pattern, text) = input.split_at(end);
    let Ok(pattern) = std::str::from_utf8(pattern) else {
        return;
    };
    let Ok(compiled) = Pattern::new(pattern) else {
        return;
    };
    let text = text.get(1..).unwrap_or_default();
    let matches = compiled.is_match(text);
    // Unless the group makes it nest too deeply, or is a part of a quotation that does not end.
    if let Ok(grouped) = Pattern::new(&format!("(?:{pattern})")) {
        assert_eq!(
            grouped.is_match(text),
            matches,
            "a group around it changes {pattern:?}"
        );
    }
});

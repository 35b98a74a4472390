//! A pattern of a filter or of a relabelling rule: RE2's syntax and meaning, with bounds on what it may cost (processors §0.8 and §0.9).
//!
//! The engine behind it never backtracks: a search takes time in proportion to the text, whatever the pattern. What a
//! hostile pattern could still take is memory and time to compile, and both are bounded here.

use regex::{Regex, RegexBuilder};

use crate::re2;

/// Longest pattern in bytes.
const MAX_PATTERN_LEN: usize = 4096;
/// Most bytes of a compiled pattern, and of each thread's cache for searching with it.
const MAX_COMPILED_LEN: usize = 1 << 20;
/// How deep the rewritten pattern may nest: four levels for each of RE2's groups, and room for the innermost.
const MAX_NEST: u32 = 256;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compile `pattern`; the error says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self, String> {
        check_length(pattern)?;
        compile(&re2::rewrite(pattern).map_err(|fault| refused(&fault))?).map(Self)
    }

    /// Whether the pattern matches anywhere in `text`. Each byte that is not UTF-8 is seen as U+FFFD, as Go does.
    #[inline]
    pub fn is_match(&self, text: &[u8]) -> bool {
        match str::from_utf8(text) {
            Ok(text) => self.0.is_match(text),
            Err(_) => self.0.is_match(&with_replacements(text)),
        }
    }
}

/// A compiled pattern of RE2's syntax that captures, and the names of its groups, empty without one.
pub fn capturing(pattern: &str) -> Result<(Regex, Vec<String>), String> {
    check_length(pattern)?;
    let (rewritten, groups) = re2::rewrite_capturing(pattern).map_err(|fault| refused(&fault))?;
    Ok((compile(&rewritten)?, groups))
}

fn check_length(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_PATTERN_LEN {
        return Err(format!("is a pattern of more than {MAX_PATTERN_LEN} bytes"));
    }
    Ok(())
}

fn refused(fault: &str) -> String {
    format!("is not a usable pattern in RE2 syntax: {fault}")
}

fn compile(rewritten: &str) -> Result<Regex, String> {
    RegexBuilder::new(rewritten)
        .size_limit(MAX_COMPILED_LEN)
        .dfa_size_limit(MAX_COMPILED_LEN)
        .nest_limit(MAX_NEST)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("is a pattern that takes more than {limit} bytes when compiled")
            }
            // The syntax is the rewriter's own, so only its nesting can be at fault.
            _ => "is a pattern that nests too deeply".to_owned(),
        })
}

#[cold]
fn with_replacements(text: &[u8]) -> String {
    let mut replaced = String::new();
    for chunk in text.utf8_chunks() {
        replaced.push_str(chunk.valid());
        for _ in chunk.invalid() {
            replaced.push(char::REPLACEMENT_CHARACTER);
        }
    }
    replaced
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

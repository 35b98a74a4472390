//! RE2's syntax, rewritten in the dialect of the `regex` crate (processors §0.9).
//!
//! Filters are written for Go's `regexp`. The crate reads some of the same text otherwise (`[a&&b]`, `\d`, `(?x)`,
//! `\<`) or not at all (`\Q…\E`, `\z`, `\012`, a lone `{`), so the pattern is read by RE2's grammar, as Go 1.26 has
//! it, and every part is written anew in a form that means one thing: characters as their numbers, each with its own
//! flags. What Go refuses is refused. Names of groups are kept aside, because Go allows the same one twice; what only asks
//! whether there is a match does without capturing.
//!
//! What remains different: the crate knows Unicode 16, Go 15; scripts may also be given by names of several words
//! (`Old_Italic`, which Go 1.26 mislays) and by their four-letter codes; a surrogate (`\x{d800}`) never matches, where
//! Go here and there takes it for U+FFFD; groups nest less deeply, and there may be only so many wide classes.

use std::fmt::Write as _;

use crate::re2_class::{self, Output};
use crate::re2_text::{Characters, Repetition};

/// Groups may nest this deep (Go: 1000); the crate's compiler recurses.
const MAX_DEPTH: u32 = 50;
/// Greatest count of a repetition, and greatest product of the counts of nested ones: Go's.
const MAX_REPEATS: u32 = 1000;

/// Rewrite `pattern`, which will only be asked whether there is a match; the error says what is wrong with it.
pub fn rewrite(pattern: &str) -> Result<String, String> {
    Ok(read(pattern, None)?.out.text)
}

/// Rewrite `pattern` so that groups capture what they do in Go; also the names of the groups, empty without one.
pub fn rewrite_capturing(pattern: &str) -> Result<(String, Vec<String>), String> {
    let reader = read(pattern, Some(Vec::new()))?;
    Ok((reader.out.text, reader.groups.unwrap_or_default()))
}

fn read(pattern: &str, groups: Option<Vec<String>>) -> Result<Reader<'_>, String> {
    let mut reader = Reader {
        rest: Characters::new(pattern),
        flags: Flags::default(),
        depth: 0,
        out: Output::default(),
        groups,
    };
    reader.alternation()?;
    if reader.rest.text().is_empty() {
        Ok(reader)
    } else {
        Err("unexpected )".to_owned())
    }
}

#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "RE2's flags, each on or off")]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_is_all: bool,
    swap_greed: bool,
}

struct Reader<'p> {
    rest: Characters<'p>,
    flags: Flags,
    depth: u32,
    out: Output,
    /// Names of the groups that capture; `None`: nothing captures.
    groups: Option<Vec<String>>,
}

/// What a repetition operator would apply to.
#[derive(Debug, Clone, Copy)]
struct Atom {
    /// Where it begins in the output.
    start: usize,
    /// The greatest product of nested counts in it.
    repeats: u32,
    is_repetition: bool,
}

impl Reader<'_> {
    /// Read branches up to a parenthesis or the end; returns the greatest product of nested counts.
    fn alternation(&mut self) -> Result<u32, String> {
        let mut repeats = self.concatenation()?;
        while self.rest.take("|") {
            self.out.text.push('|');
            repeats = repeats.max(self.concatenation()?);
        }
        Ok(repeats)
    }

    fn concatenation(&mut self) -> Result<u32, String> {
        let mut greatest = 1;
        let mut last: Option<Atom> = None;
        let mut follows_operator = false;
        while let Some(next) = self.rest.peek() {
            if matches!(next, '|' | ')') {
                break;
            }
            let repetition = self.rest.take_repetition();
            if let Some(repetition) = repetition {
                if follows_operator {
                    return Err("a repetition operator follows another".to_owned());
                }
                let atom = last.ok_or("nothing stands before a repetition operator")?;
                let atom = self.repeat(atom, repetition)?;
                greatest = greatest.max(atom.repeats);
                last = Some(atom);
            } else {
                let start = self.out.text.len();
                if let Some(atom) = self.atom(start)? {
                    greatest = greatest.max(atom.repeats);
                    last = Some(atom);
                }
            }
            follows_operator = repetition.is_some();
        }
        Ok(greatest)
    }

    fn repeat(&mut self, atom: Atom, repetition: Repetition) -> Result<Atom, String> {
        let Repetition {
            least, most, factor, ..
        } = repetition;
        if least > MAX_REPEATS || most.is_some_and(|most| most > MAX_REPEATS || most < least) {
            return Err(format!("a repeat count is not in order or above {MAX_REPEATS}"));
        }
        // Go looks no deeper where nothing is repeated.
        let repeats = factor.saturating_mul(atom.repeats).max(1);
        if factor > 1 && repeats > MAX_REPEATS {
            return Err(format!(
                "nested repeat counts multiply to more than {MAX_REPEATS}"
            ));
        }
        if atom.is_repetition {
            // Only flags or an empty quotation stood between; side by side the operators would mean laziness.
            self.out.text.insert_str(atom.start, "(?:");
            self.out.text.push(')');
        }
        let most = most.map_or_else(String::new, |most| most.to_string());
        let lazy = if repetition.is_lazy == self.flags.swap_greed {
            ""
        } else {
            "?"
        };
        let _ = write!(self.out.text, "{{{least},{most}}}{lazy}");
        Ok(Atom {
            repeats,
            is_repetition: true,
            ..atom
        })
    }

    /// Read anything but an operator. `None`: flags or an empty quotation, which leave what stands before in place.
    fn atom(&mut self, start: usize) -> Result<Option<Atom>, String> {
        let mut atom = Atom {
            start,
            repeats: 1,
            is_repetition: false,
        };
        let flags = self.flags;
        let simple = [
            (".", if flags.dot_is_all { "(?s:.)" } else { r"[^\n]" }),
            ("^", if flags.multi_line { "(?m:^)" } else { r"\A" }),
            ("$", if flags.multi_line { "(?m:$)" } else { r"\z" }),
            (r"\A", r"\A"),
            (r"\z", r"\z"),
            (r"\b", r"(?-u:\b)"),
            (r"\B", r"(?-u:\B)"),
        ];
        if let Some((_, rewritten)) = simple.iter().find(|(name, _)| self.rest.take(name)) {
            self.out.text.push_str(rewritten);
        } else if self.rest.take("(") {
            match self.group()? {
                Some(repeats) => atom.repeats = repeats,
                None => return Ok(None),
            }
        } else if self.rest.take(r"\Q") {
            match self.quotation() {
                Some(start) => atom.start = start,
                None => return Ok(None),
            }
        } else if self.rest.take("[") {
            self.put_folding(re2_class::read_bracketed)?;
        } else {
            self.put_folding(re2_class::read_single)?;
        }
        Ok(Some(atom))
    }

    /// Let `put` write something whose letters stand for both cases where the flag says so.
    fn put_folding(
        &mut self,
        put: impl FnOnce(&mut Characters<'_>, &mut Output) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.flags.fold_case {
            self.out.text.push_str("(?i:");
            put(&mut self.rest, &mut self.out)?;
            self.out.text.push(')');
            Ok(())
        } else {
            put(&mut self.rest, &mut self.out)
        }
    }

    /// Write the characters up to `\E` or the end; returns where the last one begins.
    fn quotation(&mut self) -> Option<usize> {
        let mut last = None;
        for character in self.rest.take_quoted().chars() {
            last = Some(self.out.text.len());
            let flag = if self.flags.fold_case { "(?i:" } else { "(?:" };
            let _ = write!(self.out.text, "{flag}\\x{{{:x}}})", u32::from(character));
        }
        last
    }

    /// Read what follows a parenthesis. `None`: it sets flags for the rest of the group around it.
    fn group(&mut self) -> Result<Option<u32>, String> {
        let outer = self.flags;
        let mut captured = Some("");
        if self.rest.take("?P<") || self.rest.take("?<") {
            let name = self.rest.take_until('>').unwrap_or_default();
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_word) {
                return Err("the name of a group is not one or more of [A-Za-z0-9_]".to_owned());
            }
            captured = Some(name);
        } else if self.rest.take("?") {
            if !self.read_flags()? {
                return Ok(None);
            }
            captured = None;
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("groups nest deeper than {MAX_DEPTH}"));
        }
        match (&mut self.groups, captured) {
            (Some(groups), Some(name)) => {
                groups.push(name.to_owned());
                self.out.text.push('(');
            }
            _ => self.out.text.push_str("(?:"),
        }
        let repeats = self.alternation()?;
        if !self.rest.take(")") {
            return Err("missing )".to_owned());
        }
        self.out.text.push(')');
        self.depth -= 1;
        self.flags = outer;
        Ok(Some(repeats))
    }

    /// Read flags after `(?`; whether a group with these flags begins.
    fn read_flags(&mut self) -> Result<bool, String> {
        let mut flags = self.flags;
        let mut value = true;
        let mut is_complete = true;
        loop {
            match self.rest.take_any() {
                Some('i') => flags.fold_case = value,
                Some('m') => flags.multi_line = value,
                Some('s') => flags.dot_is_all = value,
                Some('U') => flags.swap_greed = value,
                Some('-') if value => {
                    value = false;
                    is_complete = false;
                    continue;
                }
                Some(end @ (':' | ')')) if is_complete => {
                    self.flags = flags;
                    return Ok(end == ':');
                }
                _ => return Err("unknown or unsupported (? syntax".to_owned()),
            }
            is_complete = true;
        }
    }
}

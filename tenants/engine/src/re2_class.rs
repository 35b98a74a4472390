//! Character classes of RE2's syntax, written in the dialect of the `regex` crate; see [`crate::re2`].

use std::fmt::Write as _;

use crate::re2_text::Characters;

/// Character classes that Go knows between `[:` and `:]`; the crate knows the same, all ASCII.
const NAMED: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];
/// White space of `\s`; unlike `[:space:]` without the vertical tab.
const PERL_SPACE: &str = r"\t\n\f\r\x20";
/// No character at all.
const NOTHING: &str = r"[\x{0}&&\x{1}]";
/// Surrogates are characters to Go, but none that a text contains.
const SURROGATES: (u32, u32) = (0xd800, 0xdfff);
/// Classes and ranges with more characters than this are wide: to fold their case takes the crate a millisecond.
const WIDE: u32 = 256;
/// Most wide classes and ranges of a pattern.
const MAX_WIDE: u32 = 32;

/// What is written so far.
#[derive(Debug, Default)]
pub struct Output {
    /// The pattern in the crate's dialect.
    pub text: String,
    wide: u32,
}

impl Output {
    /// Write the characters from `low` to `high` as a part of a class in brackets.
    pub fn put_range(&mut self, low: u32, high: u32) -> Result<(), String> {
        if high - low > WIDE {
            self.count_wide()?;
        }
        let (first_surrogate, last_surrogate) = SURROGATES;
        let parts = [
            (low, high.min(first_surrogate - 1)),
            (low.max(last_surrogate + 1), high),
        ];
        let mut is_empty = true;
        for (low, high) in parts.iter().filter(|(low, high)| low <= high) {
            is_empty = false;
            let _ = write!(self.text, "\\x{{{low:x}}}-\\x{{{high:x}}}");
        }
        if is_empty {
            self.text.push_str(NOTHING);
        }
        Ok(())
    }

    fn put_wide(&mut self, class: &str) -> Result<(), String> {
        self.text.push_str(class);
        self.count_wide()
    }

    fn count_wide(&mut self) -> Result<(), String> {
        self.wide += 1;
        if self.wide > MAX_WIDE {
            return Err(format!("more than {MAX_WIDE} Unicode classes and wide ranges"));
        }
        Ok(())
    }
}

/// Read a class in brackets, of which the first is read, and write it.
pub fn read_bracketed(rest: &mut Characters<'_>, out: &mut Output) -> Result<(), String> {
    out.text.push_str(if rest.take("^") { "[^" } else { "[" });
    let mut is_first = true;
    // A bracket that comes first is one of the class.
    while is_first || !rest.take("]") {
        is_first = false;
        if rest.text().is_empty() {
            return Err("missing closing ]".to_owned());
        }
        if named_in_brackets(rest, out)? || named_class(rest, out)? {
            continue;
        }
        let low = rest.escaped_or_plain()?;
        let after_hyphen = rest.text().strip_prefix('-').unwrap_or_default();
        let high = if !after_hyphen.is_empty() && !after_hyphen.starts_with(']') {
            rest.take_any();
            rest.escaped_or_plain()?
        } else {
            low
        };
        if high < low {
            return Err("the ends of a character range are not in order".to_owned());
        }
        out.put_range(low, high)?;
    }
    out.text.push(']');
    Ok(())
}

/// Read `[:name:]` or `[:^name:]` if one comes next.
fn named_in_brackets(rest: &mut Characters<'_>, out: &mut Output) -> Result<bool, String> {
    let Some((name, after)) = rest
        .text()
        .strip_prefix("[:")
        .and_then(|text| text.split_once(":]"))
    else {
        return Ok(false);
    };
    if !NAMED.contains(&name.strip_prefix('^').unwrap_or(name)) {
        return Err(format!("unknown character class [:{name}:]"));
    }
    *rest = Characters::new(after);
    let class = format!("[:{name}:]");
    if name.starts_with('^') {
        out.put_wide(&class)?;
    } else {
        out.text.push_str(&class);
    }
    Ok(true)
}

/// Take `\d` or its like: what to write between brackets, and whether it stands for all other characters.
fn take_perl(rest: &mut Characters<'_>) -> Option<(&'static str, bool)> {
    let classes = [
        ("\\d", "[:digit:]", false),
        ("\\D", "[:digit:]", true),
        ("\\s", PERL_SPACE, false),
        ("\\S", PERL_SPACE, true),
        ("\\w", "[:word:]", false),
        ("\\W", "[:word:]", true),
    ];
    let (_, class, is_negated) = classes.iter().find(|(name, ..)| rest.take(name))?;
    Some((class, *is_negated))
}

/// Read `\d` and its like or a Unicode class if one comes next, and write it as a part of a class in brackets.
fn named_class(rest: &mut Characters<'_>, out: &mut Output) -> Result<bool, String> {
    if let Some((class, is_negated)) = take_perl(rest) {
        if is_negated {
            out.put_wide(&format!("[^{class}]"))?;
        } else {
            out.text.push_str(class);
        }
    } else if rest.take("\\p") {
        unicode_class(rest, out, false)?;
    } else if rest.take("\\P") {
        unicode_class(rest, out, true)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Read a character or a class that stands outside of brackets, and write it in brackets.
pub fn read_single(rest: &mut Characters<'_>, out: &mut Output) -> Result<(), String> {
    if let Some((class, is_negated)) = take_perl(rest) {
        let _ = write!(out.text, "[{}{class}]", if is_negated { "^" } else { "" });
        return Ok(());
    }
    out.text.push('[');
    if !named_class(rest, out)? {
        let character = rest.escaped_or_plain()?;
        out.put_range(character, character)?;
    }
    out.text.push(']');
    Ok(())
}

/// Read the name of a general category or script. Case, spaces, underscores and hyphens in it do not matter.
fn unicode_class(rest: &mut Characters<'_>, out: &mut Output, mut is_negated: bool) -> Result<(), String> {
    let name = if rest.take("{") {
        rest.take_until('}').ok_or("missing } after \\p{")?
    } else {
        rest.take_one()
    };
    let unsigned = name.strip_prefix('^');
    is_negated ^= unsigned.is_some();
    let name = unsigned.unwrap_or(name);
    let plain: String = name
        .chars()
        .filter(|character| !matches!(character, ' ' | '_' | '-'))
        .map(|character| character.to_ascii_lowercase())
        .collect();
    if matches!(plain.as_str(), "cs" | "surrogate") {
        // The crate does not know the category of what it never sees.
        return out.put_wide(if is_negated { r"\x{0}-\x{10ffff}" } else { NOTHING });
    }
    // The crate would overlook `is` in front, and knows other properties than these two.
    let is_name = !plain.starts_with("is") && plain.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let sign = if is_negated { 'P' } else { 'p' };
    let class = ["gc", "sc"]
        .iter()
        .map(|property| format!("\\{sign}{{{property}={plain}}}"))
        .find(|class| is_name && regex_syntax::parse(class).is_ok())
        .ok_or_else(|| format!("unknown Unicode class {name:?}"))?;
    out.put_wide(&class)
}

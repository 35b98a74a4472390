//! Text with references to what a pattern captured, as Go's `Regexp.Expand` reads it: `$1`, `${name}`, `$$`.

use regex::Captures;
use unicode_general_category::{GeneralCategory, get_general_category};

/// A template, read once.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// Groups by number, of which the first that took part in the match is written.
    Groups(Vec<usize>),
}

impl Template {
    /// Read a template for a pattern with these groups, named or not, the first being number 1.
    ///
    /// A dollar sign that begins no reference stands for itself; a group that the pattern does not have is empty.
    pub fn new(text: &str, groups: &[String]) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            parts.push(Part::Text(before.to_owned()));
            if let Some(after) = after.strip_prefix('$') {
                parts.push(Part::Text("$".to_owned()));
                rest = after;
            } else if let Some((name, after)) = read_reference(after) {
                parts.push(Part::Groups(numbers_of(name, groups)));
                rest = after;
            } else {
                parts.push(Part::Text("$".to_owned()));
                rest = after;
            }
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        Self(parts)
    }

    /// Append the text for one match; `None`: it would take more than `limit` bytes in all.
    pub fn expand(&self, captures: &Captures<'_>, out: &mut String, limit: usize) -> Option<()> {
        for part in &self.0 {
            let text = match part {
                Part::Text(text) => text,
                Part::Groups(numbers) => numbers
                    .iter()
                    .find_map(|number| captures.get(*number))
                    .map_or("", |group| group.as_str()),
            };
            if out.len() + text.len() > limit {
                return None;
            }
            out.push_str(text);
        }
        Some(())
    }
}

/// Read a name, in braces or as long as it gets; also what follows.
fn read_reference(text: &str) -> Option<(&str, &str)> {
    let braced = text.strip_prefix('{');
    let text = braced.unwrap_or(text);
    let end = text.find(|next| !is_in_name(next)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let rest = if braced.is_some() {
        rest.strip_prefix('}')?
    } else {
        rest
    };
    Some((name, rest))
}

fn is_in_name(character: char) -> bool {
    use GeneralCategory::{
        DecimalNumber, LowercaseLetter, ModifierLetter, OtherLetter, TitlecaseLetter, UppercaseLetter,
    };
    character == '_'
        || matches!(
            get_general_category(character),
            DecimalNumber
                | LowercaseLetter
                | ModifierLetter
                | OtherLetter
                | TitlecaseLetter
                | UppercaseLetter
        )
}

fn numbers_of(name: &str, groups: &[String]) -> Vec<usize> {
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_number {
        // Go reads at most nine digits; no pattern has so many groups.
        return name
            .parse()
            .ok()
            .filter(|number| *number <= groups.len())
            .into_iter()
            .collect();
    }
    (1..)
        .zip(groups)
        .filter(|(_, group)| *group == name)
        .map(|(number, _)| number)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::filter_regex::capturing;

    fn expanded(pattern: &str, template: &str, text: &str) -> Option<String> {
        let (regex, groups) = capturing(pattern).unwrap();
        let captures = regex.captures(text).unwrap();
        let mut out = String::new();
        Template::new(template, &groups).expand(&captures, &mut out, 20)?;
        Some(out)
    }

    #[test]
    fn references_are_read_as_go_reads_them() {
        let cases = [
            ("$1-$2", "ab-cd"),
            ("${1}x", "abx"),
            ("$1x", ""),
            ("$0", "ab.cd"),
            ("$3", ""),
            ("${second}", "cd"),
            ("$second.", "cd."),
            ("$$1", "$1"),
            ("$", "$"),
            ("a$ b", "a$ b"),
            ("${1", "${1"),
            ("${}", "${}"),
            ("$01", ""),
            ("$12345678901234567890123", ""),
            ("$1\u{e9}", ""),
        ];
        for (template, written) in cases {
            let found = expanded(r"(\w+)\.(?P<second>\w+)", template, "ab.cd");
            assert_eq!(found.as_deref(), Some(written), "{template}");
        }
    }

    #[test]
    fn of_groups_with_one_name_the_first_that_matched_counts() {
        assert_eq!(expanded("(?P<n>a)|(?P<n>b)", "<$n>", "b").as_deref(), Some("<b>"));
    }

    #[test]
    fn what_is_captured_depends_on_greed_as_in_go() {
        let cases = [
            ("(a+?)(a*)", "a,aa"),
            ("(a+)(a*)", "aaa,"),
            ("(?U)(a+)(a*)$", "a,aa"),
            ("(?U)(a+?)(a*)", "aaa,"),
            ("(a{1,2}?)(a*)", "a,aa"),
        ];
        for (pattern, written) in cases {
            assert_eq!(
                expanded(pattern, "$1,$2", "aaa").as_deref(),
                Some(written),
                "{pattern}"
            );
        }
    }

    #[test]
    fn growth_is_bounded() {
        assert_eq!(
            expanded("(.*)", "$1$1", "0123456789").map(|text| text.len()),
            Some(20)
        );
        assert_eq!(expanded("(.*)", "$1$1.", "0123456789"), None);
    }
}

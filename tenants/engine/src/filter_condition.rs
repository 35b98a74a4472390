//! The conditions of a filter, and when they hold (processors §0.8).

use std::io::Write as _;
use std::sync::Arc;

use crate::any_value::AnyValue;
use crate::filter_regex::Pattern;
use crate::span::Span;

/// Longest decimal text of a 32-bit number.
const MAX_NUMBER_LEN: usize = 11;

/// Conditions that must all hold, cheap ones first.
#[derive(Debug)]
pub struct Block(Vec<Condition>);

/// One thing that must hold.
#[derive(Debug)]
pub enum Condition {
    /// The span's name.
    Name(Text),
    /// The span's kind.
    Kind(Enum),
    /// The span's status code.
    Status(Enum),
    /// The watched attribute of this number, of the span.
    Span(usize, Value),
    /// The watched attribute of this number, of the resource.
    Resource(usize, Value),
}

/// What a text is compared with.
#[derive(Debug)]
pub enum Text {
    /// It is this text.
    Equal(Vec<u8>),
    /// The pattern matches in it.
    Matching(Arc<Pattern>),
}

/// What a kind or status code is compared with.
#[derive(Debug)]
pub enum Enum {
    /// It is this number.
    Equal(i32),
    /// The answer for each number that has a name, and the pattern for the decimal text of others.
    Matching(Vec<bool>, Arc<Pattern>),
}

/// What an attribute is compared with.
#[derive(Debug)]
pub enum Value {
    /// It is this bool.
    Bool(bool),
    /// It is this integer.
    Int(i64),
    /// It is this double.
    Double(f64),
    /// Its text is so.
    Text(Text),
}

/// What a decision is about.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'s> {
    /// The span.
    pub span: &'s Span<'s>,
    /// The watched attributes of its resource, by number.
    pub resource: &'s [Option<AnyValue<'s>>],
    /// Its own watched attributes, by number.
    pub attributes: &'s [Option<AnyValue<'s>>],
    /// Values of another type than the wanted one never match (Q32).
    pub strict_types: bool,
}

impl Block {
    /// Put the conditions in the order in which they are tried.
    pub fn new(mut conditions: Vec<Condition>) -> Self {
        conditions.sort_by_key(Condition::has_pattern);
        Self(conditions)
    }

    /// Whether all conditions hold.
    #[inline]
    pub fn matches(&self, seen: &Seen<'_>) -> bool {
        self.0.iter().all(|condition| condition.holds(seen))
    }
}

impl Condition {
    #[inline]
    fn holds(&self, seen: &Seen<'_>) -> bool {
        let (slots, number, value) = match self {
            Self::Name(text) => return text.matches(seen.span.name),
            Self::Kind(kind) => return kind.matches(seen.span.kind),
            Self::Status(status) => return status.matches(seen.span.status_code),
            Self::Span(number, value) => (seen.attributes, number, value),
            Self::Resource(number, value) => (seen.resource, number, value),
        };
        let attribute = slots.get(*number).copied().flatten();
        attribute.is_some_and(|attribute| {
            if seen.strict_types {
                value.matches_same_type(attribute)
            } else {
                value.matches(attribute)
            }
        })
    }

    fn has_pattern(&self) -> bool {
        matches!(
            self,
            Self::Name(Text::Matching(_))
                | Self::Span(_, Value::Text(Text::Matching(_)))
                | Self::Resource(_, Value::Text(Text::Matching(_)))
        )
    }
}

impl Text {
    #[inline]
    fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Equal(wanted) => wanted == text,
            Self::Matching(pattern) => pattern.is_match(text),
        }
    }
}

impl Enum {
    /// Compare numbers by their names; an error if none is called `text`.
    pub fn new(names: &[&str], text: Text) -> Result<Self, String> {
        match text {
            Text::Equal(wanted) => names
                .iter()
                .position(|name| name.as_bytes() == wanted)
                .map(|number| Self::Equal(number as i32))
                .ok_or_else(|| format!("is none of {}", names.join(", "))),
            Text::Matching(pattern) => {
                let known = names.iter().map(|name| pattern.is_match(name.as_bytes()));
                Ok(Self::Matching(known.collect(), pattern))
            }
        }
    }

    #[inline]
    fn matches(&self, number: i32) -> bool {
        match self {
            Self::Equal(wanted) => *wanted == number,
            Self::Matching(known, pattern) => {
                let answer = usize::try_from(number).ok().and_then(|number| known.get(number));
                answer
                    .copied()
                    .unwrap_or_else(|| matches_decimal(pattern, number))
            }
        }
    }
}

/// Unknown numbers print as decimal (processors §0.9).
#[cold]
fn matches_decimal(pattern: &Pattern, number: i32) -> bool {
    let mut text = [0; MAX_NUMBER_LEN];
    let mut unwritten = text.as_mut_slice();
    let is_written = write!(unwritten, "{number}").is_ok();
    let length = MAX_NUMBER_LEN - unwritten.len();
    is_written && text.get(..length).is_some_and(|text| pattern.is_match(text))
}

impl Value {
    /// Compare with the attribute read as a value of this type: another type's reads as the zero value.
    #[inline]
    #[allow(clippy::float_cmp, reason = "a filter asks for exactly this number")]
    fn matches(&self, attribute: AnyValue<'_>) -> bool {
        match self {
            Self::Bool(wanted) => *wanted == matches!(attribute, AnyValue::Bool(true)),
            Self::Int(wanted) => match attribute {
                AnyValue::Int(value) => *wanted == value,
                _ => *wanted == 0,
            },
            Self::Double(wanted) => match attribute {
                AnyValue::Double(value) => *wanted == value,
                _ => *wanted == 0.0,
            },
            Self::Text(wanted) => match attribute {
                AnyValue::String(text) => wanted.matches(text),
                _ => wanted.matches(&[]),
            },
        }
    }

    /// Compare with an attribute of the same type; no other matches.
    #[inline]
    #[allow(clippy::float_cmp, reason = "a filter asks for exactly this number")]
    fn matches_same_type(&self, attribute: AnyValue<'_>) -> bool {
        match (self, attribute) {
            (Self::Bool(wanted), AnyValue::Bool(value)) => *wanted == value,
            (Self::Int(wanted), AnyValue::Int(value)) => *wanted == value,
            (Self::Double(wanted), AnyValue::Double(value)) => *wanted == value,
            (Self::Int(whole), AnyValue::Double(double)) => is_same_number(*whole, double),
            (Self::Double(double), AnyValue::Int(whole)) => is_same_number(whole, *double),
            (Self::Text(wanted), AnyValue::String(text)) => wanted.matches(text),
            _ => false,
        }
    }
}

/// Whether both are one number; neither is rounded to the other's type, which could make two numbers one.
fn is_same_number(whole: i64, double: f64) -> bool {
    double.fract() == 0.0 && double.abs() < 2f64.powi(64) && double as i128 == i128::from(whole)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_tried_last() {
        let pattern = || Text::Matching(Arc::new(Pattern::new("x").unwrap()));
        let block = Block::new(vec![
            Condition::Name(pattern()),
            Condition::Span(1, Value::Text(pattern())),
            Condition::Span(2, Value::Int(3)),
            Condition::Resource(3, Value::Text(pattern())),
            Condition::Kind(Enum::new(&["a"], pattern()).unwrap()),
        ]);
        let numbers: Vec<bool> = block.0.iter().map(Condition::has_pattern).collect();
        assert_eq!(numbers, [false, false, true, true, true]);
        assert!(matches!(block.0.first(), Some(Condition::Span(2, _))));
    }

    #[test]
    fn a_slot_that_is_not_there_matches_nothing() {
        let block = Block::new(vec![Condition::Span(7, Value::Int(0))]);
        let seen = Seen {
            span: &Span::default(),
            resource: &[],
            attributes: &[],
            strict_types: false,
        };
        assert!(!block.matches(&seen));
    }
}

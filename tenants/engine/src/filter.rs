//! Filter policies: which spans a processor takes (processors §0.8).
//!
//! Policies are compiled once per plan. A decision about a span allocates nothing, and looks at patterns last.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::any_value::AnyValue;
use crate::error::PlanError;
use crate::filter_condition::{Block, Condition, Enum, Seen, Text, Value};
use crate::filter_key::Key;
use crate::filter_regex::Pattern;
use crate::span::{KINDS, STATUS_CODES, Span};

/// Most different patterns of one filter: each may take a mebibyte, and as much for each thread.
const MAX_PATTERNS: usize = 64;

/// One policy; at least one of its blocks must be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterPolicySettings {
    /// Spans must match this and every other policy's `include`.
    pub include: Option<FilterBlockSettings>,
    /// Spans that match this are taken, whatever `include` says.
    pub include_any: Option<FilterBlockSettings>,
    /// Spans that match this are left out before all else.
    pub exclude: Option<FilterBlockSettings>,
}

/// Conditions that must all hold; a block without any matches every span.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterBlockSettings {
    /// How values are compared.
    pub match_type: MatchType,
    /// The conditions.
    pub attributes: Vec<FilterAttributeSettings>,
}

/// How values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchType {
    /// They are equal.
    Strict,
    /// The pattern matches anywhere in the text.
    Regex,
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterAttributeSettings {
    /// What is looked at; see [`Key`].
    pub key: String,
    /// What it is compared with.
    pub value: FilterValue,
}

/// A value of the settings; JSON's `200` is a whole number, `200.0` is not.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "should be text, a number, true or false")]
pub enum FilterValue {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number of 64 bits with sign.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// Text, or a pattern.
    String(String),
}

/// The compiled policies of a processor.
#[derive(Debug)]
pub struct Filter {
    exclude: Vec<Block>,
    include_any: Vec<Block>,
    include: Vec<Block>,
    strict_types: bool,
}

impl Filter {
    /// Compile the policies at `path`; `None` if there are none. `number` gives the number of a watched attribute.
    ///
    /// With `strict_types` a value matches only attributes of its own type, numbers being one type, and a pattern only
    /// strings (Q32); without it an attribute of another type reads as `""`, 0 or `false`, as in the reference.
    pub fn compile(
        path: &str,
        policies: &[FilterPolicySettings],
        strict_types: bool,
        number: &mut dyn FnMut(&str) -> usize,
    ) -> Result<Option<Self>, PlanError> {
        if policies.is_empty() {
            return Ok(None);
        }
        let mut compiler = Compiler {
            number,
            patterns: HashMap::new(),
        };
        let mut filter = Self {
            exclude: Vec::new(),
            include_any: Vec::new(),
            include: Vec::new(),
            strict_types,
        };
        for (index, policy) in policies.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let blocks = [
                ("exclude", &policy.exclude, &mut filter.exclude),
                ("include_any", &policy.include_any, &mut filter.include_any),
                ("include", &policy.include, &mut filter.include),
            ];
            let mut is_empty = true;
            for (name, settings, compiled) in blocks {
                if let Some(settings) = settings {
                    compiled.push(compiler.block(&format!("{path}.{name}"), settings)?);
                    is_empty = false;
                }
            }
            if is_empty {
                return Err(fault(
                    path,
                    "needs one of include, include_any, exclude".to_owned(),
                ));
            }
        }
        Ok(Some(filter))
    }

    /// Whether the processor takes the span. The slices hold the watched attributes by number, the first of each key.
    #[inline]
    pub fn accepts(
        &self,
        span: &Span<'_>,
        resource: &[Option<AnyValue<'_>>],
        attributes: &[Option<AnyValue<'_>>],
    ) -> bool {
        let seen = Seen {
            span,
            resource,
            attributes,
            strict_types: self.strict_types,
        };
        if self.exclude.iter().any(|block| block.matches(&seen)) {
            return false;
        }
        if self.include_any.iter().any(|block| block.matches(&seen)) {
            return true;
        }
        if self.include.is_empty() {
            self.include_any.is_empty()
        } else {
            self.include.iter().all(|block| block.matches(&seen))
        }
    }
}

struct Compiler<'n> {
    number: &'n mut dyn FnMut(&str) -> usize,
    /// Each pattern is compiled once, however often it occurs.
    patterns: HashMap<String, Arc<Pattern>>,
}

impl Compiler<'_> {
    fn block(&mut self, path: &str, settings: &FilterBlockSettings) -> Result<Block, PlanError> {
        let mut conditions = Vec::new();
        for (index, attribute) in settings.attributes.iter().enumerate() {
            let path = format!("{path}.attributes[{index}]");
            conditions.push(self.condition(&path, settings.match_type, attribute)?);
        }
        Ok(Block::new(conditions))
    }

    fn condition(
        &mut self,
        path: &str,
        match_type: MatchType,
        settings: &FilterAttributeSettings,
    ) -> Result<Condition, PlanError> {
        let key = Key::read(&settings.key).map_err(|message| fault(format!("{path}.key"), message))?;
        let value = self
            .value(match_type, &settings.value)
            .and_then(|value| self.compare(key, value));
        value.map_err(|message| fault(format!("{path}.value"), message))
    }

    fn value(&mut self, match_type: MatchType, value: &FilterValue) -> Result<Value, String> {
        match (match_type, value) {
            (MatchType::Strict, FilterValue::Bool(value)) => Ok(Value::Bool(*value)),
            (MatchType::Strict, FilterValue::Int(value)) => Ok(Value::Int(*value)),
            (MatchType::Strict, FilterValue::Double(value)) => Ok(Value::Double(*value)),
            (MatchType::Strict, FilterValue::String(text)) => {
                Ok(Value::Text(Text::Equal(text.as_bytes().to_vec())))
            }
            (MatchType::Regex, FilterValue::String(pattern)) => {
                Ok(Value::Text(Text::Matching(self.pattern(pattern)?)))
            }
            (MatchType::Regex, _) => Err("must be text: it is a pattern".to_owned()),
        }
    }

    fn compare(&mut self, key: Key, value: Value) -> Result<Condition, String> {
        match (key, value) {
            (Key::Span(name), value) => Ok(Condition::Span((self.number)(&name), value)),
            (Key::Resource(name), value) => Ok(Condition::Resource((self.number)(&name), value)),
            (Key::Name, Value::Text(text)) => Ok(Condition::Name(text)),
            (Key::Kind, Value::Text(text)) => Enum::new(&KINDS, text).map(Condition::Kind),
            (Key::Status, Value::Text(text)) => Enum::new(&STATUS_CODES, text).map(Condition::Status),
            _ => Err("must be text: names, kinds and status codes are".to_owned()),
        }
    }

    fn pattern(&mut self, pattern: &str) -> Result<Arc<Pattern>, String> {
        if let Some(known) = self.patterns.get(pattern) {
            return Ok(Arc::clone(known));
        }
        if self.patterns.len() >= MAX_PATTERNS {
            return Err(format!(
                "is one pattern too many: a filter has at most {MAX_PATTERNS} different ones"
            ));
        }
        let compiled = Arc::new(Pattern::new(pattern)?);
        self.patterns.insert(pattern.to_owned(), Arc::clone(&compiled));
        Ok(compiled)
    }
}

/// Check a pattern as [`Filter::compile`] would; the error's path is that of an attribute's `value`.
pub fn check_regex(pattern: &str) -> Result<(), PlanError> {
    Pattern::new(pattern)
        .map(drop)
        .map_err(|message| fault("value".to_owned(), message))
}

fn fault(path: String, message: String) -> PlanError {
    PlanError { path, message }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

//! Write relabelling: rules that change, keep or drop each series on its way to an endpoint, as Prometheus has them
//! (its configuration's `<relabel_config>`, with legacy label names). Settings are checked before they come here.

use std::borrow::Cow;

use md5::{Digest, Md5};
use regex::Regex;
use serde::Deserialize;

use crate::error::PlanError;
use crate::filter_regex::capturing;
use crate::labels::MAX_LABEL_SET;
use crate::letter_case::{to_lower, to_upper};
use crate::template::Template;

/// Most rules of one endpoint, and most source labels of a rule.
const MAX_RULES: usize = 64;

/// Most labels of a series while rules are applied: each is looked for among all.
const MAX_LABELS: usize = 1024;

/// The rules of one endpoint, compiled.
#[derive(Debug)]
pub struct Relabel(Vec<Rule>);

/// What becomes of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent with the labels that the rules left.
    Kept,
    /// A rule drops it.
    Dropped,
    /// Its labels grew beyond [`MAX_LABEL_SET`] or became too many; no receiver would take it.
    TooLarge,
}

#[derive(Debug)]
struct Rule {
    sources: Vec<String>,
    separator: String,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Replace {
        regex: Regex,
        target: Template,
        replacement: Template,
    },
    Match {
        regex: Regex,
        keeps: bool,
    },
    Compare {
        target: String,
        keeps: bool,
    },
    HashMod {
        target: String,
        modulus: u64,
    },
    ChangeCase {
        target: String,
        to_case: fn(&str) -> String,
    },
    MapNames {
        regex: Regex,
        replacement: Template,
    },
    MatchNames {
        regex: Regex,
        keeps: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSettings {
    source_labels: Vec<String>,
    separator: String,
    regex: String,
    modulus: u64,
    target_label: String,
    replacement: String,
    action: Action,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

impl Relabel {
    /// Compile the rules from a JSON list; an error begins with the path of the setting.
    pub fn from_json(json: &str) -> Result<Self, PlanError> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let settings: Vec<RuleSettings> =
            serde_path_to_error::deserialize(&mut reader).map_err(|error| PlanError {
                path: error.path().to_string(),
                message: error.into_inner().to_string(),
            })?;
        if settings.len() > MAX_RULES {
            return Err(refuse(String::new(), format!("more than {MAX_RULES} rules")));
        }
        let rules = settings.into_iter().enumerate();
        rules
            .map(|(index, rule)| compile(index, rule))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether any rule changes labels, and so may make two series one.
    pub fn changes_labels(&self) -> bool {
        let only_chooses = |rule: &Rule| matches!(rule.work, Work::Match { .. } | Work::Compare { .. });
        !self.0.iter().all(only_chooses)
    }

    /// Apply the rules, in order, to the labels of a series.
    pub fn apply(&self, labels: &mut LabelList<'_>) -> Verdict {
        for rule in &self.0 {
            match rule.apply(labels) {
                Some(Verdict::Kept) if labels.is_within_bounds() => {}
                Some(Verdict::Dropped) => return Verdict::Dropped,
                _ => return Verdict::TooLarge,
            }
        }
        Verdict::Kept
    }
}

fn refuse(path: String, message: String) -> PlanError {
    PlanError { path, message }
}

fn compile(index: usize, settings: RuleSettings) -> Result<Rule, PlanError> {
    let RuleSettings {
        source_labels,
        separator,
        regex,
        modulus,
        target_label,
        replacement,
        action,
    } = settings;
    if source_labels.len() > MAX_RULES {
        let problem = format!("more than {MAX_RULES} labels");
        return Err(refuse(format!("[{index}].source_labels"), problem));
    }
    // Wrapped as text, as Prometheus does: a pattern may close the group itself.
    let (regex, groups) = capturing(&format!("^(?s:{regex})$"))
        .map_err(|problem| refuse(format!("[{index}].regex"), problem))?;
    let target = target_label;
    let replacement = Template::new(&replacement, &groups);
    let work = match action {
        Action::Replace => Work::Replace {
            regex,
            target: Template::new(&target, &groups),
            replacement,
        },
        Action::Keep => Work::Match { regex, keeps: true },
        Action::Drop => Work::Match { regex, keeps: false },
        Action::KeepEqual => Work::Compare { target, keeps: true },
        Action::DropEqual => Work::Compare { target, keeps: false },
        Action::HashMod if modulus == 0 => {
            return Err(refuse(format!("[{index}].modulus"), "is zero".to_owned()));
        }
        Action::HashMod => Work::HashMod { target, modulus },
        Action::LabelMap => Work::MapNames { regex, replacement },
        Action::LabelDrop => Work::MatchNames { regex, keeps: false },
        Action::LabelKeep => Work::MatchNames { regex, keeps: true },
        Action::Lowercase => Work::ChangeCase {
            target,
            to_case: to_lower,
        },
        Action::Uppercase => Work::ChangeCase {
            target,
            to_case: to_upper,
        },
    };
    Ok(Rule {
        sources: source_labels,
        separator,
        work,
    })
}

impl Rule {
    /// `None`: something grew too large.
    fn apply(&self, labels: &mut LabelList<'_>) -> Option<Verdict> {
        let kept = |is_kept| Some(if is_kept { Verdict::Kept } else { Verdict::Dropped });
        match &self.work {
            Work::Match { regex, keeps } => kept(regex.is_match(&self.source(labels)?) == *keeps),
            Work::Compare { target, keeps } => {
                kept((labels.get(target) == self.source(labels)?.as_ref()) == *keeps)
            }
            Work::Replace {
                regex,
                target,
                replacement,
            } => {
                let source = self.source(labels)?;
                if let Some(captures) = regex.captures(&source) {
                    let (mut name, mut value) = (String::new(), String::new());
                    target.expand(&captures, &mut name, MAX_LABEL_SET)?;
                    if is_label_name(&name) {
                        replacement.expand(&captures, &mut value, MAX_LABEL_SET)?;
                        labels.set(name, value.into());
                    }
                }
                kept(true)
            }
            Work::HashMod { target, modulus } => {
                let digest = Md5::digest(self.source(labels)?.as_bytes());
                let tail = digest.last_chunk::<8>().copied().unwrap_or_default();
                let part = u64::from_be_bytes(tail) % modulus;
                labels.set(target.clone(), part.to_string().into());
                kept(true)
            }
            Work::ChangeCase { target, to_case } => {
                let value = to_case(&self.source(labels)?);
                labels.set(target.clone(), value.into());
                kept(true)
            }
            Work::MapNames { regex, replacement } => {
                let mut copies = Vec::new();
                let mut bytes = 0;
                for (name, value) in &labels.pairs {
                    if regex.is_match(name) {
                        let copied = renamed(regex, replacement, name)?;
                        bytes += copied.len() + value.len();
                        copies.push((copied, value.clone()));
                    }
                    if bytes > MAX_LABEL_SET {
                        return None;
                    }
                }
                for (name, value) in copies {
                    labels.set(name, value);
                }
                kept(true)
            }
            Work::MatchNames { regex, keeps } => {
                labels.retain(|name| regex.is_match(name) == *keeps);
                kept(true)
            }
        }
    }

    /// The values of the source labels, joined.
    fn source<'s>(&self, labels: &'s LabelList<'_>) -> Option<Cow<'s, str>> {
        if let [name] = &*self.sources {
            return Some(Cow::Borrowed(labels.get(name)));
        }
        let mut joined = String::new();
        for (index, name) in self.sources.iter().enumerate() {
            if index > 0 {
                joined.push_str(&self.separator);
            }
            joined.push_str(labels.get(name));
            if joined.len() > MAX_LABEL_SET {
                return None;
            }
        }
        Some(Cow::Owned(joined))
    }
}

/// A name with every match replaced: one, unless the pattern has closed the group that it is wrapped in.
fn renamed(regex: &Regex, replacement: &Template, name: &str) -> Option<String> {
    let mut out = String::new();
    let mut from = 0;
    for captures in regex.captures_iter(name) {
        let whole = captures.get(0)?;
        out.push_str(name.get(from..whole.start())?);
        replacement.expand(&captures, &mut out, MAX_LABEL_SET)?;
        from = whole.end();
    }
    out.push_str(name.get(from..)?);
    Some(out)
}

fn is_label_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_word) && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// The labels of a series while rules are applied: first those that it came with, then those that were set, in the
/// order in which Prometheus goes through them.
#[derive(Debug, Default)]
pub struct LabelList<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// So many labels at the front are as they came.
    untouched: usize,
    bytes: usize,
}

impl<'a> LabelList<'a> {
    /// Begin with labels that a series came with; no name twice, no value empty.
    pub fn new(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let pairs: Vec<_> = pairs
            .map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)))
            .collect();
        Self {
            untouched: pairs.len(),
            bytes: pairs.iter().map(|(name, value)| name.len() + value.len()).sum(),
            pairs,
        }
    }

    /// The value of a label, empty without it.
    pub fn get(&self, name: &str) -> &str {
        let found = self.pairs.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    fn is_within_bounds(&self) -> bool {
        self.bytes <= MAX_LABEL_SET && self.pairs.len() <= MAX_LABELS
    }

    /// The labels, sorted.
    pub fn into_sorted(mut self) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
        self.pairs.sort_unstable();
        self.pairs
    }

    /// Set a label; an empty value removes it. A label without a name is none.
    fn set(&mut self, name: String, value: Cow<'a, str>) {
        let at = self.pairs.iter().position(|(other, _)| *other == name);
        if value.is_empty() || name.is_empty() {
            if let Some(at) = at {
                self.remove(at);
            }
            return;
        }
        self.bytes += value.len();
        if let Some(at) = at.filter(|at| *at >= self.untouched) {
            if let Some((_, former)) = self.pairs.get_mut(at) {
                self.bytes -= former.len();
                *former = value;
            }
        } else {
            if let Some(at) = at {
                self.remove(at);
            }
            self.bytes += name.len();
            self.pairs.push((name.into(), value));
        }
    }

    fn remove(&mut self, at: usize) {
        let (name, value) = self.pairs.remove(at);
        self.bytes -= name.len() + value.len();
        self.untouched -= usize::from(at < self.untouched);
    }

    fn retain(&mut self, stays: impl Fn(&str) -> bool) {
        let mut at = 0;
        while let Some((name, _)) = self.pairs.get(at) {
            if stays(name) {
                at += 1;
            } else {
                self.remove(at);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn rules(rules: &[Value]) -> Result<Relabel, PlanError> {
        let whole = rules.iter().map(|rule| {
            let mut whole = json!({"source_labels": [], "separator": ";", "regex": "(.*)", "modulus": 0,
                                   "target_label": "", "replacement": "$1", "action": "replace"});
            for (key, value) in rule.as_object().unwrap() {
                whole[key] = value.clone();
            }
            whole
        });
        Relabel::from_json(&whole.collect::<Value>().to_string())
    }

    fn applied(text: &[Value], labels: &[(&str, &str)]) -> Result<String, Verdict> {
        let pairs = labels
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let mut list = LabelList::new(pairs);
        let verdict = rules(text).unwrap().apply(&mut list);
        if verdict != Verdict::Kept {
            return Err(verdict);
        }
        let bytes: usize = list
            .pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert_eq!(list.bytes, bytes);
        let sorted = list.into_sorted();
        let texts = sorted.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(texts.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_action_does_what_prometheus_does() {
        let labels = [("__name__", "m"), ("a", "foo"), ("b1", "bar"), ("b2", "baz")];
        let all = "__name__=m a=foo b1=bar b2=baz";
        let cases = [
            (
                json!({"source_labels": ["a"], "regex": "f(.*)", "target_label": "d", "replacement": "ch${1}-ch${1}"}),
                "__name__=m a=foo b1=bar b2=baz d=choo-choo",
            ),
            (
                json!({"source_labels": ["a", "b1"], "regex": "f(.*);(.*)r", "target_label": "a", "replacement": "b${1}${2}m"}),
                "__name__=m a=boobam b1=bar b2=baz",
            ),
            // Anchored at both ends.
            (
                json!({"source_labels": ["a"], "regex": "f|o", "target_label": "a", "replacement": "x"}),
                all,
            ),
            (
                json!({"source_labels": ["none"], "target_label": "a"}),
                "__name__=m b1=bar b2=baz",
            ),
            (
                json!({"target_label": "c", "replacement": "static"}),
                "__name__=m a=foo b1=bar b2=baz c=static",
            ),
            (
                json!({"source_labels": ["a"], "regex": "(f)(oo)", "target_label": "${1}_${2}", "replacement": "v"}),
                "__name__=m a=foo b1=bar b2=baz f_oo=v",
            ),
            // No label name comes of it.
            (
                json!({"source_labels": ["a"], "regex": "foo()", "target_label": "${1}", "replacement": "v"}),
                all,
            ),
            (
                json!({"source_labels": ["a"], "regex": ".*", "target_label": "${0}-x", "replacement": "v"}),
                all,
            ),
            (
                json!({"source_labels": ["a"], "action": "keep", "regex": "f.*"}),
                all,
            ),
            (
                json!({"source_labels": ["a"], "action": "drop", "regex": "no"}),
                all,
            ),
            (
                json!({"source_labels": ["a"], "action": "dropequal", "target_label": "b1"}),
                all,
            ),
            (
                json!({"source_labels": ["none"], "action": "keepequal", "target_label": "neither"}),
                all,
            ),
            (
                json!({"source_labels": ["b2"], "action": "hashmod", "target_label": "d", "modulus": 1000}),
                "__name__=m a=foo b1=bar b2=baz d=976",
            ),
            (
                json!({"action": "labelmap", "regex": "(b.*)", "replacement": "bar_${1}"}),
                "__name__=m a=foo b1=bar b2=baz bar_b1=bar bar_b2=baz",
            ),
            // The last that maps to a name wins, and what was mapped is not mapped again.
            (
                json!({"action": "labelmap", "regex": "b(.)", "replacement": "b"}),
                "__name__=m a=foo b=baz b1=bar b2=baz",
            ),
            (
                json!({"action": "labelmap", "regex": "a|b1", "replacement": "b1"}),
                "__name__=m a=foo b1=bar b2=baz",
            ),
            (json!({"action": "labeldrop", "regex": "b.*"}), "__name__=m a=foo"),
            (json!({"action": "labelkeep", "regex": "b.*"}), "b1=bar b2=baz"),
            (
                json!({"source_labels": ["a"], "action": "uppercase", "target_label": "a"}),
                "__name__=m a=FOO b1=bar b2=baz",
            ),
            (
                json!({"source_labels": ["none"], "action": "lowercase", "target_label": "a"}),
                "__name__=m b1=bar b2=baz",
            ),
        ];
        for (rule, expected) in cases {
            assert_eq!(
                applied(std::slice::from_ref(&rule), &labels).as_deref(),
                Ok(expected),
                "{rule}"
            );
        }
        for rule in [
            json!({"source_labels": ["a"], "action": "keep", "regex": "no"}),
            json!({"source_labels": ["a"], "action": "drop", "regex": ".*o.*"}),
            json!({"source_labels": ["a"], "action": "keepequal", "target_label": "b1"}),
            json!({"source_labels": ["none"], "action": "dropequal", "target_label": "neither"}),
        ] {
            assert_eq!(
                applied(std::slice::from_ref(&rule), &labels),
                Err(Verdict::Dropped),
                "{rule}"
            );
        }
    }

    #[test]
    fn labels_that_were_set_come_after_the_others() {
        // `a` is set anew, so `labelmap` meets it last.
        let rules = [
            json!({"target_label": "a", "replacement": "set"}),
            json!({"action": "labelmap", "regex": "a|b", "replacement": "c"}),
        ];
        assert_eq!(
            applied(&rules, &[("a", "1"), ("b", "2")]).as_deref(),
            Ok("a=set b=2 c=set")
        );
    }

    #[test]
    fn a_pattern_is_wrapped_as_text() {
        let rule =
            json!({"source_labels": ["a"], "regex": "x)|(y", "target_label": "d", "replacement": "<$1>"});
        assert_eq!(applied(&[rule], &[("a", "axy")]).as_deref(), Ok("a=axy d=<y>"));
        let rule = json!({"action": "labelmap", "regex": "x)|(y", "replacement": "_"});
        assert_eq!(applied(&[rule], &[("x_y", "1")]).as_deref(), Ok("___=1 x_y=1"));
        // A dot stands for a line feed too, as in Prometheus 3.
        let rule = json!({"source_labels": ["a"], "action": "keep", "regex": "a.b"});
        assert!(applied(&[rule], &[("a", "a\nb")]).is_ok());
    }

    #[test]
    fn what_grows_without_bound_is_too_large() {
        let doubling = json!({"source_labels": ["a"], "target_label": "a", "replacement": "$1$1"});
        assert_eq!(
            applied(&vec![doubling; 64], &[("a", "x")]),
            Err(Verdict::TooLarge)
        );
        let value = "x".repeat(MAX_LABEL_SET / 2);
        let joined = json!({"source_labels": ["a", "a", "a"], "action": "keep"});
        assert_eq!(applied(&[joined], &[("a", &value)]), Err(Verdict::TooLarge));
        let copies =
            |index| json!({"action": "labelmap", "regex": "(.*)", "replacement": format!("x{index}_$1")});
        let copies: Vec<_> = (0..20).map(copies).collect();
        assert_eq!(applied(&copies, &[("a", "x")]), Err(Verdict::TooLarge));
    }

    #[test]
    fn faults_are_named_by_their_path() {
        let path = |rule| rules(&[json!({"target_label": "a"}), rule]).unwrap_err().path;
        assert_eq!(path(json!({"regex": "("})), "[1].regex");
        assert_eq!(path(json!({"regex": "a".repeat(5000)})), "[1].regex");
        assert_eq!(
            path(json!({"action": "hashmod", "target_label": "a"})),
            "[1].modulus"
        );
        assert_eq!(path(json!({"action": "explode"})), "[1].action");
        assert_eq!(path(json!({"source_labels": vec!["a"; 65]})), "[1].source_labels");
        assert!(rules(&vec![json!({"target_label": "a"}); 65]).is_err());
    }

    #[test]
    fn rules_that_only_choose_change_nothing() {
        let keeps = json!({"source_labels": ["a"], "action": "keep"});
        assert!(!rules(std::slice::from_ref(&keeps)).unwrap().changes_labels());
        assert!(
            rules(&[keeps, json!({"action": "labeldrop", "regex": "a"})])
                .unwrap()
                .changes_labels()
        );
    }

    proptest! {
        #[test]
        fn the_size_is_that_of_the_labels(
            names in proptest::collection::vec("[a-c]{1,2}", 1..6),
            regex in "[a-c.*()|]{0,4}",
            replacement in "[a-c$1]{0,4}",
        ) {
            let labels: std::collections::BTreeMap<_, _> = names.iter().map(|name| (&**name, "a")).collect();
            let labels: Vec<_> = labels.into_iter().collect();
            let some = |action: &str| json!({"source_labels": ["a", "b"], "separator": "", "regex": regex,
                                             "target_label": "c", "replacement": replacement, "action": action});
            let all = ["replace", "labelmap", "labeldrop", "lowercase"].map(some);
            if rules(&all).is_ok() {
                let _ = applied(&all, &labels);
            }
        }
    }
}

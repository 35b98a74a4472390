//! How span metrics read spans and build label sets (processors §1).

use crate::bounds::Bounds;
use crate::error::PlanError;
use crate::filter::Filter;
use crate::info_plan::TargetInfoPlan;
use crate::labels::{Labels, SPAN_METRICS_RESERVED, put_label, sanitize_protected, truncate};
use crate::multiplier::MultiplierPlan;
use crate::plan::{Common, dimension_name, label_name};
use crate::settings::SpanMetricsSettings;
use crate::span::{KINDS, STATUS_CODES};
use crate::watch::Watch;
use crate::wire::put_varint;

/// How span metrics build a label set.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "one switch per metric")]
pub struct SpanMetricsPlan {
    /// Labels in ascending order of name, each name once.
    pub labels: Vec<SpanLabel>,
    /// What joined labels are made of; a label's source says which.
    pub mappings: Vec<Mapping>,
    /// Produce the calls counter.
    pub count: bool,
    /// Produce the latency histogram.
    pub latency: bool,
    /// Produce the size counter.
    pub size: bool,
    /// Latency buckets.
    pub bounds: Bounds,
    /// Which spans are counted; `None`: all.
    pub filter: Option<Filter>,
    /// What a span counts for.
    pub multiplier: MultiplierPlan,
    /// `None`: target info is off.
    pub target_info: Option<TargetInfoPlan>,
}

/// One label of span metrics.
#[derive(Debug)]
pub struct SpanLabel {
    /// Sanitized, truncated name.
    pub name: Vec<u8>,
    /// Where its value comes from.
    pub source: LabelSource,
    /// Where it comes from while the sources before have no text.
    pub fallbacks: Vec<LabelSource>,
    /// The name as it begins the label in a canonical label set.
    pub encoded_name: Vec<u8>,
    /// The whole label for each value that is known beforehand: of kinds and status codes, by their number.
    pub encoded: Vec<Vec<u8>>,
}

/// Where a label's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelSource {
    /// `service.name` of the resource.
    Service,
    /// The span's name.
    SpanName,
    /// The span's kind.
    SpanKind,
    /// The span's status code.
    StatusCode,
    /// The span's status message.
    StatusMessage,
    /// The watched attribute of this number, resource first.
    Attribute(usize),
    /// The joined values of the mapping of this number.
    Mapping(usize),
    /// Namespace and name of the resource's service (processors §1.5).
    Job,
    /// `service.instance.id` of the resource.
    Instance,
}

/// Attributes joined to one value (processors §1.3).
#[derive(Debug)]
pub struct Mapping {
    /// Watched attributes in the order of joining.
    pub sources: Vec<usize>,
    /// What stands between two values.
    pub join: Vec<u8>,
}

impl SpanLabel {
    fn new(name: Vec<u8>, source: LabelSource, value_limit: usize) -> Self {
        let mut encoded_name = Vec::new();
        put_varint(&mut encoded_name, name.len() as u64);
        encoded_name.extend_from_slice(&name);
        let known: &[&str] = match source {
            LabelSource::SpanKind => &KINDS,
            LabelSource::StatusCode => &STATUS_CODES,
            _ => &[],
        };
        let encode = |text: &&str| {
            let mut label = Vec::new();
            put_label(&mut label, &name, truncate(text.as_bytes(), value_limit));
            label
        };
        Self {
            encoded: known.iter().map(encode).collect(),
            name,
            source,
            fallbacks: Vec::new(),
            encoded_name,
        }
    }
}

impl SpanMetricsPlan {
    /// Compile the processor's settings.
    pub fn compile(
        settings: &SpanMetricsSettings,
        common: Common,
        watch: &mut Watch,
    ) -> Result<Self, PlanError> {
        let mut mappings = Vec::new();
        let added = added_labels(settings, common, watch, &mut mappings)?;
        let mut number = |key: &str| watch.number(key);
        let filter = Filter::compile(
            "span_metrics.filter_policies",
            &settings.filter_policies,
            settings.enable_strict_filter_types,
            &mut number,
        )?;
        let key = &settings.span_multiplier_key;
        let multiplier = MultiplierPlan {
            key: (!key.is_empty()).then(|| watch.number(key)),
            tracestate: settings.enable_tracestate_span_multiplier,
        };
        Ok(Self {
            labels: compacted(added, settings.keep_colliding_dimensions),
            mappings,
            count: settings.count,
            latency: settings.latency,
            size: settings.size,
            bounds: Bounds::new("span_metrics.histogram_buckets", &settings.histogram_buckets)?,
            filter,
            multiplier,
            target_info: settings
                .enable_target_info
                .then(|| TargetInfoPlan::new(settings, common)),
        })
    }

    /// Whether this plan can still build a label set that another one built: a label that it does not know, or lacks
    /// one that every span has, says no.
    pub fn can_produce(&self, set: &[u8]) -> bool {
        let mut missing: Vec<&SpanLabel> = self
            .labels
            .iter()
            .filter(|label| matches!(label.source, LabelSource::SpanKind | LabelSource::StatusCode))
            .collect();
        let job = self.labels.iter().find(|label| label.source == LabelSource::Job);
        let service = self
            .labels
            .iter()
            .find(|label| label.source == LabelSource::Service);
        let (mut has_service, mut has_job) = (false, false);
        for (name, _) in Labels(set) {
            if !self.labels.iter().any(|label| label.name == name) {
                return false;
            }
            missing.retain(|label| label.name != name);
            has_service |= service.is_some_and(|label| label.name == name);
            has_job |= job.is_some_and(|label| label.name == name);
        }
        missing.is_empty() && (job.is_none() || has_job || !has_service)
    }
}

/// All labels in the order in which the reference adds them, which decides what wins (processors §1.3).
fn added_labels(
    settings: &SpanMetricsSettings,
    common: Common,
    watch: &mut Watch,
    mappings: &mut Vec<Mapping>,
) -> Result<Vec<SpanLabel>, PlanError> {
    let intrinsic = &settings.intrinsic_dimensions;
    let intrinsics = [
        (intrinsic.service, "service", LabelSource::Service),
        (intrinsic.span_name, "span_name", LabelSource::SpanName),
        (intrinsic.span_kind, "span_kind", LabelSource::SpanKind),
        (intrinsic.status_code, "status_code", LabelSource::StatusCode),
        (
            intrinsic.status_message,
            "status_message",
            LabelSource::StatusMessage,
        ),
    ];
    let new = |name: Vec<u8>, source| SpanLabel::new(name, source, common.value_limit);
    let mut added: Vec<SpanLabel> = Vec::new();
    for (_, name, source) in intrinsics.iter().filter(|(enabled, ..)| *enabled) {
        added.push(new(label_name(name, common.name_limit), *source));
    }
    let mut taken: Vec<(String, String)> = Vec::new();
    for dimension in &settings.dimensions {
        let label = sanitize_protected(dimension, &SPAN_METRICS_RESERVED);
        let name = dimension_name("span_metrics.dimensions", &label, common.name_limit)?;
        added.push(new(name, LabelSource::Attribute(watch.number(dimension))));
        taken.push((label, format!("the dimension {dimension:?}")));
    }
    for (index, mapping) in settings.dimension_mappings.iter().enumerate() {
        let path = format!("span_metrics.dimension_mappings[{index}].name");
        let label = sanitize_protected(&mapping.name, &SPAN_METRICS_RESERVED);
        if let Some((_, other)) = taken.iter().find(|(other, _)| *other == label) {
            let message = format!(
                "the mapping {:?} becomes the label {label:?}, and so does {other}; rename one of them",
                mapping.name
            );
            return Err(PlanError { path, message });
        }
        added.push(new(
            dimension_name(&path, &label, common.name_limit)?,
            LabelSource::Mapping(mappings.len()),
        ));
        taken.push((label, format!("the mapping {:?}", mapping.name)));
        mappings.push(Mapping {
            sources: mapping
                .source_labels
                .iter()
                .map(|key| watch.number(key))
                .collect(),
            join: mapping.join.clone().into_bytes(),
        });
    }
    if settings.enable_target_info {
        added.push(new(label_name("job", common.name_limit), LabelSource::Job));
        if settings.enable_instance_label {
            added.push(new(
                label_name("instance", common.name_limit),
                LabelSource::Instance,
            ));
        }
    }
    Ok(added)
}

/// A stable sort by name, then one label for equal names (processors §0.5 step 2). The last configured wins, with or
/// without a value, or keeps the others as fallbacks (Q2); job and instance always do: without a value they are not added.
fn compacted(mut added: Vec<SpanLabel>, keeps_colliding: bool) -> Vec<SpanLabel> {
    added.sort_by(|a, b| a.name.cmp(&b.name));
    let mut labels: Vec<SpanLabel> = Vec::new();
    for mut label in added {
        match labels.last_mut() {
            Some(last) if last.name == label.name => {
                if keeps_colliding || matches!(label.source, LabelSource::Job | LabelSource::Instance) {
                    label.fallbacks.push(last.source);
                    label.fallbacks.append(&mut last.fallbacks);
                }
                *last = label;
            }
            _ => labels.push(label),
        }
    }
    labels
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::labels::label_set;
    use crate::plan::{Plan, tests::settings};
    use serde_json::json;

    fn plan(replace: &[(&str, serde_json::Value)]) -> Plan {
        Plan::compile(&settings(replace)).unwrap()
    }

    #[test]
    fn of_equal_label_names_the_last_configured_is_kept() {
        let dimensions = ("/span_metrics/dimensions", json!(["a.b", "a_b", "span.kind"]));
        let plan_of = |keeps: bool| {
            plan(&[
                dimensions.clone(),
                ("/span_metrics/keep_colliding_dimensions", json!(keeps)),
            ])
        };
        let plan = plan_of(false);
        let labels = &plan.span_metrics.as_ref().unwrap().labels;
        let names: Vec<_> = labels
            .iter()
            .map(|label| String::from_utf8_lossy(&label.name))
            .collect();
        assert_eq!(
            names,
            [
                "__span_kind",
                "a_b",
                "service",
                "span_kind",
                "span_name",
                "status_code"
            ]
        );
        let source = |plan: &Plan, key: &[u8]| LabelSource::Attribute(plan.watch.find(key).unwrap());
        assert_eq!(labels[1].source, source(&plan, b"a_b"));
        assert_eq!(labels[1].fallbacks, []);
        let kept = plan_of(true);
        let labels = &kept.span_metrics.as_ref().unwrap().labels;
        assert_eq!(labels[1].fallbacks, [source(&kept, b"a.b")]);
    }

    #[test]
    fn a_mapping_must_not_collide() {
        let mapping = |name: &str| json!({"name": name, "source_labels": ["x"], "join": ""});
        let refused = |dimensions: serde_json::Value, mappings: serde_json::Value| {
            let replaced = [
                ("/span_metrics/dimensions", dimensions),
                ("/span_metrics/dimension_mappings", mappings),
            ];
            Plan::compile(&settings(&replaced)).unwrap_err().to_string()
        };
        let error = refused(json!(["foo.bar"]), json!([mapping("foo_bar")]));
        assert!(error.starts_with("span_metrics.dimension_mappings[0].name: the mapping \"foo_bar\""));
        assert!(error.contains("the dimension \"foo.bar\""));
        let error = refused(json!([]), json!([mapping("a.b"), mapping("a-b")]));
        assert!(error.contains("the mapping \"a.b\""));
        assert!(refused(json!([]), json!([mapping("")])).contains("dimension_mappings[0].name"));
    }

    #[test]
    fn a_plan_knows_which_sets_it_no_longer_builds() {
        let set = |pairs: &[(&str, &str)]| {
            label_set(
                pairs
                    .iter()
                    .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                    .collect(),
            )
        };
        let always = [
            ("span_kind", "SPAN_KIND_SERVER"),
            ("status_code", "STATUS_CODE_OK"),
        ];
        let plain = plan(&[]);
        let with_job = plan(&[("/span_metrics/enable_target_info", json!(true))]);
        let of = |plan: &Plan, pairs: &[(&str, &str)]| {
            plan.span_metrics.as_ref().unwrap().can_produce(&set(pairs))
        };
        assert!(of(&plain, &always));
        assert!(!of(&plain, &always[..1]));
        assert!(!of(&plain, &[always[0], always[1], ("region", "eu")]));
        assert!(of(&with_job, &always));
        assert!(!of(&with_job, &[always[0], always[1], ("service", "cart")]));
        assert!(of(
            &with_job,
            &[always[0], always[1], ("service", "cart"), ("job", "cart")]
        ));
    }
}

//! How the info metrics are built of resources: `traces_target_info` and host info (processors §1.6, §3).

use std::collections::HashSet;

use crate::error::PlanError;
use crate::labels::{Labels, MAX_LABEL_SET, SPAN_METRICS_RESERVED, label_set, sanitize, truncate};
use crate::plan::{Common, SERIES_LABELS, label_name};
use crate::settings::{HostInfoSettings, SpanMetricsSettings};
use crate::watch::Watch;

/// Most labels of one info metric. A resource with more attributes gets none: no receiver takes such a series.
pub const MAX_INFO_LABELS: usize = 256;

const HOST_ID: &str = "grafana_host_id";
const HOST_SOURCE: &str = "host_source";

/// What a resource says for an info metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Nothing to say.
    Absent,
    /// A label is not UTF-8.
    Invalid,
    /// More labels than [`MAX_INFO_LABELS`], or longer than [`MAX_LABEL_SET`].
    TooLarge,
    /// The canonical label set.
    Set(Box<[u8]>),
}

impl Info {
    fn of(set: Vec<u8>) -> Self {
        if set.len() > MAX_LABEL_SET {
            Self::TooLarge
        } else if Labels(&set).is_valid() {
            Self::Set(set.into())
        } else {
            Self::Invalid
        }
    }
}

/// How `traces_target_info` is built.
#[derive(Debug)]
pub struct TargetInfoPlan {
    excluded: HashSet<Vec<u8>>,
    has_instance: bool,
    job: Vec<u8>,
    instance: Vec<u8>,
    common: Common,
}

impl TargetInfoPlan {
    /// Compile the settings of span metrics.
    pub fn new(settings: &SpanMetricsSettings, common: Common) -> Self {
        let excluded = settings.target_info_excluded_dimensions.iter();
        Self {
            excluded: excluded.map(|key| key.clone().into_bytes()).collect(),
            has_instance: settings.enable_instance_label,
            job: label_name("job", common.name_limit),
            instance: label_name("instance", common.name_limit),
            common,
        }
    }

    /// The label of a resource attribute, unless it has none.
    fn label(&self, key: &[u8]) -> Option<Vec<u8>> {
        let starts_with_digit = key.first().is_none_or(u8::is_ascii_digit);
        let is_identity = matches!(
            key,
            b"service.name" | b"service.namespace" | b"service.instance.id"
        );
        if starts_with_digit || is_identity || self.excluded.contains(key) {
            return None;
        }
        let label = sanitize(&String::from_utf8_lossy(key));
        let is_reserved =
            SPAN_METRICS_RESERVED.contains(&label.as_str()) || label == "job" || label == "instance";
        let label = if is_reserved { format!("__{label}") } else { label };
        let label = label_name(&label, self.common.name_limit);
        // Two entities that differ in such a label only would be one series (Q38).
        (!SERIES_LABELS.contains(&label.as_slice())).then_some(label)
    }

    /// The label set of a resource, from its attributes in order and what it is called (processors §1.6).
    pub fn build<'a>(
        &self,
        attributes: impl Iterator<Item = (&'a [u8], Vec<u8>)>,
        job: &[u8],
        instance: &[u8],
    ) -> Info {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for (key, value) in attributes {
            let Some(label) = self.label(key) else {
                continue;
            };
            if pairs.len() >= MAX_INFO_LABELS {
                return Info::TooLarge;
            }
            pairs.push((label, value));
        }
        let mut identity = 0;
        let instance = if self.has_instance { instance } else { b"" };
        for (label, value) in [(&self.job, job), (&self.instance, instance)] {
            if !value.is_empty() {
                identity += 1;
                pairs.push((label.clone(), value.to_vec()));
            }
        }
        let limit = self.common.value_limit;
        let set = label_set(
            pairs
                .iter()
                .map(|(label, value)| (&**label, truncate(value, limit)))
                .collect(),
        );
        if identity == 0 || Labels(&set).count() <= identity {
            Info::Absent
        } else {
            Info::of(set)
        }
    }

    /// Whether this plan can still build a label set that another one built.
    pub fn can_produce(&self, set: &[u8]) -> bool {
        let excluded: HashSet<Vec<u8>> = self
            .excluded
            .iter()
            .map(|key| label_name(&sanitize(&String::from_utf8_lossy(key)), self.common.name_limit))
            .collect();
        Labels(set).all(|(name, _)| !excluded.contains(name) && (self.has_instance || name != self.instance))
    }
}

/// How host info is built.
#[derive(Debug)]
pub struct HostInfoPlan {
    /// Watched attributes that name a host, the first with a text wins, and their keys.
    pub identifiers: Vec<(usize, Vec<u8>)>,
    /// Name of the gauge.
    pub metric_name: String,
    host_id: Vec<u8>,
    host_source: Vec<u8>,
    common: Common,
}

impl HostInfoPlan {
    /// Compile the processor's settings.
    pub fn compile(
        settings: &HostInfoSettings,
        common: Common,
        watch: &mut Watch,
    ) -> Result<Self, PlanError> {
        if settings.metric_name.is_empty() {
            return Err(PlanError {
                path: "host_info.metric_name".to_owned(),
                message: "must not be empty".to_owned(),
            });
        }
        let identifiers = settings.host_identifiers.iter();
        Ok(Self {
            identifiers: identifiers
                .map(|key| (watch.number(key), key.clone().into_bytes()))
                .collect(),
            metric_name: settings.metric_name.clone(),
            host_id: label_name(HOST_ID, common.name_limit),
            host_source: label_name(HOST_SOURCE, common.name_limit),
            common,
        })
    }

    /// The label set of a host; `source` is the key that named it.
    pub fn build(&self, host: &[u8], source: &[u8]) -> Info {
        let limit = self.common.value_limit;
        let set = label_set(vec![
            (&*self.host_id, truncate(host, limit)),
            (&*self.host_source, truncate(source, limit)),
        ]);
        Info::of(set)
    }

    /// Whether this plan can still build a label set that another one built.
    pub fn can_produce(&self, set: &[u8]) -> bool {
        let limit = self.common.value_limit;
        let mut labels = Labels(set);
        let source = labels
            .find(|(name, _)| *name == self.host_source)
            .map(|(_, value)| value);
        self.identifiers
            .iter()
            .any(|(_, key)| source == Some(truncate(key, limit)))
    }
}

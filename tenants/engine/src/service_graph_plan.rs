//! How service graphs read spans and build label sets (processors §2).

use crate::bounds::Bounds;
use crate::error::PlanError;
use crate::filter::Filter;
use crate::labels::{Labels, SERVICE_GRAPH_RESERVED, put_label, sanitize, sanitize_protected};
use crate::multiplier::MultiplierPlan;
use crate::plan::{Common, dimension_name, duration_s, label_name};
use crate::settings::ServiceGraphSettings;
use crate::watch::Watch;

/// How service graphs read spans and build label sets.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "switches, named as in the settings")]
pub struct ServiceGraphPlan {
    /// Watched attributes that fill the dimension slots; without prefixes `virtual_node` is the last, when enabled.
    pub dimensions: Vec<usize>,
    /// Label names of the dimension slots; with prefixes first all client slots, then all server slots.
    pub dimension_labels: Vec<Vec<u8>>,
    /// What every dimension slot holds, as a list of keys: tells the slots of two plans apart and matches them up.
    pub slot_names: Vec<u8>,
    /// Whether each side has dimension slots of its own.
    pub prefixed: bool,
    /// Label `virtual_node`, when enabled.
    pub virtual_node_label: Option<Vec<u8>>,
    /// Label names `client`, `server`, `connection_type`.
    pub side_labels: [Vec<u8>; 3],
    /// Watched attributes that name a peer.
    pub peers: Vec<usize>,
    /// Watched attributes that mark a database request.
    pub databases: Vec<usize>,
    /// `peer.service`, `server.address`, `network.peer.address`, `network.peer.port`.
    pub database_servers: [usize; 4],
    /// How long half an edge waits.
    pub wait_ns: u64,
    /// Most half edges that wait at once, and most markers.
    pub max_items: usize,
    /// Produce the request counters.
    pub request: bool,
    /// Produce the latency histograms.
    pub latency: bool,
    /// Produce the connection gauge.
    pub connection_info: bool,
    /// Produce the messaging latency histogram.
    pub messaging: bool,
    /// Latency buckets.
    pub bounds: Bounds,
    /// Longest label value in bytes; 0: no limit.
    pub max_value_len: usize,
    /// Which spans take part; `None`: all.
    pub filter: Option<Filter>,
    /// What an edge counts for.
    pub multiplier: MultiplierPlan,
    /// Of labels with one name the last with a value counts (Q2).
    pub keeps_colliding: bool,
    /// A database request waits for the database's own span (Q12).
    pub pairs_databases: bool,
    /// Every server-side span of a client-side span makes an edge (Q13).
    pub counts_every_receiver: bool,
    /// A virtual edge observes a latency of zero for the side that it lacks (Q14).
    pub has_virtual_latency: bool,
    /// A parent id of zero bytes is none (Q15).
    pub zero_parent_is_root: bool,
}

impl ServiceGraphPlan {
    /// Compile the processor's settings.
    pub fn compile(
        settings: &ServiceGraphSettings,
        common: Common,
        watch: &mut Watch,
    ) -> Result<Self, PlanError> {
        let prefixed = settings.enable_client_server_prefix;
        let prefixes: &[&str] = if prefixed { &["client_", "server_"] } else { &[""] };
        let (mut dimension_labels, mut slot_names) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            for dimension in &settings.dimensions {
                let name = sanitize(&format!("{prefix}{dimension}"));
                let name = sanitize_protected(&name, &SERVICE_GRAPH_RESERVED);
                dimension_labels.push(dimension_name(
                    "service_graphs.dimensions",
                    &name,
                    common.name_limit,
                )?);
                put_label(&mut slot_names, prefix.as_bytes(), dimension.as_bytes());
            }
        }
        let mut numbers =
            |keys: &[String]| -> Vec<usize> { keys.iter().map(|key| watch.number(key)).collect() };
        let mut dimensions = numbers(&settings.dimensions);
        if settings.enable_virtual_node_label && !prefixed {
            // Without prefixes the label is a dimension like any other: an attribute of its name fills it too.
            dimensions.extend(numbers(&["virtual_node".to_owned()]));
            put_label(&mut slot_names, b"", b"virtual_node");
        }
        let peers = numbers(&settings.peer_attributes);
        let databases = numbers(&settings.database_name_attributes);
        let database_servers = [
            "peer.service",
            "server.address",
            "network.peer.address",
            "network.peer.port",
        ]
        .map(|key| watch.number(key));
        let filter = Filter::compile(
            "service_graphs.filter_policies",
            &settings.filter_policies,
            settings.enable_strict_filter_types,
            &mut |key: &str| watch.number(key),
        )?;
        let key = &settings.span_multiplier_key;
        let multiplier = MultiplierPlan {
            key: (!key.is_empty()).then(|| watch.number(key)),
            tracestate: settings.enable_tracestate_span_multiplier,
        };
        let wait_s = duration_s("service_graphs.wait_s", settings.wait_s)?;
        Ok(Self {
            dimensions,
            dimension_labels,
            slot_names,
            prefixed,
            virtual_node_label: settings
                .enable_virtual_node_label
                .then(|| label_name("virtual_node", common.name_limit)),
            side_labels: ["client", "server", "connection_type"]
                .map(|name| label_name(name, common.name_limit)),
            peers,
            databases,
            database_servers,
            wait_ns: (wait_s * 1e9).round() as u64,
            max_items: usize::try_from(settings.max_items).unwrap_or(usize::MAX),
            request: settings.request,
            latency: settings.latency,
            connection_info: settings.connection_info,
            messaging: settings.enable_messaging_system_latency_histogram,
            bounds: Bounds::new("service_graphs.histogram_buckets", &settings.histogram_buckets)?,
            max_value_len: common.value_limit,
            filter,
            multiplier,
            keeps_colliding: settings.keep_colliding_dimensions,
            pairs_databases: settings.pair_database_spans,
            counts_every_receiver: settings.count_every_receiver,
            has_virtual_latency: settings.enable_virtual_node_latency,
            zero_parent_is_root: settings.zero_parent_id_is_root,
        })
    }

    /// Whether this plan can still build a label set that another one built: a label that it does not know says no.
    pub fn can_produce(&self, set: &[u8]) -> bool {
        Labels(set).all(|(name, _)| {
            self.side_labels.iter().any(|label| label == name)
                || self.dimension_labels.iter().any(|label| label == name)
                || self.virtual_node_label.as_deref() == Some(name)
        })
    }
}

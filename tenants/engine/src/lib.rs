//! Native engine of Millrace: OTLP bytes in, Prometheus remote-write bytes out.
//!
//! All per-span and per-series work and nothing else: no I/O, no clock (time is passed in), no tenancy policy. The way
//! of a span: [`split`] walks an export request and makes a [`frame`] for each shard; a [`shard`] counts frames and
//! flushes a [`record`] of what it counted and of what it needs to go on; the tenant's [`registry`] merges the one and
//! writes [`remote_write`] messages, its [`mirror`] keeps the other for the shard's successor.
//! `python.rs` is the only module that knows Python.

#![cfg_attr(not(feature = "python"), forbid(unsafe_code))]

pub mod any_value;
pub mod batch_rewrite;
pub mod bounds;
pub mod budget;
pub mod byte_reader;
pub mod checkpoint;
pub mod drain;
pub mod drain_clusters;
pub mod drain_counters;
#[cfg(test)]
mod drain_reference;
pub mod drain_tokens;
pub mod drain_tree;
pub mod duration_sum;
pub mod edge_half;
pub mod edge_labels;
pub mod edge_store;
pub mod error;
pub mod exemplar;
pub mod family;
pub mod filter;
pub mod filter_condition;
pub mod filter_key;
pub mod filter_regex;
pub mod fingerprint;
pub mod fingerprints;
pub mod frame;
pub mod group;
pub mod half;
pub mod halves;
pub mod hash;
pub mod hash_range;
pub mod info_plan;
pub mod intern;
pub mod kept_edges;
pub mod label_cardinality;
pub mod labels;
pub mod ledger;
pub mod letter_case;
pub mod markers;
pub mod mirror;
pub mod multiplier;
pub mod native_buckets;
pub mod native_exemplars;
pub mod native_histogram;
pub mod native_schema;
pub mod plan;
pub mod re2;
pub mod re2_class;
pub mod re2_text;
pub mod rebucket;
pub mod record;
pub mod record_envelope;
pub mod refused_spans;
pub mod registry;
pub mod relabel;
pub mod relabelled_series;
pub mod remote_write;
mod remote_write_1;
mod remote_write_2;
pub mod remote_write_histogram;
pub mod resource;
pub mod resource_cache;
pub mod rewriter;
pub mod sealed_bytes;
pub mod series_group;
pub mod series_write;
pub mod service_graph;
pub mod service_graph_plan;
pub mod settings;
pub mod shard;
pub mod shard_state;
pub mod sketch;
pub mod span;
pub mod span_labels;
pub mod span_metrics_plan;
pub mod split;
mod symbols;
pub mod template;
pub mod watch;
pub mod wire;
pub mod workspace;

#[cfg(feature = "python")]
mod python;

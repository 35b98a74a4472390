//! Native engine of Millrace: OTLP bytes in, Prometheus remote-write bytes out.
//!
//! All per-span and per-series work and nothing else: no I/O, no clock (time is passed in), no tenancy policy. The way
//! of a span: [`split`] walks an export request and makes a [`frame`] for each shard; a [`shard`] counts frames and
//! flushes a [`record`] of what it counted; the tenant's [`registry`] merges records and writes [`remote_write`]
//! messages. `python.rs` is the only module that knows Python.

#![cfg_attr(not(feature = "python"), forbid(unsafe_code))]

pub mod any_value;
pub mod edge_store;
pub mod error;
pub mod exemplar;
pub mod frame;
pub mod group;
pub mod half;
pub mod halves;
pub mod hash;
pub mod intern;
pub mod labels;
pub mod plan;
pub mod record;
pub mod registry;
pub mod remote_write;
pub mod series_group;
pub mod service_graph;
pub mod settings;
pub mod shard;
pub mod span;
pub mod split;
pub mod wire;

#[cfg(feature = "python")]
mod python;

//! What the fuzz targets share: settings, requests, and the way of a request through the engine.

pub mod journey;
pub mod plans;
pub mod request;
pub mod sealed;
pub mod written;

use millrace_engine::remote_write::{OutputSpec, Protocol};

/// All that can be asked of a collection in one output.
pub fn everything(protocol: Protocol) -> OutputSpec {
    OutputSpec {
        rules: None,
        protocol,
        counter_exemplars: true,
        lanes: 1,
    }
}

/// The time of all that happens: inputs mean the same whenever they are run.
pub const NOW_NS: u64 = 1_700_000_000_000_000_000;
/// The same in milliseconds.
pub const NOW_MS: i64 = 1_700_000_000_000;

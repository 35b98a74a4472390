//! What the engine refuses, and how it says so.

use thiserror::Error;

/// The bytes are not an OTLP `ExportTraceServiceRequest`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed OTLP request: {fault} at byte {offset} in {field}")]
pub struct WireError {
    /// Offset in the request body of the element that could not be read.
    pub offset: usize,
    /// Path of the field being read.
    pub field: &'static str,
    /// What was wrong with it.
    pub fault: WireFault,
}

/// The ways in which protobuf bytes can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WireFault {
    /// The message ends inside an element.
    #[error("bytes end early")]
    Truncated,
    /// A varint has more than ten bytes or more than 64 bits.
    #[error("varint is longer than 64 bits")]
    VarintTooLong,
    /// A tag carries the field number zero.
    #[error("field number is zero or out of range")]
    BadFieldNumber,
    /// A known field has the wire type of another kind.
    #[error("wire type does not fit the field")]
    WrongWireType,
    /// Wire types 6 and 7 do not exist.
    #[error("unknown wire type")]
    UnknownWireType,
    /// A group is not closed, or closed without having been opened.
    #[error("group is not balanced")]
    UnbalancedGroup,
    /// Values or groups are nested deeper than the engine follows.
    #[error("nested too deeply")]
    TooDeep,
    /// A trace id of more than 16 or a span id of more than 8 bytes.
    #[error("id is too long")]
    IdTooLong,
}

/// A frame, record, checkpoint or batch was not made by this version of the engine, or was damaged on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("damaged {what}: {fault}")]
pub struct FrameError {
    /// `frame`, `record`, `checkpoint` or `batch`.
    pub what: &'static str,
    /// What was wrong with it.
    pub fault: &'static str,
}

/// The processing settings cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path}: {message}")]
pub struct PlanError {
    /// Dotted path of the setting.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

//! The engine's Python face, typed in `tenants/_engine.pyi`. Bytes in, bytes and numbers out; nothing per span crosses.
//!
//! The GIL is released in one place, [`detached`]. A panic becomes a Python exception at this boundary and poisons only
//! the object it happened in.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::buffer::PyBuffer;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::{FrameError, PlanError, WireError};
use crate::remote_write::{ExternalLabels, WriteBatch as EncodedBatch};
use crate::settings::Settings;
use crate::split::{Split as SplitRequest, SplitOptions};
use crate::{plan, registry, shard};

create_exception!(tenants._engine, EngineError, PyException);
create_exception!(tenants._engine, MalformedRequest, EngineError);
create_exception!(tenants._engine, MalformedFrame, EngineError);
create_exception!(tenants._engine, InvalidPlan, EngineError);

/// Shards of one tenant; a bound on what a caller can ask for.
const MAX_SHARDS: u32 = 4096;
const KINDS: [&str; 6] = [
    "unspecified",
    "internal",
    "server",
    "client",
    "producer",
    "consumer",
];

/// Attributes, not arguments, carry the details: `str()` stays one sentence, and both survive pickling.
fn malformed_request(py: Python<'_>, error: &WireError) -> PyResult<PyErr> {
    let raised = MalformedRequest::new_err(error.to_string());
    let value = raised.value(py);
    value.setattr("offset", error.offset)?;
    value.setattr("field", error.field)?;
    Ok(raised)
}

impl From<FrameError> for PyErr {
    fn from(error: FrameError) -> Self {
        MalformedFrame::new_err(error.to_string())
    }
}

impl From<PlanError> for PyErr {
    fn from(error: PlanError) -> Self {
        InvalidPlan::new_err(error.to_string())
    }
}

/// Work with the GIL released. Every call of the engine goes through here.
///
/// A panic is a bug; it is raised as an `EngineError`, which callers expect, and not as the `BaseException` of the binding, which
/// would end the process of whoever does not.
fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> PyResult<T> + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work)))
        .unwrap_or_else(|_| {
            Err(EngineError::new_err(
                "the engine panicked; its message is on standard error",
            ))
        })
}

fn locked<T>(mutex: &Mutex<T>) -> PyResult<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| {
        PyRuntimeError::new_err("an earlier call panicked in this object; it cannot be used any more")
    })
}

/// The bytes of an argument: borrowed from `bytes`, copied from any other buffer.
enum Input<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copied(Vec<u8>),
}

impl<'py> FromPyObject<'_, 'py> for Input<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.to_owned()));
        }
        let buffer = PyBuffer::<u8>::get(&object)?;
        Ok(Self::Copied(buffer.to_vec(object.py())?))
    }
}

impl Input<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}

#[pyclass(frozen, module = "tenants._engine")]
struct Plan(Arc<plan::Plan>);

#[pymethods]
impl Plan {
    #[new]
    fn new(py: Python<'_>, settings_json: &str) -> PyResult<Self> {
        detached(py, || {
            let settings = Settings::from_json(settings_json)?;
            Ok(Self(Arc::new(plan::Plan::compile(&settings)?)))
        })
    }
}

#[pyclass(frozen, module = "tenants._engine")]
struct Split(SplitRequest);

#[pymethods]
impl Split {
    #[getter]
    fn frames<'py>(&self, py: Python<'py>) -> Vec<(usize, Bound<'py, PyBytes>)> {
        let frame = |(shard, frame): &(usize, Vec<u8>)| (*shard, PyBytes::new(py, frame));
        self.0.frames.iter().map(frame).collect()
    }

    #[getter]
    fn received_spans(&self) -> u64 {
        self.0.received_spans
    }

    #[getter]
    fn rejected(&self) -> BTreeMap<&'static str, u64> {
        counted([
            ("invalid_trace_id", self.0.invalid_trace_ids),
            ("invalid_span_id", self.0.invalid_span_ids),
        ])
    }

    #[getter]
    fn discarded(&self) -> BTreeMap<&'static str, u64> {
        counted([
            ("outside_metrics_ingestion_slack", self.0.outside_slack),
            ("invalid_utf8", self.0.invalid_utf8),
        ])
    }
}

fn counted<const N: usize>(counts: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[pyfunction]
#[pyo3(signature = (body, plan, shard_count, now_ns, *, strict_ids = true))]
fn split(
    py: Python<'_>,
    body: Input<'_>,
    plan: &Plan,
    shard_count: u32,
    now_ns: u64,
    strict_ids: bool,
) -> PyResult<Split> {
    if !(1..=MAX_SHARDS).contains(&shard_count) {
        return Err(PyValueError::new_err(format!(
            "shard_count must be 1 to {MAX_SHARDS}, not {shard_count}"
        )));
    }
    let options = SplitOptions {
        shard_count,
        now_ns,
        strict_ids,
    };
    let (bytes, plan) = (body.as_slice(), &plan.0);
    match detached(py, || Ok(crate::split::split(bytes, plan, options)))? {
        Ok(split) => Ok(Split(split)),
        Err(error) => Err(malformed_request(py, &error)?),
    }
}

#[pyfunction]
fn trace_hash(trace_id: &[u8]) -> u64 {
    crate::hash::trace_hash(trace_id)
}

#[pyclass(frozen, module = "tenants._engine")]
struct Shard(Mutex<shard::Shard>);

#[pymethods]
impl Shard {
    #[new]
    fn new(plan: &Plan) -> Self {
        Self(Mutex::new(shard::Shard::new(Arc::clone(&plan.0))))
    }

    fn set_plan<'py>(&self, py: Python<'py>, plan: &Plan, now_ns: u64) -> PyResult<Bound<'py, PyBytes>> {
        let plan = Arc::clone(&plan.0);
        let record = detached(py, || Ok(locked(&self.0)?.set_plan(plan, now_ns)))?;
        Ok(PyBytes::new(py, &record))
    }

    fn apply(&self, py: Python<'_>, frame: Input<'_>, now_ns: u64) -> PyResult<()> {
        let frame = frame.as_slice();
        detached(py, || Ok(locked(&self.0)?.apply(frame, now_ns)?))
    }

    #[pyo3(signature = (now_ns, *, close_edges = false))]
    fn flush<'py>(&self, py: Python<'py>, now_ns: u64, close_edges: bool) -> PyResult<Bound<'py, PyBytes>> {
        let record = detached(py, || Ok(locked(&self.0)?.flush(now_ns, close_edges)))?;
        Ok(PyBytes::new(py, &record))
    }

    fn redefine<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let record = detached(py, || Ok(locked(&self.0)?.redefine()))?;
        Ok(PyBytes::new(py, &record))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<BTreeMap<&'static str, u64>> {
        let stats = detached(py, || Ok(locked(&self.0)?.stats()))?;
        Ok(BTreeMap::from([
            ("entities", stats.entities as u64),
            ("open_edges", stats.open_edges as u64),
            ("state_bytes", stats.state_bytes as u64),
        ]))
    }
}

#[pyclass(frozen, module = "tenants._engine")]
struct WriteBatch(EncodedBatch);

#[pymethods]
impl WriteBatch {
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.body)
    }

    #[getter]
    fn series(&self) -> usize {
        self.0.series
    }

    #[getter]
    fn samples(&self) -> usize {
        self.0.samples
    }

    #[getter]
    fn exemplars(&self) -> usize {
        self.0.exemplars
    }
}

#[pyclass(frozen, module = "tenants._engine")]
struct Registry(Mutex<registry::Registry>);

#[pymethods]
impl Registry {
    #[new]
    fn new(plan: &Plan, started_at_ms: i64) -> Self {
        Self(Mutex::new(registry::Registry::new(
            Arc::clone(&plan.0),
            started_at_ms,
        )))
    }

    fn set_plan(&self, py: Python<'_>, plan: &Plan) -> PyResult<()> {
        let plan = Arc::clone(&plan.0);
        detached(py, || {
            locked(&self.0)?.set_plan(plan);
            Ok(())
        })
    }

    fn merge(&self, py: Python<'_>, source: u64, record: Input<'_>, now_ns: u64) -> PyResult<()> {
        let record = record.as_slice();
        detached(py, || Ok(locked(&self.0)?.merge(source, record, now_ns)?))
    }

    fn forget_source(&self, py: Python<'_>, source: u64) -> PyResult<()> {
        detached(py, || {
            locked(&self.0)?.forget_source(source);
            Ok(())
        })
    }

    fn collect(
        &self,
        py: Python<'_>,
        now_ms: i64,
        external_labels: Vec<(String, String)>,
        max_samples: usize,
    ) -> PyResult<Vec<WriteBatch>> {
        detached(py, || {
            let external = ExternalLabels::new(&external_labels);
            let batches = locked(&self.0)?.collect(now_ms, &external, max_samples);
            Ok(batches.into_iter().map(WriteBatch).collect())
        })
    }

    fn end_all(
        &self,
        py: Python<'_>,
        now_ms: i64,
        external_labels: Vec<(String, String)>,
        max_samples: usize,
    ) -> PyResult<Vec<WriteBatch>> {
        detached(py, || {
            let external = ExternalLabels::new(&external_labels);
            let batches = locked(&self.0)?.end_all(now_ms, &external, max_samples);
            Ok(batches.into_iter().map(WriteBatch).collect())
        })
    }

    fn stats(&self, py: Python<'_>) -> PyResult<BTreeMap<String, u64>> {
        let stats = detached(py, || Ok(locked(&self.0)?.stats()))?;
        let (budget, counters) = (stats.budget, stats.counters);
        let mut named = BTreeMap::from(
            [
                ("active_series", budget.active),
                ("series_added", budget.added),
                ("series_removed", budget.removed),
                ("series_limited", budget.limited),
                ("entities", stats.entities as u64),
                ("edges", counters.edges),
                ("dropped_spans", counters.dropped_spans),
                ("invalid_utf8_edges", counters.invalid_utf8_edges),
                ("state_bytes", stats.state_bytes as u64),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        for (kind, count) in KINDS.iter().zip(counters.expired_edges) {
            named.insert(format!("expired_edges_{kind}"), count);
        }
        Ok(named)
    }
}

#[pyfunction]
fn build_info() -> BTreeMap<&'static str, &'static str> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    BTreeMap::from([("version", env!("CARGO_PKG_VERSION")), ("profile", profile)])
}

#[pymodule(gil_used = false)]
mod _engine {
    #[pymodule_export]
    use super::{
        EngineError, InvalidPlan, MalformedFrame, MalformedRequest, Plan, Registry, Shard, Split, WriteBatch,
        build_info, split, trace_hash,
    };
}

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
use crate::fingerprint::{FINGERPRINT, Fingerprint};
use crate::hash_range::HashRange;
use crate::label_cardinality::LabelStats;
use crate::ledger::{Entry, NAMES};
use crate::relabel::{LabelList, Verdict};
use crate::remote_write::{Encoded, ExternalLabels, OutputSpec, Protocol, WriteBatch as EncodedBatch};
use crate::settings::Settings;
use crate::split::{Split as SplitRequest, SplitOptions};
use crate::{batch_rewrite, mirror, plan, record_envelope, refused_spans, registry, relabel, shard};

create_exception!(tenants._engine, EngineError, PyException);
create_exception!(tenants._engine, MalformedRequest, EngineError);
create_exception!(tenants._engine, MalformedFrame, EngineError);
create_exception!(tenants._engine, InvalidPlan, EngineError);

type SummaryRowParts = (Vec<String>, Vec<f64>, Vec<(f64, Vec<f64>)>);
type SummaryParts = (Vec<SummaryRowParts>, usize, Vec<Vec<f64>>);
type CardinalityParts = (Vec<(String, u64)>, Vec<(String, u64, u64)>);

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

    fn workspace_bytes(&self) -> usize {
        self.0.workspace.state_bytes()
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
    fn discarded(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let discarded = &self.0.discarded;
        counted([
            (
                ("gateway", "outside_metrics_ingestion_slack"),
                discarded.outside_slack,
            ),
            (
                ("span_metrics", "span_metrics_filtered"),
                discarded.span_metrics_filtered,
            ),
            (
                ("span_metrics", "invalid_utf8"),
                discarded.span_metrics_invalid_utf8,
            ),
            (
                ("span_metrics", "label_set_too_large"),
                discarded.span_metrics_too_large,
            ),
            (
                ("service_graphs", "service_graphs_filtered"),
                discarded.service_graphs_filtered,
            ),
            (
                ("service_graphs", "label_set_too_large"),
                discarded.service_graphs_too_large,
            ),
            (("host_info", "invalid_utf8"), discarded.host_info_invalid_utf8),
            (
                ("host_info", "label_set_too_large"),
                discarded.host_info_too_large,
            ),
        ])
    }

    #[getter]
    fn attributes_truncated(&self) -> BTreeMap<&'static str, u64> {
        let cuts = &self.0.cuts;
        counted([
            ("resource", cuts.resource),
            ("scope", cuts.scope),
            ("span", cuts.spans.span),
            ("event", cuts.spans.event),
            ("link", cuts.spans.link),
        ])
    }

    #[getter]
    fn ignored_multipliers(&self) -> u64 {
        self.0.ignored_multipliers
    }

    #[getter]
    fn skipped_processor_pushes(&self) -> u64 {
        self.0.skipped_processors
    }
}

fn counted<K: Ord, const N: usize>(counts: [(K, u64); N]) -> BTreeMap<K, u64> {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[pyfunction]
#[pyo3(signature = (body, plan, shard_count, now_ns, *, strict_ids = true, skip_generation = false))]
fn split(
    py: Python<'_>,
    body: Input<'_>,
    plan: &Plan,
    shard_count: u32,
    now_ns: u64,
    strict_ids: bool,
    skip_generation: bool,
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
        skip_generation,
    };
    let (bytes, plan) = (body.as_slice(), &plan.0);
    match detached(py, || Ok(crate::split::split(bytes, plan, options)))? {
        Ok(split) => Ok(Split(split)),
        Err(error) => Err(malformed_request(py, &error)?),
    }
}

fn zipped<A: Copy, B: Copy, const N: usize>(names: [A; N], counts: [B; N]) -> [(A, B); N] {
    std::array::from_fn(|index| (names[index], counts[index]))
}

#[pyclass(frozen, module = "tenants._engine")]
struct RefusedSpans(Mutex<refused_spans::RefusedSpans>);

#[pymethods]
impl RefusedSpans {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn add(&self, py: Python<'_>, body: Input<'_>, reason: &str) -> PyResult<u64> {
        let entry = Entry::of_refusal(reason)
            .ok_or_else(|| PyValueError::new_err(format!("no span is refused as {reason}")))?;
        let body = body.as_slice();
        detached(py, || Ok(locked(&self.0)?.add(body, entry)))
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let frame = detached(py, || Ok(locked(&self.0)?.take()))?;
        Ok(frame.map(|frame| PyBytes::new(py, &frame)))
    }
}

#[pyfunction]
fn check_regex(py: Python<'_>, pattern: &str) -> PyResult<()> {
    detached(py, || Ok(crate::filter::check_regex(pattern)?))
}

#[pyfunction]
fn trace_hash(trace_id: &[u8]) -> u64 {
    crate::hash::trace_hash(trace_id)
}

#[pyfunction]
fn fingerprint<'py>(py: Python<'py>, body: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = body.as_slice();
    let fingerprint = detached(py, || Ok(Fingerprint::of(bytes)))?;
    Ok(PyBytes::new(py, &fingerprint.to_bytes()))
}

#[pyfunction]
fn durable_part<'py>(py: Python<'py>, record: Input<'_>) -> PyResult<Bound<'py, PyBytes>> {
    let record = record.as_slice();
    let durable = detached(py, || Ok(record_envelope::durable_part(record)?))?;
    Ok(PyBytes::new(py, durable))
}

fn hash_range(index: u32, count: u32) -> PyResult<HashRange> {
    HashRange::of(index, count)
        .filter(|_| count <= MAX_SHARDS)
        .ok_or_else(|| {
            PyValueError::new_err(format!(
                "index must be below count, and count at most {MAX_SHARDS}, not {index} of {count}"
            ))
        })
}

#[pyclass(frozen, module = "tenants._engine")]
struct Shard(Mutex<shard::Shard>);

#[pymethods]
impl Shard {
    #[new]
    #[pyo3(signature = (
        plan, *, index = 0, count = 1, deduplication_window_ns = 600_000_000_000, state = None
    ))]
    fn new(
        py: Python<'_>,
        plan: &Plan,
        index: u32,
        count: u32,
        deduplication_window_ns: u64,
        state: Option<Input<'_>>,
    ) -> PyResult<Self> {
        hash_range(index, count)?;
        let plan = Arc::clone(&plan.0);
        let state = state.as_ref().map(Input::as_slice).unwrap_or_default();
        detached(py, || {
            let shard = shard::Shard::resume(plan, (index, count), deduplication_window_ns, state)?;
            Ok(Self(Mutex::new(shard)))
        })
    }

    fn set_plan<'py>(&self, py: Python<'py>, plan: &Plan, now_ns: u64) -> PyResult<Bound<'py, PyBytes>> {
        let plan = Arc::clone(&plan.0);
        let record = detached(py, || Ok(locked(&self.0)?.set_plan(plan, now_ns)))?;
        Ok(PyBytes::new(py, &record))
    }

    #[pyo3(signature = (frame, now_ns, *, fingerprint = None, made_for = None))]
    fn apply(
        &self,
        py: Python<'_>,
        frame: Input<'_>,
        now_ns: u64,
        fingerprint: Option<Input<'_>>,
        made_for: Option<(u32, u32)>,
    ) -> PyResult<bool> {
        let frame = frame.as_slice();
        let fingerprint = fingerprint.as_ref().map(Input::as_slice).unwrap_or_default();
        let origin = shard::Origin {
            fingerprint: read_fingerprint(fingerprint)?,
            made_for: made_for
                .map(|(index, count)| hash_range(index, count))
                .transpose()?,
        };
        detached(py, || Ok(locked(&self.0)?.apply(frame, now_ns, origin)?))
    }

    fn hold_fingerprints(&self, from_ns: u64, until_ns: u64) -> PyResult<()> {
        locked(&self.0)?.hold_fingerprints(from_ns, until_ns);
        Ok(())
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
            ("fingerprints", stats.fingerprints as u64),
            ("fingerprints_dropped", stats.fingerprints_dropped),
            ("state_bytes", stats.state_bytes as u64),
        ]))
    }
}

/// No bytes at all: the request is not to be remembered.
fn read_fingerprint(bytes: &[u8]) -> PyResult<Option<Fingerprint>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = <[u8; FINGERPRINT]>::try_from(bytes).map_err(|_| {
        PyValueError::new_err(format!(
            "fingerprint must have {FINGERPRINT} bytes or none, not {}",
            bytes.len()
        ))
    })?;
    Ok(Some(Fingerprint::from_bytes(bytes)))
}

#[pyclass(frozen, module = "tenants._engine")]
struct Mirror(Mutex<mirror::Mirror>);

#[pymethods]
impl Mirror {
    #[new]
    fn new(deduplication_window_ns: u64) -> Self {
        Self(Mutex::new(mirror::Mirror::new(deduplication_window_ns)))
    }

    #[staticmethod]
    fn restore(py: Python<'_>, checkpoint: Input<'_>) -> PyResult<Self> {
        let checkpoint = checkpoint.as_slice();
        detached(py, || Ok(Self(Mutex::new(mirror::Mirror::restore(checkpoint)?))))
    }

    #[staticmethod]
    fn check(py: Python<'_>, index: u32, count: u32, record: Input<'_>) -> PyResult<()> {
        hash_range(index, count)?;
        let record = record.as_slice();
        detached(py, || Ok(mirror::Mirror::check(index, count, record)?))
    }

    fn apply(&self, py: Python<'_>, index: u32, count: u32, record: Input<'_>, now_ns: u64) -> PyResult<()> {
        hash_range(index, count)?;
        let record = record.as_slice();
        detached(py, || Ok(locked(&self.0)?.apply(index, count, record, now_ns)?))
    }

    fn claim<'py>(
        &self,
        py: Python<'py>,
        index: u32,
        count: u32,
        now_ns: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        hash_range(index, count)?;
        let state = detached(py, || Ok(locked(&self.0)?.claim(index, count, now_ns)?))?;
        Ok(PyBytes::new(py, &state))
    }

    fn ranges(&self, py: Python<'_>) -> PyResult<Vec<(u32, u32, usize)>> {
        detached(py, || Ok(locked(&self.0)?.ranges().collect()))
    }

    fn checkpoint<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let checkpoint = detached(py, || Ok(locked(&self.0)?.checkpoint()))?;
        Ok(PyBytes::new(py, &checkpoint))
    }

    fn stats(&self, py: Python<'_>) -> PyResult<BTreeMap<&'static str, u64>> {
        let stats = detached(py, || Ok(locked(&self.0)?.stats()))?;
        Ok(BTreeMap::from([
            ("open_edges", stats.open_edges as u64),
            ("fingerprints", stats.fingerprints as u64),
            ("markers", stats.markers as u64),
            ("ranges", stats.ranges as u64),
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
    fn histograms(&self) -> usize {
        self.0.histograms
    }

    #[getter]
    fn exemplars(&self) -> usize {
        self.0.exemplars
    }

    #[getter]
    fn ahead(&self) -> usize {
        self.0.ahead
    }

    #[getter]
    fn lane(&self) -> usize {
        self.0.lane
    }

    #[getter]
    fn lanes(&self) -> usize {
        self.0.lanes.max(1)
    }
}

#[pyclass(frozen, module = "tenants._engine")]
struct Relabel(Arc<relabel::Relabel>);

#[pymethods]
impl Relabel {
    #[new]
    fn new(py: Python<'_>, rules_json: &str) -> PyResult<Self> {
        detached(py, || {
            Ok(Self(Arc::new(relabel::Relabel::from_json(rules_json)?)))
        })
    }

    fn apply(
        &self,
        py: Python<'_>,
        labels: BTreeMap<String, String>,
    ) -> PyResult<Option<BTreeMap<String, String>>> {
        detached(py, || {
            let present = labels.iter().filter(|(_, value)| !value.is_empty());
            let mut list = LabelList::new(present.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
            let is_kept = self.0.apply(&mut list) == Verdict::Kept;
            let owned = list.into_sorted().into_iter();
            let owned = owned.map(|(name, value)| (name.into_owned(), value.into_owned()));
            Ok(is_kept.then(|| owned.collect()))
        })
    }
}

/// The batches for one endpoint, and the series that its rules made impossible to send, by reason.
type EncodedFor = (Vec<WriteBatch>, BTreeMap<&'static str, u64>);

fn encoded_for(encoded: Encoded) -> EncodedFor {
    let left_out = BTreeMap::from([
        ("collision", encoded.left_out.collisions),
        ("without_name", encoded.left_out.without_name),
        ("too_large", encoded.left_out.too_large),
    ]);
    (encoded.batches.into_iter().map(WriteBatch).collect(), left_out)
}

fn protocol(message: &str) -> PyResult<Protocol> {
    Protocol::of(message).ok_or_else(|| {
        let known = Protocol::ALL.map(Protocol::message).join(" or ");
        PyValueError::new_err(format!("message must be {known}, not {message}"))
    })
}

/// With 2.0 counters always carry exemplars: there every receiver takes them.
fn output(
    rules: Option<Arc<relabel::Relabel>>,
    message: &str,
    counter_exemplars: bool,
) -> PyResult<OutputSpec> {
    let protocol = protocol(message)?;
    Ok(OutputSpec {
        rules,
        protocol,
        counter_exemplars: counter_exemplars || protocol == Protocol::Two,
        lanes: 1,
    })
}

#[pyfunction]
fn as_remote_write_1(py: Python<'_>, body: Input<'_>) -> PyResult<WriteBatch> {
    let body = body.as_slice();
    detached(py, || Ok(WriteBatch(batch_rewrite::as_remote_write_1(body)?)))
}

#[pyfunction]
fn split_batch(py: Python<'_>, body: Input<'_>, message: &str) -> PyResult<Vec<WriteBatch>> {
    let (body, protocol) = (body.as_slice(), protocol(message)?);
    detached(py, || {
        let parts = batch_rewrite::split_batch(body, protocol)?;
        Ok(parts.into_iter().map(WriteBatch).collect())
    })
}

/// What is sent before the last samples, alone, and as the last samples of the series that have more.
type InSteps = (Vec<WriteBatch>, Option<WriteBatch>, Option<WriteBatch>);

#[pyfunction]
fn batch_steps(py: Python<'_>, body: Input<'_>, message: &str) -> PyResult<InSteps> {
    let (body, protocol) = (body.as_slice(), protocol(message)?);
    detached(py, || {
        let steps = batch_rewrite::steps(body, protocol)?;
        let ahead = steps.ahead.into_iter().map(WriteBatch).collect();
        Ok((ahead, steps.alone.map(WriteBatch), steps.last.map(WriteBatch)))
    })
}

#[pyclass(frozen, module = "tenants._engine")]
struct Registry(Mutex<registry::Registry>);

#[pymethods]
impl Registry {
    #[new]
    #[pyo3(signature = (plan, started_at_ms, *, seed = None))]
    fn new(plan: &Plan, started_at_ms: i64, seed: Option<u64>) -> Self {
        let plan = Arc::clone(&plan.0);
        Self(Mutex::new(match seed {
            Some(seed) => registry::Registry::seeded(plan, started_at_ms, seed),
            None => registry::Registry::new(plan, started_at_ms),
        }))
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

    #[pyo3(signature = (now_ms, external_labels, max_samples, message = "prometheus.WriteRequest", *, counter_exemplars = false))]
    fn collect(
        &self,
        py: Python<'_>,
        now_ms: i64,
        external_labels: Vec<(String, String)>,
        max_samples: usize,
        message: &str,
        counter_exemplars: bool,
    ) -> PyResult<Vec<WriteBatch>> {
        let output = output(None, message, counter_exemplars)?;
        detached(py, || {
            let external = ExternalLabels::new(&external_labels);
            let batches = locked(&self.0)?.collect(now_ms, &external, max_samples, output);
            Ok(batches.into_iter().map(WriteBatch).collect())
        })
    }

    #[pyo3(signature = (now_ms, external_labels, max_samples, outputs, *, counter_exemplars = false, lanes = 1))]
    #[allow(
        clippy::too_many_arguments,
        reason = "what a collection depends on, each by its name"
    )]
    fn collect_each(
        &self,
        py: Python<'_>,
        now_ms: i64,
        external_labels: Vec<(String, String)>,
        max_samples: usize,
        outputs: Vec<(Option<PyRef<'_, Relabel>>, String)>,
        counter_exemplars: bool,
        lanes: usize,
    ) -> PyResult<Vec<EncodedFor>> {
        let outputs = outputs.iter().map(|(rules, message)| {
            let rules = rules.as_ref().map(|rules| Arc::clone(&rules.0));
            let spec = output(rules, message, counter_exemplars)?;
            Ok(OutputSpec { lanes, ..spec })
        });
        let outputs = outputs.collect::<PyResult<Vec<_>>>()?;
        detached(py, || {
            let external = ExternalLabels::new(&external_labels);
            let mut registry = locked(&self.0)?;
            let encoded = registry.collect_each(now_ms, &external, max_samples, &outputs);
            Ok(encoded.into_iter().map(encoded_for).collect())
        })
    }

    fn collect_silently(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        detached(py, || {
            locked(&self.0)?.collect_silently(now_ms);
            Ok(())
        })
    }

    fn checkpoint<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let checkpoint = detached(py, || Ok(locked(&self.0)?.checkpoint()))?;
        Ok(PyBytes::new(py, &checkpoint))
    }

    #[staticmethod]
    fn restore(py: Python<'_>, plan: &Plan, checkpoint: Input<'_>) -> PyResult<Self> {
        let (plan, checkpoint) = (Arc::clone(&plan.0), checkpoint.as_slice());
        detached(py, || {
            Ok(Self(Mutex::new(registry::Registry::restore(plan, checkpoint)?)))
        })
    }

    fn sweep(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        detached(py, || {
            locked(&self.0)?.sweep(now_ms);
            Ok(())
        })
    }

    #[pyo3(signature = (now_ms, external_labels, max_samples, message = "prometheus.WriteRequest"))]
    fn end_all(
        &self,
        py: Python<'_>,
        now_ms: i64,
        external_labels: Vec<(String, String)>,
        max_samples: usize,
        message: &str,
    ) -> PyResult<Vec<WriteBatch>> {
        let protocol = protocol(message)?;
        detached(py, || {
            let external = ExternalLabels::new(&external_labels);
            let batches = locked(&self.0)?.end_all(now_ms, &external, max_samples, protocol);
            Ok(batches.into_iter().map(WriteBatch).collect())
        })
    }

    fn stats(&self, py: Python<'_>) -> PyResult<BTreeMap<String, u64>> {
        let (stats, drain) = detached(py, || {
            let mut registry = locked(&self.0)?;
            let drain = registry.drain_counters().cloned().unwrap_or_default();
            Ok((registry.stats(), drain))
        })?;
        let (budget, counters) = (stats.budget, stats.counters);
        let mut named = BTreeMap::from(
            [
                ("active_series", budget.series.active),
                ("series_added", budget.series.added),
                ("series_removed", budget.series.removed),
                ("series_limited", budget.series.limited),
                ("active_entities", budget.entities.active),
                ("entities_added", budget.entities.added),
                ("entities_removed", budget.entities.removed),
                ("entities_limited", budget.entities.limited),
                ("entities", stats.entities as u64),
                ("active_series_demand_estimate", stats.series_demand),
                ("entity_demand_estimate", stats.entity_demand),
                ("post_sanitization_demand_estimate", stats.sanitized_demand),
                ("spans_sanitized", stats.spans_sanitized),
                ("drain_patterns_detected", drain.patterns_detected),
                ("drain_patterns_evicted", drain.patterns_evicted),
                ("drain_patterns_expired", drain.patterns_expired),
                (
                    "drain_lines_skipped_too_few_tokens",
                    drain.lines_skipped_too_few_tokens,
                ),
                (
                    "drain_lines_skipped_too_many_tokens",
                    drain.lines_skipped_too_many_tokens,
                ),
                ("edges", counters.edges),
                ("dropped_spans", counters.dropped_spans),
                ("dropped_edges", counters.dropped_edges),
                ("dropped_span_side_cache_overflow", counters.marker_overflow),
                ("invalid_utf8_edges", counters.invalid_utf8_edges),
                ("native_resets", stats.native_resets),
                ("state_bytes", stats.state_bytes as u64),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        for (kind, count) in KINDS.iter().zip(counters.expired_edges) {
            named.insert(format!("expired_edges_{kind}"), count);
        }
        Ok(named)
    }

    fn label_stats(&self, py: Python<'_>) -> PyResult<BTreeMap<String, (u64, u64)>> {
        detached(py, || {
            let registry = locked(&self.0)?;
            let named = |label: LabelStats<'_>| {
                let name = String::from_utf8_lossy(label.name).into_owned();
                (name, (label.limited, label.demand))
            };
            Ok(registry.label_stats().map(named).collect())
        })
    }

    fn ledger_totals(&self, py: Python<'_>) -> PyResult<BTreeMap<(&'static str, &'static str), u64>> {
        detached(py, || {
            Ok(counted(zipped(NAMES, locked(&self.0)?.ledger().totals())))
        })
    }

    fn ledger(&self, py: Python<'_>) -> PyResult<Vec<(String, &'static str, &'static str, u64)>> {
        detached(py, || {
            let registry = locked(&self.0)?;
            let rows = registry.ledger().rows();
            let counted = rows.into_iter().flat_map(|(service, row)| {
                let service = String::from_utf8_lossy(service).into_owned();
                let filled = NAMES.iter().zip(row).filter(|(_, spans)| **spans > 0);
                filled.map(move |((stage, outcome), spans)| (service.clone(), *stage, *outcome, *spans))
            });
            Ok(counted.collect())
        })
    }

    fn summary(
        &self,
        py: Python<'_>,
        processor: &str,
        by: Vec<String>,
        most: usize,
    ) -> PyResult<SummaryParts> {
        let group = match processor {
            "span_metrics" => registry::SPAN_METRICS_GROUP,
            "service_graphs" => registry::SERVICE_GRAPHS_GROUP,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "no processor {processor} to add up"
                )));
            }
        };
        detached(py, || {
            let summary = locked(&self.0)?.summary(group, &by, most);
            let rows = summary.rows.into_iter().map(|row| {
                let totals = row.histograms.into_iter();
                let histograms = totals.map(|total| (total.seconds, total.buckets)).collect();
                (row.values, row.counters, histograms)
            });
            Ok((rows.collect(), summary.left_out, summary.bounds))
        })
    }

    fn cardinality(&self, py: Python<'_>, most: usize) -> PyResult<CardinalityParts> {
        detached(py, || {
            let found = locked(&self.0)?.cardinality(most);
            Ok((found.metrics, found.labels))
        })
    }

    fn drain_tokens_per_line(&self, py: Python<'_>) -> PyResult<(Vec<(f64, u64)>, f64)> {
        detached(py, || {
            let registry = locked(&self.0)?;
            let tokens = registry
                .drain_counters()
                .cloned()
                .unwrap_or_default()
                .tokens_per_line;
            Ok((tokens.buckets(), tokens.sum()))
        })
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
        EngineError, InvalidPlan, MalformedFrame, MalformedRequest, Mirror, Plan, RefusedSpans, Registry,
        Relabel, Shard, Split, WriteBatch, as_remote_write_1, batch_steps, build_info, check_regex,
        durable_part, fingerprint, split, split_batch, trace_hash,
    };
}

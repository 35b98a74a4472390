"""The numbered queries of remote-write §4: each test says which ones it asks; and the names that they ask for."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from tests.integration.dashboards.dashboard import Where

LAST: Final = 20

ENVIRONMENT: Final = "production"
TOTAL: Final = "traces_service_graph_request_total"
FAILED: Final = "traces_service_graph_request_failed_total"
SERVER_SECONDS: Final = "traces_service_graph_request_server_seconds"
CLIENT_SECONDS: Final = "traces_service_graph_request_client_seconds"
GRAPH: Final = (f"{SERVER_SECONDS}_sum", TOTAL, FAILED, f"{SERVER_SECONDS}_bucket")
CALLS: Final = "traces_spanmetrics_calls_total"
LATENCY: Final = "traces_spanmetrics_latency"
INFO: Final = "traces_target_info"
EDGE: Final = ("client", "server")
NAMESPACES: Final = ("client_service_namespace", "server_service_namespace")
SERVED: Final[Where] = {"span_kind": "SPAN_KIND_SERVER"}
ASKED: Final[Where] = {"span_kind": re.compile("SPAN_KIND_SERVER|SPAN_KIND_CONSUMER")}
FAILURE: Final[Where] = {"status_code": "STATUS_CODE_ERROR"}
NOT_OURS: Final[Mapping[str, str]] = {
    "target_info": "13: Alloy's name for it; whoever asks for it asks for traces_target_info too",
    "traces_span_metrics_calls_total": "15: Alloy's name; the first family that has data is taken, and ours has",
    "traces_span_metrics_duration_seconds_bucket": "15: the same",
    "calls_total": "15: OpenTelemetry's name, asked for last",
    "duration_seconds_bucket": "15: the same",
    "asserts:mixin_workload_job": "20: a recording rule of Grafana's own, made of what 1 to 19 ask for",
    "asserts:relation:calls": "20: the same",
    "asserts:request:rate5m": "20: the same",
}
"""Metrics that some query asks for and that nobody gets of us, by design, and why."""

SHOWN: Final[dict[int, str]] = {}
"""By number, a test that asks it."""

Test = TypeVar("Test", bound=Callable[..., Any])


def asks(*queries: int) -> Callable[[Test], Test]:
    """Say which numbered queries of remote-write §4 a test shows."""

    def note(test: Test) -> Test:
        SHOWN.update(dict.fromkeys(queries, test.__name__))
        return test

    return note

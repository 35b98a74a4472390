"""The API against its own document: schemathesis sends what the document allows and what it does not.

Nothing may be answered with 5xx (but 504 for a revision that is not there yet), and answers are as documented.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import content_type_conformance, not_a_server_error, response_schema_conformance

from cluster.gateway.listen import bind
from tenants.api import application
from tenants.api.application import api_document
from tenants.identity.access import Scope
from tests.unit.control_plane_bench import ControlPlaneBench

EXAMPLES = 25


class _Running:
    """The application on a port of its own, in a thread with an event loop of its own."""

    def __init__(self, folder: Path) -> None:
        self.document: dict[str, Any] = {}
        self.token = ""
        self.port = 0
        self._folder = folder
        self._is_up = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(30)

    def stop(self) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(30)

    async def _serve(self) -> None:
        async with ControlPlaneBench(self._folder) as bench:
            self.document = api_document(bench.app)
            self.token = await bench.token(Scope.OPERATOR)
            listener = bind("127.0.0.1:0")
            self.port = listener.getsockname()[1]
            self._server = uvicorn.Server(uvicorn.Config(bench.app, log_config=None, access_log=False))
            self._is_up.set()
            await self._server.serve(sockets=[listener])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Running]:
    made = _Running(tmp_path_factory.mktemp("api"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def api(running: _Running) -> schemathesis.BaseSchema:
    schema = schemathesis.openapi.from_dict(running.document)
    schema.config.update(base_url=f"http://127.0.0.1:{running.port}")
    return schema


@pytest.mark.timeout(600)
def test_no_request_is_answered_with_a_server_error(api: schemathesis.BaseSchema, running: _Running) -> None:
    tried = 0
    for result in api.get_all_operations():
        operation = result.ok()
        tried += 1
        for mode in GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            def send(case: schemathesis.Case) -> None:
                _check(case, running)

            # Of an operation without parameters nothing can be wrong.
            with contextlib.suppress(Unsatisfiable):
                send()
    assert tried > 15


def _check(case: schemathesis.Case, running: _Running) -> None:
    headers = {**(case.headers or {}), "Authorization": f"Bearer {running.token}"}
    if "/api/admin" not in case.path:
        headers.setdefault("X-Scope-OrgID", "acme")
    case.headers = headers
    # Waiting would be all that the test does.
    if case.query and case.query.get("wait"):
        case.query["wait"] = "0s"
    response = case.call(timeout=30)
    if response.status_code == 504:
        assert case.query.get("min_revision")
        return
    case.validate_response(response, checks=[not_a_server_error, content_type_conformance, response_schema_conformance])


def test_the_document_refers_to_nothing_that_is_missing(running: _Running) -> None:
    names = set(running.document["components"]["schemas"])
    references = set(_references(running.document))
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= names
    answer = httpx.get(f"http://127.0.0.1:{running.port}/openapi.json", trust_env=False)
    assert answer.json() == running.document


async def test_the_document_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FastAPI] = []

    def make(app: FastAPI) -> dict[str, Any]:
        made.append(app)
        return api_document(app)

    monkeypatch.setattr(application, "api_document", make)
    async with ControlPlaneBench(tmp_path) as bench:
        first, second = [await bench.ask("GET", "/openapi.json") for _ in range(2)]
        assert first.content == second.content
        assert made == [bench.app]


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)

"""The API of documents on a running service: cases 52 to 92.

Where nothing but the port is new, a test is the one of ``tests/unit/test_api_overrides.py`` again.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.integration.service import MillraceProcess
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, OVERRIDES, RunningApi
from tests.integration.waiting import eventually
from tests.unit import test_api_overrides as over_no_port
from tests.unit.test_api_document import ACCEPTED, GENERATOR, REFUSED, SPAN_METRICS, nested

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

# Tenants with an entry, by the test that they belong to.
SERVICE_GRAPHS: Final[dict[str, Any]] = {"metrics_generator": {"processors": ["service-graphs"]}}
ENTRIES: Final[dict[str, Any]] = {
    "*": {"metrics_generator": {"collection_interval": "40s"}},
    "acme-53": SERVICE_GRAPHS,
    "acme-61": SERVICE_GRAPHS,
    "slow-87": {"metrics_generator": {"collection_interval": "20s"}},
}
FAILURES: Final = "millrace_settings_document_failures_total"


def interval(text: str) -> dict[str, Any]:
    return {"metrics_generator": {"collection_interval": text}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[MillraceProcess]:
    """A service whose tenants may have documents, which are compared with the runtime file."""
    api = {"check_for_conflicting_runtime_overrides": True}
    config = {"overrides": {"user_configurable_overrides": {**DOCUMENTS, "api": api}}}
    async with MillraceProcess(config) as running:
        await running.put_entries(**ENTRIES)
        yield running


@pytest.fixture
def api(service: MillraceProcess, request: pytest.FixtureRequest) -> RunningApi:
    """The API, with tenants that end in the number of the test's case."""
    return RunningApi(service, request.function.__name__.split("_")[1])


@pytest_asyncio.fixture(loop_scope="session")
async def operator(service: MillraceProcess) -> str:
    """An operator's token that is in force."""
    return await service.operator_token()


@case(52)
async def test_52_get_without_document(api: Any) -> None:
    await over_no_port.test_52_get_without_document(api)


@case(53)
async def test_53_merged_without_document(api: Any) -> None:
    await over_no_port.test_53_merged_without_document(api)


@case(54)
async def test_54_unknown_scope(api: Any) -> None:
    await over_no_port.test_54_unknown_scope(api)


@case(55)
@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS"])
async def test_55_other_methods(api: Any, method: str) -> None:
    await over_no_port.test_55_other_methods(api, method)


@case(56)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_56_no_revision(api: Any, method: str) -> None:
    await over_no_port.test_56_no_revision(api, method)


@case(57)
async def test_57_create(api: Any) -> None:
    await over_no_port.test_57_create(api)


@case(58, 59)
async def test_58_59_another_revision(api: Any) -> None:
    await over_no_port.test_58_59_another_revision(api)


@case(60)
async def test_60_post_replaces(api: Any) -> None:
    await over_no_port.test_60_post_replaces(api)


@case(61, 62)
async def test_61_62_delete(api: Any) -> None:
    await over_no_port.test_61_62_delete(api)


@case(63, 64)
async def test_63_64_patch(api: Any) -> None:
    await over_no_port.test_63_64_patch(api)


BAD_PATCHES: Final[tuple[bytes, ...]] = (b"{", b"", b"null", b"[]", b'"x"', b'{"nope":1}', b'{"nope":null}', b"{}{}")


@case(65, 66, 67, 68, 69)
@pytest.mark.parametrize("has_document", [False, True])
async def test_65_69_bad_patches(api: RunningApi, has_document: bool) -> None:
    tenant = f"acme-{has_document}"
    if has_document:
        await api.ask("POST", OVERRIDES, tenant=tenant, body=over_no_port.SPANS, If_Match="0")
    for body in BAD_PATCHES:
        answer = await api.ask("PATCH", OVERRIDES, tenant=tenant, content=body)
        assert (answer.status_code, answer.json()["type"]) == (400, "urn:millrace:problem:invalid-document"), body
        after = await api.ask("GET", OVERRIDES, tenant=tenant)
        assert after.json() == over_no_port.SPANS if has_document else after.status_code == 404


@case(70)
async def test_70_concurrent_patches(api: Any) -> None:
    await over_no_port.test_70_concurrent_patches(api)


def paths(answer: Any) -> list[str]:
    """Return where the violations are."""
    assert answer.status_code == 400, answer.text
    return [violation["path"] for violation in answer.json()["violations"]]


@case(71, 85)
@pytest.mark.parametrize(("body", "path"), [(b'{"unknown":true}', "unknown"), (b"{} {}", ""), (b"{}x", "")])
async def test_71_85_what_is_no_document(api: RunningApi, body: bytes, path: str) -> None:
    assert paths(await api.ask("POST", OVERRIDES, content=body, If_Match="0")) == [path]
    assert (await api.ask("GET", OVERRIDES)).status_code == 404


@case(72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84)
@pytest.mark.parametrize(("number", "key", "value", "below"), REFUSED)
async def test_72_84_refused_values(api: RunningApi, number: int, key: str, value: object, below: str) -> None:
    # All of them are more than one tenant may ask for at once.
    tenant = f"acme-{number}"
    for method in ("POST", "PATCH"):
        answer = await api.ask(method, OVERRIDES, tenant=tenant, body=nested(key, value), If_Match="0")
        assert paths(answer) == [f"{key}{below}"]
    assert (await api.ask("GET", OVERRIDES, tenant=tenant)).status_code == 404


@case(73, 74, 75, 76, 77, 78, 79, 80, 81, 83, 84)
async def test_73_84_accepted_values(api: RunningApi) -> None:
    for index, (_, key, value, stored) in enumerate(ACCEPTED):
        tenant = f"accepted-{index}"
        answer = await api.ask("POST", OVERRIDES, tenant=tenant, body=nested(key, value), If_Match="0")
        assert answer.status_code == 200, (key, value, answer.text)
        assert (await api.ask("GET", OVERRIDES, tenant=tenant)).json() == nested(key, stored)


@case(77)
async def test_77_the_fault_names_the_bucket(api: RunningApi) -> None:
    for buckets in ([1, 1], [2, 1]):
        body = nested(f"{SPAN_METRICS}.histogram_buckets", buckets)
        answer = await api.ask("POST", OVERRIDES, body=body, If_Match="0")
        (violation,) = answer.json()["violations"]
        assert "entry [1]" in violation["message"]


@case(80)
async def test_80_a_mapping_does_not_take_the_label_of_a_dimension(api: RunningApi) -> None:
    mapping = {"name": "http.route", "source_labels": ["x"]}
    body = nested(SPAN_METRICS, {"dimensions": ["http_route"], "dimension_mappings": [mapping]})
    answer = await api.ask("POST", OVERRIDES, body=body, If_Match="0")
    assert paths(answer) == [f"{SPAN_METRICS}.dimension_mappings"]


@case(86)
async def test_86_conflict_check_without_entry(api: Any) -> None:
    await over_no_port.test_86_conflict_check_without_entry(api)


@case(87)
async def test_87_conflict_with_the_entry(api: Any) -> None:
    await over_no_port.test_87_conflict_with_the_entry(api)


@case(88)
async def test_88_bad_boolean(api: Any) -> None:
    await over_no_port.test_88_bad_boolean(api)


@contextmanager
def store(service: MillraceProcess) -> Iterator[sqlite3.Connection]:
    """Open the service's database beside it; what is done is done at once, or not at all."""
    connection = sqlite3.connect(service.folder / "data" / "millrace.db", timeout=10, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()


def store_next(connection: sqlite3.Connection, tenant: str, text: str) -> None:
    """Store a revision as another process would, but without a look at what it says."""
    ((changed,),) = connection.execute(
        "UPDATE change_counters SET value = value + 1 WHERE feed = 'documents' RETURNING value"
    ).fetchall()
    ((revision,),) = connection.execute(
        "UPDATE documents SET revision = revision + 1, changed = ? WHERE tenant = ? RETURNING revision",
        (changed, tenant),
    ).fetchall()
    connection.execute("INSERT INTO document_revisions VALUES (?, ?, ?, 'other', 0)", (tenant, revision, text))


async def until_in_force(api: RunningApi, tenant: str, collection_interval: str) -> None:
    async def is_in_force() -> bool:
        return bool(await api.merged("collection_interval", tenant=tenant) == collection_interval)

    await eventually(is_in_force, 60, lambda: f"{tenant} has no interval of {collection_interval}")


NEIGHBOURS: Final = ("aaa", "zzz")
DAMAGED: Final = (
    '{"metrics_generator": {"collection_int',
    '{"metrics_generator": {"collection_interval": "1s"}}',
    "null",
)


@case(89)
@pytest.mark.parametrize("text", DAMAGED)
async def test_89_a_damaged_document_concerns_nobody_else(
    service: MillraceProcess, api: RunningApi, operator: str, text: str
) -> None:
    hurt = f"hurt-{DAMAGED.index(text)}"
    for tenant in (hurt, *NEIGHBOURS):
        await api.ask("DELETE", OVERRIDES, tenant=tenant, If_Match="*")
        await api.written("POST", interval("30s"), tenant=tenant, If_Match="0")
    with store(service) as connection:
        store_next(connection, api.name(NEIGHBOURS[0]), json.dumps(interval("35s")))
        store_next(connection, api.name(hurt), text)
        store_next(connection, api.name(NEIGHBOURS[1]), json.dumps(interval("35s")))
    for tenant in NEIGHBOURS:
        await until_in_force(api, tenant, "35s")
        await api.written("PATCH", interval("45s"), tenant=tenant)
    # Its last good one.
    assert await api.merged("collection_interval", tenant=hurt) == "30s"
    for tenant, has_problem in ((hurt, True), *((each, False) for each in NEIGHBOURS)):
        shown = await service.ask("GET", f"/api/admin/tenants/{api.name(tenant)}", token=operator)
        assert bool(shown.json()["problems"]) is has_problem
        assert await service.metric(FAILURES, tenant=api.name(tenant)) == has_problem
    # It can be replaced.
    await api.written("POST", interval("50s"), tenant=hurt, If_Match="*")
    assert await api.merged("collection_interval", tenant=hurt) == "50s"
    shown = await service.ask("GET", f"/api/admin/tenants/{api.name(hurt)}", token=operator)
    assert shown.json()["problems"] == []


@case(89)
async def test_89_a_document_that_is_damaged_where_it_is_stays_in_force(
    service: MillraceProcess, api: RunningApi
) -> None:
    await api.written("POST", interval("30s"), If_Match="0")
    with store(service) as connection:
        connection.execute("UPDATE document_revisions SET document = '{' WHERE tenant = ?", (api.name("acme"),))
    answer = await api.ask("GET", OVERRIDES)
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert await api.merged("collection_interval") == "30s"
    # There is nothing to merge with, but it can be replaced.
    assert (await api.ask("PATCH", OVERRIDES, body=interval("35s"))).status_code == 500
    assert (await api.ask("POST", OVERRIDES, body=interval("35s"), If_Match="1")).status_code == 200
    assert (await api.ask("GET", OVERRIDES)).json() == interval("35s")


@case(90)
async def test_90_members_of_a_newer_version_do_no_harm(service: MillraceProcess, api: RunningApi) -> None:
    await api.written("POST", interval("30s"), If_Match="0")
    newer = {"metrics_generator": {"collection_interval": "35s", "from_the_future": {"a": 1}}, "future": True}
    with store(service) as connection:
        store_next(connection, api.name("acme"), json.dumps(newer))
    await until_in_force(api, "acme", "35s")
    assert await service.metric(FAILURES, tenant=api.name("acme")) == 0
    # Whoever knows them finds them again.
    answer = await api.ask("PATCH", OVERRIDES, body=interval("40s"))
    assert answer.json() == {"metrics_generator": {**newer["metrics_generator"], "collection_interval": "40s"}} | {
        "future": True
    }


@case(91)
async def test_91_to_ask_for_nothing_is_no_failure(service: MillraceProcess, api: RunningApi) -> None:
    before = await service.metric(FAILURES)
    for scope in ("api", "merged"):
        await api.ask("GET", f"{OVERRIDES}?scope={scope}")
    assert await service.metric(FAILURES) == before
    assert api.name("acme") not in (await service.get("/metrics")).text


@case(92)
async def test_92_merged_shows_a_write_at_once(api: RunningApi) -> None:
    for seconds in range(20, 50):
        await api.ask("PATCH", OVERRIDES, body=interval(f"{seconds}s"))
        answer = await api.ask("GET", f"{OVERRIDES}?scope=merged&provenance=true")
        assert answer.json()[GENERATOR]["collection_interval"] == {"value": f"{seconds}s", "source": "api"}

"""The API of documents: cases 52 to 92 of tenancy §8 that need no running service, by their numbers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tenants.control import documents
from tenants.identity.access import Scope
from tests.unit.conditions import until
from tests.unit.control_plane_bench import ControlPlaneBench

PATH = "/api/overrides"
SPANS: dict[str, Any] = {"metrics_generator": {"processors": ["span-metrics"]}}


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ControlPlaneBench]:
    runtime = {
        "acme": {"metrics_generator": {"processors": ["service-graphs"]}},
        "slow": {"metrics_generator": {"collection_interval": "20s"}},
        "*": {"metrics_generator": {"collection_interval": "40s"}},
    }
    async with ControlPlaneBench(tmp_path, runtime=runtime) as made:
        yield made


async def test_52_get_without_document(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("GET", PATH)
    assert (answer.status_code, answer.content) == (404, b"")


async def test_53_merged_without_document(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("GET", f"{PATH}?scope=merged&provenance=true")
    assert answer.status_code == 200
    generator = answer.json()["metrics_generator"]
    assert generator["processors"] == {"value": ["service-graphs"], "source": "tenant"}
    assert generator["collection_interval"] == {"value": "40s", "source": "wildcard"}
    assert generator["trace_id_label_name"] == {"value": "traceID", "source": "builtin"}
    assert "max_active_series" not in generator
    plain = (await bench.ask("GET", f"{PATH}?scope=merged")).json()
    assert plain["metrics_generator"]["processor"]["span_metrics"]["intrinsic_dimensions"]["service"] is True


async def test_54_unknown_scope(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("GET", f"{PATH}?scope=bogus")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["violations"][0]["path"] == "scope"


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS"])
async def test_55_other_methods(bench: ControlPlaneBench, method: str) -> None:
    assert (await bench.ask(method, PATH)).status_code == 405


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_56_no_revision(bench: ControlPlaneBench, method: str) -> None:
    assert (await bench.ask(method, PATH, body=SPANS)).status_code == 428
    assert (await bench.ask(method, PATH, body=SPANS, If_Match="")).status_code == 428


async def test_57_create(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["etag"], answer.headers["x-overrides-revision"]) == ('"1"', "1")


async def test_58_59_another_revision(bench: ControlPlaneBench) -> None:
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    for wrong in ("0", "7", '"7"'):
        answer = await bench.ask("POST", PATH, body={}, If_Match=wrong)
        assert answer.status_code == 412
    assert (await bench.ask("GET", PATH)).json() == SPANS


async def test_60_post_replaces(bench: ControlPlaneBench) -> None:
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    other = {"metrics_generator": {"collection_interval": "30s"}}
    assert (await bench.ask("POST", PATH, body=other, If_Match='"1"')).status_code == 200
    assert (await bench.ask("GET", PATH)).json() == other


async def test_61_62_delete(bench: ControlPlaneBench) -> None:
    assert (await bench.ask("DELETE", PATH, If_Match="0")).status_code == 404
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    assert (await bench.ask("DELETE", PATH, If_Match="9")).status_code == 412
    answer = await bench.ask("DELETE", PATH, If_Match="1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await bench.ask("GET", PATH)).status_code == 404
    merged = (await bench.ask("GET", f"{PATH}?scope=merged")).json()
    assert merged["metrics_generator"]["processors"] == ["service-graphs"]
    # A revision is never used twice.
    assert (await bench.ask("POST", PATH, body=SPANS, If_Match="0")).headers["etag"] == '"3"'


async def test_63_64_patch(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("PATCH", PATH, body=SPANS)
    assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, SPANS, '"1"')
    answer = await bench.ask("PATCH", PATH, body={"metrics_generator": {"collection_interval": "1m"}})
    assert answer.json() == {"metrics_generator": {"collection_interval": "1m", "processors": ["span-metrics"]}}


@pytest.mark.parametrize("has_document", [False, True])
@pytest.mark.parametrize("body", [b"{", b"", b"null", b"[]", b'"x"', b'{"nope":1}', b'{"nope":null}', b"{}{}", b"\xff"])
async def test_65_69_bad_patches(bench: ControlPlaneBench, has_document: bool, body: bytes) -> None:
    if has_document:
        await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    answer = await bench.ask("PATCH", PATH, content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"] == "urn:millrace:problem:invalid-document"
    after = await bench.ask("GET", PATH)
    assert after.json() == SPANS if has_document else after.status_code == 404


async def test_70_concurrent_patches(bench: ControlPlaneBench) -> None:
    patches = [
        {"metrics_generator": {"collection_interval": "1m"}},
        {"metrics_generator": {"trace_id_label_name": "trace"}},
        {"metrics_generator": {"disable_collection": True}},
    ]
    answers = await asyncio.gather(*(bench.ask("PATCH", PATH, body=patch) for patch in patches))
    assert {answer.status_code for answer in answers} <= {200, 409}
    stored = (await bench.ask("GET", PATH)).json()["metrics_generator"]
    for patch, answer in zip(patches, answers, strict=True):
        ((key, value),) = patch["metrics_generator"].items()
        assert (stored.get(key) == value) == (answer.status_code == 200)


async def test_violations_are_all_listed(bench: ControlPlaneBench) -> None:
    bad = {"metrics_generator": {"collection_interval": "1s", "processors": ["nope"], "max_active_series": 5}, "x": 1}
    answer = await bench.ask("POST", PATH, body=bad, If_Match="0")
    assert answer.status_code == 400
    assert {violation["path"] for violation in answer.json()["violations"]} == {
        "metrics_generator.collection_interval",
        "metrics_generator.processors[0]",
        "metrics_generator.max_active_series",
        "x",
    }


async def test_86_conflict_check_without_entry(bench: ControlPlaneBench) -> None:
    document = {"metrics_generator": {"collection_interval": "30s"}}
    assert (await bench.ask("POST", PATH, tenant="other", body=document, If_Match="0")).status_code == 200


async def test_87_conflict_with_the_entry(bench: ControlPlaneBench) -> None:
    document = {"metrics_generator": {"collection_interval": "30s", "processors": ["span-metrics"]}}
    answer = await bench.ask("POST", PATH, tenant="slow", body=document, If_Match="0")
    assert answer.status_code == 409
    assert [violation["path"] for violation in answer.json()["violations"]] == ["metrics_generator.collection_interval"]
    same = {"metrics_generator": {"collection_interval": "20000ms"}}
    assert (await bench.ask("PATCH", f"{PATH}?dry_run=true", tenant="slow", body=same)).status_code == 200
    skipping = f"{PATH}?skip-conflicting-overrides-check=true"
    assert (await bench.ask("POST", skipping, tenant="slow", body=document, If_Match="0")).status_code == 200
    document["metrics_generator"]["collection_interval"] = "45s"
    assert (await bench.ask("POST", PATH, tenant="slow", body=document, If_Match="1")).status_code == 200


async def test_88_bad_boolean(bench: ControlPlaneBench) -> None:
    for text, status in (("yes", 400), ("", 400), ("1", 200), ("T", 200)):
        path = f"{PATH}?skip-conflicting-overrides-check={text}&dry_run=true"
        assert (await bench.ask("POST", path, body=SPANS, If_Match="0")).status_code == status


async def test_92_merged_shows_a_write_at_once(bench: ControlPlaneBench) -> None:
    bench.holds_back = True
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    merged = (await bench.ask("GET", f"{PATH}?scope=merged&provenance=true")).json()
    assert merged["metrics_generator"]["processors"] == {"value": ["span-metrics"], "source": "api"}


async def test_waiting_for_a_revision(bench: ControlPlaneBench) -> None:
    bench.holds_back = True
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    path = f"{PATH}?min_revision=1&wait=1s"
    waiting = asyncio.create_task(bench.ask("GET", path))
    assert (await bench.ask("GET", f"{PATH}?min_revision=1")).status_code == 504
    bench.holds_back = False
    await bench.settings.note_everywhere(bench.settings.overrides.version)
    assert (await waiting).status_code == 200
    assert (await bench.ask("GET", f"{PATH}?min_revision=2&wait=0s")).status_code == 504


async def test_dry_run_stores_nothing(bench: ControlPlaneBench) -> None:
    answer = await bench.ask("PATCH", f"{PATH}?dry_run=true", body=SPANS)
    assert answer.json() == {"dry_run": True, "document": SPANS}
    assert (await bench.ask("GET", PATH)).status_code == 404


async def test_history_and_rollback(bench: ControlPlaneBench) -> None:
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    await bench.ask("PATCH", PATH, body={"metrics_generator": {"collection_interval": "1m"}})
    await bench.ask("DELETE", PATH, If_Match="2")
    revisions = (await bench.ask("GET", f"{PATH}/history")).json()["revisions"]
    assert [revision["revision"] for revision in revisions] == [3, 2, 1]
    assert revisions[1]["diff"] == [{"path": "metrics_generator.collection_interval", "before": None, "after": "1m"}]
    assert revisions[0]["author"] == "header:acme"
    answer = await bench.ask("POST", f"{PATH}/rollback", body={"revision": 1})
    assert (answer.status_code, answer.json(), answer.headers["etag"]) == (200, SPANS, '"4"')
    assert (await bench.ask("POST", f"{PATH}/rollback", body={"revision": 3})).status_code == 404
    assert (await bench.ask("POST", f"{PATH}/rollback", body={"revision": 99})).status_code == 404
    assert (await bench.ask("POST", f"{PATH}/rollback", body={"revision": "1"})).status_code == 400
    for seconds in range(20, 45):
        await bench.ask("PATCH", PATH, body={"metrics_generator": {"collection_interval": f"{seconds}s"}})
    assert len((await bench.ask("GET", f"{PATH}/history")).json()["revisions"]) == 20


async def test_what_changes_nothing_is_not_stored(bench: ControlPlaneBench) -> None:
    await bench.ask("POST", PATH, body=SPANS, If_Match="0")
    same = await bench.ask("POST", PATH, body=SPANS, If_Match="1")
    assert (same.status_code, same.content, same.headers["etag"]) == (200, b"", '"1"')
    for patch in ({}, SPANS):
        same = await bench.ask("PATCH", PATH, body=patch)
        assert (same.status_code, same.json(), same.headers["x-overrides-revision"]) == (200, SPANS, "1")
    same = await bench.ask("POST", f"{PATH}/rollback", body={"revision": 1})
    assert (same.status_code, same.json(), same.headers["etag"]) == (200, SPANS, '"1"')
    # What was expected is compared all the same.
    for method, path, body in (
        ("POST", PATH, SPANS),
        ("PATCH", PATH, {}),
        ("POST", f"{PATH}/rollback", {"revision": 1}),
    ):
        assert (await bench.ask(method, path, body=body, If_Match="7")).status_code == 412
    assert len((await bench.ask("GET", f"{PATH}/history")).json()["revisions"]) == 1
    operator = await bench.token(Scope.OPERATOR)
    entries = (await bench.ask("GET", "/api/admin/audit?tenant=acme", tenant=None, token=operator)).json()["entries"]
    assert [(entry["action"], entry["revision"]) for entry in entries] == [("overrides.replace", 1)]


async def test_one_and_true_are_different_filters(bench: ControlPlaneBench) -> None:
    for revision, value in enumerate((1, True)):
        attribute = {"key": "span.a", "value": value}
        policies = [{"include": {"match_type": "strict", "attributes": [attribute]}}]
        patch = {"metrics_generator": {"processor": {"span_metrics": {"filter_policies": policies}}}}
        assert (await bench.ask("PATCH", PATH, body=patch)).headers["etag"] == f'"{revision + 1}"'


async def test_what_others_stored_is_in_force_after_a_change_to_the_same(
    bench: ControlPlaneBench, tmp_path: Path
) -> None:
    async with ControlPlaneBench(tmp_path) as other:
        await other.ask("POST", PATH, tenant="globex", body=SPANS, If_Match="0")
    assert (await bench.ask("PATCH", PATH, tenant="globex", body=SPANS)).headers["etag"] == '"1"'
    assert "globex" in bench.settings.overrides.documents


async def test_a_revision_that_is_not_stored_is_not_waited_for_and_all_who_ask_share_a_look(
    bench: ControlPlaneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = bench.control.documents._store, 0
    changes_since = store.changes_since

    def look(token: int) -> Any:
        nonlocal looks
        looks += 1
        return changes_since(token)

    monkeypatch.setattr(store, "changes_since", look)
    path = f"{PATH}?min_revision=99999&wait=30s"
    async with asyncio.timeout(25):
        answers = await asyncio.gather(*(bench.ask("GET", path) for _ in range(300)))
    assert {answer.status_code for answer in answers} == {504}
    assert 1 <= looks <= 30


async def test_documents_are_checked_beside_the_loop_and_one_of_a_tenant_at_a_time(
    bench: ControlPlaneBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, begun = threading.Event(), 0
    merge_patch = documents.merge_patch

    def slow(*arguments: Any) -> Any:
        nonlocal begun
        begun += 1
        assert may_end.wait(30)
        return merge_patch(*arguments)

    monkeypatch.setattr(documents, "merge_patch", slow)
    waiting = [asyncio.create_task(bench.ask("PATCH", PATH, body=SPANS)) for _ in range(21)]
    try:
        await until(lambda: any(task.done() for task in waiting))
        (refused,) = (task.result() for task in waiting if task.done())
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["type"] == "urn:millrace:problem:too-many-requests"
        assert begun == 1
        assert (await bench.ask("POST", PATH, tenant="globex", body=SPANS, If_Match="0")).status_code == 200
    finally:
        may_end.set()
    answers = await asyncio.gather(*waiting)
    assert sorted(answer.status_code for answer in answers) == [200] * 20 + [429]


async def test_a_tenant_may_ask_for_so_many_changes(tmp_path: Path) -> None:
    now_ns = 0
    async with ControlPlaneBench(tmp_path, clock_ns=lambda: now_ns) as bench:

        async def changed() -> list[int]:
            answers = await asyncio.gather(
                *(bench.ask("POST", f"{PATH}?dry_run=true", body=SPANS, If_Match="0") for _ in range(10))
            )
            return [answer.status_code for answer in answers]

        for _ in range(6):
            assert await changed() == [200] * 10
        for method, path in (("POST", PATH), ("PATCH", PATH), ("DELETE", PATH), ("POST", f"{PATH}/rollback")):
            assert (await bench.ask(method, path, body={}, If_Match="0")).status_code == 429
        refused = await bench.ask("POST", "/api/tokens", body={"scopes": ["ingest"]})
        assert refused.status_code == (await bench.ask("DELETE", "/api/tokens/a")).status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        # Others, questions and operators are not concerned.
        assert (await bench.ask("POST", PATH, tenant="globex", body=SPANS, If_Match="0")).status_code == 200
        assert (await bench.ask("GET", "/api/tokens")).status_code == 200
        operator = await bench.token(Scope.OPERATOR)
        assert (await bench.ask("POST", PATH, token=operator, body=SPANS, If_Match="0")).status_code == 200
        now_ns += 1_000_000_000
        assert sorted(await changed()) == [412] * 5 + [429] * 5


async def test_a_body_with_too_many_faults_is_refused_without_telling_them_all(bench: ControlPlaneBench) -> None:
    for body, told in (({"scopes": [1] * 100_000}, 2), ({f"{n:x}": 1 for n in range(20_000)}, 0)):
        answer = await bench.ask("POST", "/api/tokens", body=body)
        assert answer.status_code == 400
        assert len(answer.json().get("violations", ())) == told


async def test_body_limits(bench: ControlPlaneBench) -> None:
    large = b'{"metrics_generator":{"trace_id_label_name":"' + b"a" * 300_000 + b'"}}'
    assert (await bench.ask("POST", PATH, content=large, If_Match="0")).status_code == 413
    answer = await bench.ask("POST", PATH, content=b"{}", If_Match="0", Content_Type="text/yaml")
    assert answer.status_code == 415


async def test_what_others_stored_is_found(bench: ControlPlaneBench, tmp_path: Path) -> None:
    async with ControlPlaneBench(tmp_path) as other:
        await other.ask("POST", PATH, tenant="globex", body=SPANS, If_Match="0")
    assert "globex" not in bench.settings.overrides.documents
    assert await bench.control.documents.look()
    assert "globex" in bench.settings.overrides.documents
    assert not await bench.control.documents.look()


async def test_without_documents_there_is_only_what_is_in_force(tmp_path: Path) -> None:
    runtime = {"acme": {"metrics_generator": {"collection_interval": "20s"}}}
    async with ControlPlaneBench(tmp_path, "multitenancy_enabled: true", runtime) as bench:
        assert (await bench.ask("GET", PATH)).status_code == 404
        assert (await bench.ask("PATCH", PATH, body=SPANS)).status_code == 404
        merged = await bench.ask("GET", f"{PATH}?scope=merged&provenance=true", tenant="acme")
        assert (merged.status_code, merged.headers.get("ETag")) == (200, None)
        interval = merged.json()["metrics_generator"]["collection_interval"]
        assert (interval["value"], interval["source"]) == ("20s", "tenant")


async def test_compatible_status_codes(tmp_path: Path) -> None:
    config = """
multitenancy_enabled: true
compat: tempo
overrides: {user_configurable_overrides: {enabled: true, api: {check_for_conflicting_runtime_overrides: true}}}
"""
    runtime = {"slow": {"metrics_generator": {"collection_interval": "20s"}}}
    async with ControlPlaneBench(tmp_path, config, runtime) as bench:
        document = {"metrics_generator": {"collection_interval": "30s"}}
        assert (await bench.ask("POST", PATH, tenant="slow", body=document, If_Match="0")).status_code == 400
        await bench.ask("POST", PATH, body=SPANS, If_Match="0")
        assert (await bench.ask("DELETE", PATH, If_Match="1")).status_code == 200

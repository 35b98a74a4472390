"""Who a request is from: cases 1 to 16, by every way in."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx
import pytest
import pytest_asyncio

from tests.integration.comparison import series_of
from tests.integration.otlp_client import JSON, PROTOBUF, Answer, GrpcClient, HttpClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import full_request, until_counted
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, OVERRIDES
from tests.integration.tenancy.sized_request import sized_request
from tests.prometheus import Prometheus
from tests.unit.export_requests import otlp_json
from tests.unit.raw_grpc import raw_call

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

HEADER: Final = "x-scope-orgid"
SPANS: Final = 2
"""In one request of :func:`full_request`."""
GENERATED: Final = {"processors": ["span-metrics-count"]}

ENCODINGS: Final = (PROTOBUF, JSON)

Values = Sequence[str]
"""All values of the header, in order."""


@dataclass(frozen=True)
class Ways:
    """All the ways in: three for spans, and the API."""

    service: MillraceProcess
    grpc: GrpcClient
    http: HttpClient

    async def by_grpc(self, values: Values) -> Answer:
        """Send spans."""
        body = full_request().SerializeToString()
        return await self.grpc.export(body, None, metadata=[(HEADER, value) for value in values])

    async def by_http(self, values: Values, content_type: str) -> Answer:
        """Send spans in one of the encodings."""
        request = full_request()
        body = json.dumps(otlp_json(request)).encode() if content_type == JSON else request.SerializeToString()
        headers = [(HEADER, value.encode()) for value in values]
        return await self.http.export(body, None, headers=headers, content_type=content_type)

    async def assert_accepted(self, values: Values, tenant: str) -> None:
        """See that spans are taken by every way, and that they are this tenant's."""
        before = await self.received(tenant)
        for answer in (await self.by_grpc(values), *[await self.by_http(values, each) for each in ENCODINGS]):
            assert answer.is_accepted, answer
        assert await self.received(tenant) - before == 3 * SPANS

    async def assert_refused(self, values: Values, *, is_unauthenticated: bool = False) -> None:
        """See that nothing is taken by any way, that the answer is final, and that the header is named."""
        if all(value.isascii() for value in values):
            answer = await self.by_grpc(values)
            assert answer.status == ("UNAUTHENTICATED" if is_unauthenticated else "INVALID_ARGUMENT"), answer
            assert (answer.retry_delay_s, HEADER in answer.message.lower()) == (None, True), answer
        for encoding in ENCODINGS:
            answer = await self.by_http(values, encoding)
            expected = ("401", 16) if is_unauthenticated else ("400", 3)
            assert (answer.status, answer.code, answer.content_type) == (*expected, encoding), answer
            assert (answer.retry_delay_s, answer.retry_after) == (None, None), answer
            assert HEADER in answer.message.lower()
        problem = await self.api(values)
        assert problem.status_code == (401 if is_unauthenticated else 400), problem.text
        assert HEADER in problem.json()["detail"].lower()

    async def api(self, values: Values) -> httpx.Response:
        """Ask for the document."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            headers = [(HEADER.encode(), value.encode()) for value in values]
            return await client.get(f"http://127.0.0.1:{self.service.http_port}{OVERRIDES}", headers=headers)

    async def received(self, tenant: str) -> float:
        """Return the spans that were accepted for a tenant."""
        return await self.service.metric("millrace_spans_received_total", tenant=tenant)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def identity_service(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A service with multi-tenancy and documents."""
    config = {
        "remote_write": [{"url": prometheus.url}],
        "overrides": {"user_configurable_overrides": DOCUMENTS},
    }
    async with MillraceProcess(config) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def single_service(prometheus: Prometheus) -> AsyncIterator[MillraceProcess]:
    """A service without multi-tenancy."""
    config = {
        "multitenancy_enabled": False,
        "remote_write": [{"url": prometheus.url}],
        "overrides": {"user_configurable_overrides": DOCUMENTS},
    }
    async with MillraceProcess(config, **{"single-tenant": GENERATED}) as running:
        yield running


@asynccontextmanager
async def connected(service: MillraceProcess) -> AsyncIterator[Ways]:
    async with GrpcClient(service.grpc_port) as grpc, HttpClient(service.otlp_http_port) as http:
        yield Ways(service, grpc, http)


@pytest_asyncio.fixture(loop_scope="session")
async def ways(identity_service: MillraceProcess) -> AsyncIterator[Ways]:
    async with connected(identity_service) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def single_ways(single_service: MillraceProcess) -> AsyncIterator[Ways]:
    async with connected(single_service) as found:
        yield found


@case(1)
async def test_1_no_header_over_grpc_is_unauthenticated(ways: Ways) -> None:
    before = await ways.service.metric("millrace_requests_total", protocol="grpc", answer="no_org_id")
    answer = await ways.by_grpc(())
    assert (answer.status, answer.retry_delay_s) == ("UNAUTHENTICATED", None)
    assert "X-Scope-OrgID" in answer.message
    after = await ways.service.metric("millrace_requests_total", protocol="grpc", answer="no_org_id")
    assert after - before == 1


@case(2)
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_2_no_header_over_http_is_401_in_the_encoding_of_the_request(ways: Ways, encoding: str) -> None:
    answer = await ways.by_http((), encoding)
    assert (answer.status, answer.code, answer.content_type) == ("401", 16, encoding)
    assert (answer.retry_delay_s, answer.retry_after) == (None, None)
    assert "X-Scope-OrgID" in answer.message


@case(3)
async def test_3_an_empty_header_is_none(ways: Ways) -> None:
    await ways.assert_refused(("",), is_unauthenticated=True)


@case(4)
@pytest.mark.parametrize("values", [("a", "b"), ("a", "a"), ("a", "")])
async def test_4_two_headers_are_refused(ways: Ways, values: Values) -> None:
    await ways.assert_refused(values)
    assert await ways.received("a") == 0


@case(5)
async def test_5_an_id_has_150_bytes_at_most(ways: Ways) -> None:
    await ways.assert_accepted(("a" * 150,), "a" * 150)
    await ways.assert_refused(("a" * 151,))


@case(6)
@pytest.mark.parametrize("tenant", ["bad/id", "a b", "abc%2F", "ü"])
async def test_6_other_characters_are_refused(ways: Ways, tenant: str) -> None:
    await ways.assert_refused((tenant,))


@case(6)
async def test_6_over_grpc_also_what_no_client_library_would_send(ways: Ways) -> None:
    body = full_request().SerializeToString()
    assert (await raw_call(ways.service.grpc_port, body, (HEADER, "good"))).status == 0
    assert (await raw_call(ways.service.grpc_port, body, (HEADER, "ü"))).status != 0


@case(7)
async def test_7_ids_of_one_and_two_dots_are_refused(ways: Ways) -> None:
    await ways.assert_refused((".",))
    await ways.assert_refused(("..",))
    await ways.assert_accepted(("...",), "...")


@case(8)
async def test_8_every_allowed_character_arrives_at_the_metrics(ways: Ways, prometheus: Prometheus) -> None:
    tenant = "A1!-_.*'()"
    await ways.service.put_tenants(**{tenant: GENERATED})
    await ways.assert_accepted((tenant,), tenant)
    await until_counted(prometheus, 3 * SPANS, tenant=tenant)


@case(9)
async def test_9_several_ids_are_one_if_they_are_equal(ways: Ways) -> None:
    await ways.assert_refused(("one-of|another",))
    await ways.assert_refused(("one-of|one-of|another",))
    await ways.assert_accepted(("one-of|one-of",), "one-of")
    assert await ways.received("another") == 0


@case(10)
@pytest.mark.parametrize("metadata", ["k=v", "garbage", "", "a/b c"])
async def test_10_what_follows_a_colon_is_cut_off(ways: Ways, metadata: str) -> None:
    await ways.assert_accepted((f"acme:{metadata}",), "acme")


@case(11)
@pytest.mark.parametrize("tenant", ["*", "__reserved"])
async def test_11_reserved_ids_are_refused(ways: Ways, tenant: str) -> None:
    await ways.assert_refused((tenant,))


@case(12, difference="D-3: of a request without a tenant nothing is read, so that only a body of no bytes is empty")
async def test_12_an_empty_request_needs_no_tenant(ways: Ways) -> None:
    answers = [await ways.grpc.export(b"", None)]
    answers += [await ways.http.export(b"", None, content_type=each) for each in ENCODINGS]
    assert [answer.status for answer in answers] == ["OK", "200", "200"]
    assert (await ways.http.export(b"{}", None, content_type=JSON)).status == "401"


@case(13)
@pytest.mark.parametrize("values", [("bad/id",), ("acme",), ("a", "b"), ("",), ()])
async def test_13_without_multitenancy_no_header_is_read(
    single_ways: Ways, prometheus: Prometheus, values: Values
) -> None:
    await single_ways.assert_accepted(values, "single-tenant")
    await until_counted(prometheus, await single_ways.received("single-tenant"), tenant="single-tenant")
    received = (await single_ways.service.metrics())["millrace_spans_received_total"]
    assert {dict(labels)["tenant"] for labels in received} == {"single-tenant"}


@case(14)
async def test_14_without_multitenancy_there_is_one_document(single_ways: Ways) -> None:
    document = {"forwarders": []}
    stored = await single_ways.service.ask("POST", OVERRIDES, tenant="x", body=document, If_Match="0")
    assert stored.status_code == 200, stored.text
    found = await single_ways.api(())
    assert (found.status_code, found.json()) == (200, document)
    assert (await single_ways.api(("bad/id",))).json() == document


@case(15)
async def test_15_the_api_needs_a_good_tenant(ways: Ways) -> None:
    for values, status in (((), 401), (("",), 401), (("bad/id",), 400)):
        answer = await ways.api(values)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@case(16)
async def test_16_ids_that_differ_in_case_are_two_tenants(ways: Ways, prometheus: Prometheus) -> None:
    burst = 1000
    dimension = {"span_metrics": {"intrinsic_dimensions": {"span_name": False}}}
    await ways.service.put_entries(
        **{
            "Tenant-1": {
                "metrics_generator": {**GENERATED, "processor": dimension},
                "ingestion": {"rate_limit_bytes": burst, "burst_size_bytes": burst},
            },
            "tenant-1": {"metrics_generator": GENERATED},
        }
    )
    assert (await ways.grpc.export(sized_request(burst + 1), "Tenant-1")).status == "INVALID_ARGUMENT"
    for _ in range(3):
        assert (await ways.grpc.export(sized_request(burst + 1), "tenant-1")).is_accepted
    assert (await ways.grpc.export(sized_request(burst), "Tenant-1")).is_accepted
    await until_counted(prometheus, 1, tenant="Tenant-1")
    await until_counted(prometheus, 3, tenant="tenant-1")
    has_name = {
        tenant: {"span_name" in dict(key) for key in await series_of(prometheus, tenant)}
        for tenant in ("Tenant-1", "tenant-1")
    }
    assert has_name == {"Tenant-1": {False}, "tenant-1": {True}}

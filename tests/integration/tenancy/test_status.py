"""Status pages of a running service: cases 121 to 124."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from tests.integration.otlp_client import GrpcClient
from tests.integration.service import MillraceProcess
from tests.integration.shop_calls import full_request
from tests.integration.tenancy.case import case
from tests.integration.tenancy.running_api import DOCUMENTS, OVERRIDES

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

RATE: Final = "ingestion.rate_limit_bytes"
BURST: Final = "ingestion.burst_size_bytes"
PROCESSORS: Final[dict[str, Any]] = {"metrics_generator": {"processors": ["span-metrics"]}}
# Case 17: everything that such an entry leaves out is zero.
BARE: Final = "bare"
FULL: Final[dict[str, Any]] = {"ingestion": {"rate_limit_bytes": 5000, "burst_size_bytes": 5000}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service() -> AsyncIterator[MillraceProcess]:
    """A service that uses entries whole, some tenants of which have documents."""
    overrides = {"inheritance": "replace", "user_configurable_overrides": DOCUMENTS}
    async with MillraceProcess({"overrides": overrides}) as running:
        await running.put_entries(**{"zed": FULL, BARE: PROCESSORS})
        for tenant in ("zed", "documented"):
            answer = await running.ask("POST", OVERRIDES, tenant=tenant, body=PROCESSORS, If_Match="0")
            assert answer.status_code == 200, answer.text
        yield running


@case(121)
async def test_121_tenants_and_which_layers_they_have(service: MillraceProcess) -> None:
    answer = await service.ask("GET", "/status/overrides", Accept="application/json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"now", "tenants"}
    assert answer.json()["tenants"] == [
        {"name": name, "has_runtime_overrides": has_entry, "has_user_configurable_overrides": has_document}
        for name, has_entry, has_document in ((BARE, True, False), ("documented", False, True), ("zed", True, True))
    ]
    table = (await service.ask("GET", "/status/overrides", Accept="text/html")).text.splitlines()
    assert [line.split()[0] for line in table[1:]] == [BARE, "documented", "zed"]


@case(122)
@pytest.mark.parametrize("path", [f"/status/overrides/{BARE}", f"/api/admin/tenants/{BARE}"])
async def test_122_the_page_of_a_tenant_says_what_is_in_force_and_why(service: MillraceProcess, path: str) -> None:
    token = await service.operator_token()
    shown = (await service.ask("GET", path, token=token, Accept="application/json")).json()["settings"]
    assert shown[RATE] == shown[BURST] == {"value": 0, "source": "tenant (unset)"}
    assert shown["metrics_generator.processors"] == {"value": ["span-metrics"], "source": "tenant"}
    assert all(found.keys() == {"value", "source"} and found["source"] for found in shown.values())
    # All keys that there are, as an operator finds them on the command line.
    effective = await service.command("config", "effective", BARE, "--json")
    assert shown == yaml.safe_load(effective)
    # And it is true.
    async with GrpcClient(service.grpc_port) as client:
        answer = await client.export(full_request().SerializeToString(), BARE)
    assert answer.status == "RESOURCE_EXHAUSTED"


@case(123)
async def test_123_differences_show_what_an_entry_made_zero(service: MillraceProcess) -> None:
    text = (await service.get("/status/runtime_config?mode=diff")).text
    differences = yaml.safe_load(text)["differences"]
    assert differences.keys() == {BARE, "documented", "zed"}
    assert differences[BARE][RATE] == differences[BARE][BURST] == {"value": 0, "source": "tenant (unset)"}
    assert differences["zed"][RATE] == {"value": 5000, "source": "tenant"}
    assert differences["documented"].keys() == {"metrics_generator.processors"}
    everything = list(yaml.safe_load_all((await service.get("/status/runtime_config")).text))
    assert everything[0]["overrides"].keys() == {BARE, "zed"}
    assert everything[1]["user_configurable_overrides"].keys() == {"documented", "zed"}


@case(124)
@pytest.mark.parametrize("path", ["/status/nope", "/status/", "/status/overrides/", "/status/runtime_config/nope"])
async def test_124_there_is_no_such_page(service: MillraceProcess, path: str) -> None:
    answer = await service.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["type"] == "urn:millrace:problem:not-found"

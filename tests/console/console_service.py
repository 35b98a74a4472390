"""A service whose API and console want tokens."""

from typing import Any

from playwright.async_api import Page

from tests.integration.service import READY_TIMEOUT_S, MillraceProcess
from tests.integration.waiting import eventually


class ConsoleService(MillraceProcess):
    """One that answers nobody without a token.

    Attributes:
        operator: an operator's token, from the start on.
    """

    operator = ""

    @property
    def url(self) -> str:
        """Where the console is."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def otlp_port(self) -> int:
        """Where it takes OTLP/HTTP."""
        return int(str(self._config["listen"]["otlp_http"]).rpartition(":")[2])

    async def start(self) -> None:
        """Start it, wait until it is ready, and make an operator's token."""
        self.launch()
        await eventually(self._is_ready, READY_TIMEOUT_S, lambda: f"the service is not ready:\n{self.log}")
        self.operator = await self.operator_token()

    async def tenant_token(self, tenant: str, *scopes: str) -> str:
        """Make a token of a tenant; without scopes it is its administrator's."""
        body = {"scopes": list(scopes or ("tenant-admin",)), "expires_in_days": 1}
        answer = await self.ask("POST", "/api/tokens", tenant=tenant, token=self.operator, body=body)
        assert answer.is_success, answer.text
        return str(answer.json()["token"])

    async def put_document(self, tenant: str, document: dict[str, Any], revision: int) -> None:
        """Store a document as somebody else would."""
        answer = await self.ask(
            "POST", "/api/overrides", tenant=tenant, token=self.operator, body=document, If_Match=str(revision)
        )
        assert answer.is_success, answer.text


async def sign_in(page: Page, token: str) -> None:
    """Sign in as a person does."""
    await page.goto("/console/sign-in")
    await page.get_by_label("Token").fill(token)
    await page.keyboard.press("Enter")
    await page.wait_for_url(lambda url: "sign-in" not in url)

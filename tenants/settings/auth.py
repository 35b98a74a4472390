"""How it is known who is asking."""

from typing import Literal

from pydantic import Field

from tenants.settings.model import SettingsModel


class AuthConfig(SettingsModel):
    """Proof of who is asking, on every port."""

    mode: Literal["trusted_header", "token"] = Field(
        default="trusted_header",
        description="trusted_header: whoever names a tenant in X-Scope-OrgID is believed, so a proxy has to check; "
        "token: every request needs a token (Authorization: Bearer or Basic). Operators need one in either mode.",
    )

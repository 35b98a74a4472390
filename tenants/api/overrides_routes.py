"""``/api/overrides``: the document of one tenant (tenancy §3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal

from fastapi import Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tenants.api.access import Access, GuardedRouter, OwnTenant, WhoChanges
from tenants.api.body import json_body, read_body, read_model
from tenants.api.problem_response import PROBLEM_RESPONSES
from tenants.api.times import time_text
from tenants.control.documents import DocumentService, Written, difference
from tenants.control.effective import EffectiveSettings
from tenants.control.expected_revision import parse_if_match, required
from tenants.control.problem import ProblemError, ProblemKind
from tenants.settings.api_document import TenantDocument

PATH: Final = "/api/overrides"
REVISION_HEADER: Final = "X-Overrides-Revision"
MAX_WAIT_S: Final = 30

_SKIP: Final = "skip-conflicting-overrides-check"
_BOOLEANS: Final = {
    **dict.fromkeys(["1", "t", "T", "TRUE", "true", "True"], True),
    **dict.fromkeys(["0", "f", "F", "FALSE", "false", "False"], False),
}
"""What Go reads as a boolean: clients were written for the reference (tenancy §3.7)."""

IfMatch = Annotated[
    str | None,
    Header(description='Revision to change, `"3"` or `3`; `0`: nothing may be there; `*`: whatever is there.'),
]
DryRun = Annotated[bool, Query(description="Check everything and return the result, but store nothing.")]
SkipConflicts = Annotated[
    str | None, Query(alias=_SKIP, description="Store the document although it hides values of the runtime file.")
]


class RollbackRequest(BaseModel):
    """Which revision to go back to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    revision: int = Field(ge=1, le=2**53, description="A revision that the history lists.")


class OverridesRoutes:
    """The endpoints.

    Args:
        documents: does the work.
        effective: tells what is in force.
        is_enabled: whether tenants may have documents; if not, there is nothing here.
        is_compatible: answer with the status codes of the reference where ours differ (tenancy §10).
    """

    def __init__(
        self, documents: DocumentService, effective: EffectiveSettings, *, is_enabled: bool, is_compatible: bool
    ) -> None:
        self._documents = documents
        self._effective = effective
        self._is_enabled = is_enabled
        self._is_compatible = is_compatible

    def router(self) -> GuardedRouter:
        """Return the routes."""
        router = GuardedRouter(tags=["overrides"], responses=PROBLEM_RESPONSES)
        document = json_body(TenantDocument, "The whole document.")
        patch = json_body(None, "A merge patch (RFC 7396); null removes a key.")
        rollback = json_body(RollbackRequest, "The revision.")
        add = router.route_for
        nothing = {404: {"description": "There is no document."}}
        add("GET", PATH, Access.TENANT, summary="The document, or what is in force", responses=nothing)(self.get)
        stored = {200: {"description": "Stored; with dry_run, what would be.", "content": {"application/json": {}}}}
        add(
            "POST",
            PATH,
            Access.TENANT,
            summary="Replace the document",
            openapi_extra=document,
            responses=stored,
            response_class=Response,
        )(self.replace)
        add("PATCH", PATH, Access.TENANT, summary="Change some keys", openapi_extra=patch)(self.patch)
        add("DELETE", PATH, Access.TENANT, summary="Remove the document", status_code=204)(self.delete)
        add("GET", f"{PATH}/history", Access.TENANT, summary="The last revisions")(self.history)
        add(
            "POST",
            f"{PATH}/rollback",
            Access.TENANT,
            summary="Go back to an earlier revision",
            openapi_extra=rollback,
        )(self.roll_back)
        return router

    def _check_enabled(self) -> None:
        if not self._is_enabled:
            raise ProblemError(
                ProblemKind.NOT_FOUND,
                "documents of tenants are switched off; overrides.user_configurable_overrides.enabled switches them on",
            )

    async def get(
        self,
        *,
        tenant: OwnTenant,
        scope: Annotated[
            Literal["api", "merged"], Query(description="`api`: the stored document; `merged`: the values in force.")
        ] = "api",
        provenance: Annotated[bool, Query(description="With `merged`: where each value came from.")] = False,
        min_revision: Annotated[
            int, Query(ge=0, le=2**53, description="Answer when every process has this revision, else 504.")
        ] = 0,
        wait: Annotated[
            str, Query(description="How long to wait for it, such as `10s`; at most 30s.", pattern=r"^[0-9]{1,2}s$")
        ] = "0s",
    ) -> Response:
        """Return the tenant's document, or with `scope=merged` every setting that a document may hold.

        What is in force is told also where documents are switched off; then it has no revision.
        """
        if scope == "merged" and not self._is_enabled:
            return JSONResponse(self._effective.for_tenant(tenant, with_sources=provenance))
        self._check_enabled()
        if min_revision:
            wait_s = min(float(wait.removesuffix("s")), MAX_WAIT_S)
            if not await self._documents.is_applied(tenant, min_revision, wait_s):
                raise ProblemError(
                    ProblemKind.NOT_IN_FORCE_YET, f"revision {min_revision} is not in force everywhere yet; ask again"
                )
        if scope == "merged":
            revision = await self._documents.revision(tenant)
            # The latest stored version, also if another process has just stored it.
            await self._documents.look()
            content: Any = self._effective.for_tenant(tenant, with_sources=provenance)
            return JSONResponse(content, headers=_headers(revision))
        written = await self._documents.get(tenant)
        if written is None:
            return Response(status_code=404)
        return _document(written)

    async def replace(
        self,
        *,
        request: Request,
        tenant: OwnTenant,
        caller: WhoChanges,
        if_match: IfMatch = None,
        skip: SkipConflicts = None,
        dry_run: DryRun = False,
    ) -> Response:
        """Store the whole document; what it does not hold is inherited."""
        self._check_enabled()
        expected = required(parse_if_match(if_match))
        skip_conflicts = _boolean(skip)
        body = await read_body(request)
        with _conflict_status(self._is_compatible):
            written = await self._documents.replace(
                tenant, body, expected, caller, skip_conflicts=skip_conflicts, is_dry_run=dry_run
            )
        if dry_run:
            return _dry_run(written)
        return Response(status_code=200, headers=_headers(written.revision))

    async def patch(
        self,
        *,
        request: Request,
        tenant: OwnTenant,
        caller: WhoChanges,
        if_match: IfMatch = None,
        skip: SkipConflicts = None,
        dry_run: DryRun = False,
    ) -> Response:
        """Merge a patch into the document; without If-Match into whatever is there."""
        self._check_enabled()
        expected = parse_if_match(if_match)
        skip_conflicts = _boolean(skip)
        body = await read_body(request)
        with _conflict_status(self._is_compatible):
            written = await self._documents.patch(
                tenant, body, expected, caller, skip_conflicts=skip_conflicts, is_dry_run=dry_run
            )
        return _dry_run(written) if dry_run else _document(written)

    async def delete(self, *, tenant: OwnTenant, caller: WhoChanges, if_match: IfMatch = None) -> Response:
        """Remove the document: every setting is inherited again."""
        self._check_enabled()
        written = await self._documents.delete(tenant, required(parse_if_match(if_match)), caller)
        return Response(
            status_code=200 if self._is_compatible else 204, headers={REVISION_HEADER: str(written.revision)}
        )

    async def history(self, *, tenant: OwnTenant) -> JSONResponse:
        """Return the last 20 revisions, newest first, each with what it changed."""
        self._check_enabled()
        kept = await self._documents.history(tenant)
        # Of the oldest that is kept it may be unknown what was before.
        former = [stored.document for stored in kept[1:]]
        is_first = bool(kept) and kept[-1].revision == 1
        changes: list[list[dict[str, Any]] | None] = [
            _diff(before, stored.document) for stored, before in zip(kept, former, strict=False)
        ]
        changes += [_diff(None, stored.document) if is_first else None for stored in kept[len(former) :]]
        return JSONResponse(
            {
                "revisions": [
                    {
                        "revision": stored.revision,
                        "author": stored.author,
                        "at": time_text(stored.at_ms),
                        "document": stored.document,
                        "diff": diff,
                    }
                    for stored, diff in zip(kept, changes, strict=True)
                ]
            }
        )

    async def roll_back(
        self,
        *,
        request: Request,
        tenant: OwnTenant,
        caller: WhoChanges,
        if_match: IfMatch = None,
        dry_run: DryRun = False,
    ) -> Response:
        """Store an earlier document again, as a new revision."""
        self._check_enabled()
        expected = parse_if_match(if_match)
        wanted = await read_model(RollbackRequest, request)
        written = await self._documents.rollback(tenant, wanted.revision, expected, caller, is_dry_run=dry_run)
        return _dry_run(written) if dry_run else _document(written)


@contextmanager
def _conflict_status(is_compatible: bool) -> Iterator[None]:
    """Answer a conflict with the runtime file with 400, as the reference does, where that is wanted."""
    try:
        yield
    except ProblemError as problem:
        if is_compatible and problem.kind is ProblemKind.RUNTIME_CONFLICT:
            raise ProblemError(ProblemKind.INVALID_REQUEST, problem.detail, problem.violations) from None
        raise


def _diff(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{"path": path, "before": a, "after": b} for path, (a, b) in difference(before, after).items()]


def _boolean(text: str | None) -> bool:
    if text is None:
        return False
    if text not in _BOOLEANS:
        raise ProblemError(ProblemKind.INVALID_REQUEST, f"{_SKIP} should be true or false")
    return _BOOLEANS[text]


def _headers(revision: int) -> dict[str, str]:
    return {"ETag": f'"{revision}"', REVISION_HEADER: str(revision)}


def _document(written: Written) -> JSONResponse:
    return JSONResponse(written.document, headers=_headers(written.revision))


def _dry_run(written: Written) -> JSONResponse:
    return JSONResponse({"dry_run": True, "document": written.document}, headers=_headers(written.revision))

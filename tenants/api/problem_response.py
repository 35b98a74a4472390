"""Problems as ``application/problem+json`` (RFC 9457), whatever went wrong on the way to an endpoint."""

from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tenants.control.problem import ProblemError, ProblemKind
from tenants.settings.errors import Fault, dotted
from tenants.store.errors import StoreUnavailable

MEDIA_TYPE: Final = "application/problem+json"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:millrace:problem:<kind>"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and how to mend it."},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}

PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "The request was refused; nothing was changed.",
        "content": {MEDIA_TYPE: {"schema": _SCHEMA}},
    }
}
"""For every route: what its refusals look like."""


def problem_response(problem: ProblemError) -> JSONResponse:
    """Spell a problem out."""
    content: dict[str, Any] = {
        "type": f"urn:millrace:problem:{problem.kind}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.violations:
        content["violations"] = [{"path": fault.path, "message": fault.message} for fault in problem.violations]
    headers = dict(problem.headers)
    if problem.kind is ProblemKind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer with problems, also for what the framework itself refuses and for bugs."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(StoreUnavailable, _on_store_unavailable)
    app.add_exception_handler(Exception, _on_bug)


async def _on_problem(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ProblemError):
        raise error
    return problem_response(error)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    # Only where and why: the values came from a stranger.
    faults = tuple(Fault(dotted(_path(item["loc"])), str(item["msg"])) for item in error.errors())
    return problem_response(ProblemError(ProblemKind.INVALID_REQUEST, "the request is not valid", faults))


def _path(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return location[1:] or location


_KIND_OF_STATUS = {404: ProblemKind.NOT_FOUND, 405: ProblemKind.METHOD_NOT_ALLOWED}


async def _on_http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    kind = _KIND_OF_STATUS.get(error.status_code, ProblemKind.INVALID_REQUEST)
    return problem_response(ProblemError(kind, str(error.detail), headers=error.headers))


async def _on_store_unavailable(_: Request, error: Exception) -> JSONResponse:
    log.error("the store does not answer", error=str(error))
    return problem_response(
        ProblemError(ProblemKind.UNAVAILABLE, "the store does not answer; try again", headers={"Retry-After": "1"})
    )


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.error("a request failed by a bug", path=request.url.path, exc_info=error)
    return problem_response(ProblemError(ProblemKind.INTERNAL, "internal error; the operator's log has the details"))

"""Bodies of requests: read up to a limit, and only what says that it is JSON (tenancy §3.2, D-11)."""

import json
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from tenants.control.problem import ProblemError, ProblemKind
from tenants.settings.errors import MAX_FAULTS, Fault, SettingsError, dotted
from tenants.settings.strict_json import read_json

Model = TypeVar("Model", bound=BaseModel)

SCHEMAS: Final = "#/components/schemas/"

MAX_BODY_BYTES: Final = 256 * 1024

_MEDIA_TYPES: Final = ("application/json", "application/merge-patch+json")


async def read_body(request: Request) -> bytes:
    """Read the body of a request.

    Raises:
        ProblemError: it is larger than 256 KiB, or says that it is not JSON.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type and content_type not in _MEDIA_TYPES:
        raise ProblemError(
            ProblemKind.UNSUPPORTED_MEDIA_TYPE, f"send {' or '.join(_MEDIA_TYPES)}, or no Content-Type at all"
        )
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(ProblemKind.UNSUPPORTED_MEDIA_TYPE, "send the body without Content-Encoding")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ProblemError(ProblemKind.TOO_LARGE, f"the body has more than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_model(model: type[Model], request: Request) -> Model:
    """Read the body of a request as one of the API's own models.

    Raises:
        ProblemError: as :func:`read_body`, or it does not fit; with every violation, unless there are more than 100.
    """
    body = await read_body(request)
    try:
        return model.model_validate_json(json.dumps(read_json(body)))
    except SettingsError as error:
        raise ProblemError(ProblemKind.INVALID_REQUEST, "the body is not valid", error.faults) from None
    except ValidationError as error:
        if (count := error.error_count()) > MAX_FAULTS:
            # Spelling out a hundred thousand takes seconds.
            raise ProblemError(ProblemKind.INVALID_REQUEST, f"the body has {count} violations") from None
        faults = tuple(
            Fault(dotted(item["loc"]), item["msg"]) for item in error.errors(include_url=False, include_input=False)
        )
    raise ProblemError(ProblemKind.INVALID_REQUEST, "the body is not valid", faults)


def json_body(model: type[BaseModel] | None, description: str) -> dict[str, Any]:
    """Describe such a body for the document of the API; None: any object. What is referred to, it has to hold."""
    schema = {"type": "object"} if model is None else {"$ref": f"{SCHEMAS}{model.__name__}"}
    return {
        "requestBody": {
            "required": True,
            "description": description,
            "content": {"application/json": {"schema": schema}},
        }
    }


def schemas_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the schemas of bodies and of all that they hold, by name."""
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=f"{SCHEMAS}{{model}}")
    schemas: dict[str, Any] = found["$defs"]
    return schemas

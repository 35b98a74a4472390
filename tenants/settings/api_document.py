"""The document of a tenant: those keys of the overrides that are the tenant's own (tenancy §3.2).

Its type is made from that of the overrides: keys that a tenant owns, with the tenant's bounds where they are narrower.
A document is JSON; it is stored in one way of writing, and becomes a layer of overrides when it is read.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from tenants.settings.errors import Fault, PathPart, SettingsError, dotted
from tenants.settings.model import SettingsModel, key_of, models_in, unknown_key, validate
from tenants.settings.overrides import Overrides
from tenants.settings.plain import plain
from tenants.settings.schema import Owner, about
from tenants.settings.strict_json import read_json

Json = dict[str, Any]

_Path = tuple[PathPart, ...]


def _document_type(model: type[BaseModel], name: str, owner: Owner) -> type[SettingsModel] | None:
    """Make the type of a tenant's part of a model; None if no key in it is a tenant's."""
    fields: dict[str, Any] = {}
    for field_name, field in model.model_fields.items():
        said = about(field)
        own = said.owner or owner
        nested = _mapping_of(field)
        if nested is not None:
            part = _document_type(nested, f"{name}{_camel(field_name)}", own)
            if part is not None:
                fields[field_name] = (
                    part,
                    Field(default_factory=part, alias=field.alias, description=field.description),
                )
        elif own is Owner.TENANT:
            kind = said.tenant_type if said.tenant_type is not None else _annotation(field)
            fields[field_name] = (kind, Field(default=None, alias=field.alias, description=field.description))
    if not fields:
        return None
    made: type[SettingsModel] = create_model(
        name, __base__=SettingsModel, __doc__=model.__doc__, __module__=__name__, **fields
    )
    return made


def _mapping_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model that a mapping of keys is; lists of models are values."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _annotation(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    for part in field.metadata:
        kind = Annotated[kind, part]
    return kind


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.strip("_").split("_"))


TenantDocument: Final = _document_type(Overrides, "TenantDocument", Owner.OPERATOR) or SettingsModel
"""What a tenant may set."""


def is_tenant_owned(key: str) -> bool:
    """Whether a dotted key, such as ``metrics_generator.processors``, can stand in a tenant's document."""
    model: type[BaseModel] | None = TenantDocument
    for name in key.split("."):
        field = _fields(model).get(name) if model is not None else None
        if field is None:
            return False
        model = _mapping_of(field)
    return model is None


def read_document(text: bytes) -> SettingsModel:
    """Read and check a document as a tenant sends it.

    Raises:
        SettingsError: with every fault.
    """
    known, unknown = _divided(_object(read_json(text), "the settings"))
    return _checked(known, [_unknown_fault(path) for path in unknown])


def to_json(model: BaseModel) -> Json:
    """Write what is present in a document, or in overrides, as the document of a tenant has it."""
    written: Json = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if _mapping_of(field) is not None:
            value = to_json(value) or None
        elif value is not None:
            value = plain(value)
        if value is not None:
            # A set: in one order, whoever wrote it (tenancy §3.2).
            written[key_of(name, field)] = sorted(value) if name == "processors" else value
    return written


def to_overrides(document: SettingsModel) -> Overrides:
    """Return a document as a layer of overrides."""
    return validate(Overrides, to_json(document))


def merge_patch(stored: Mapping[str, Any] | None, text: bytes) -> Json:
    """Merge a patch into a document; return the whole that comes of it, checked (tenancy §3.5, D-13).

    Keys that a newer version has stored, and this one does not know, stay where the patch leaves their surroundings.

    Args:
        stored: the document; None: there is none.
        text: the patch as the tenant sends it.

    Raises:
        SettingsError: it is no object, names what no document has (even to remove it), or what comes of it is invalid;
            with every fault.
    """
    patch, unknown = _divided(_object(read_json(text), "the keys to change; null removes a key"))
    whole = merged(dict(stored or {}), patch)
    known, of_newer = _divided(whole)
    document = to_json(_checked(known, [_unknown_fault(path) for path in unknown]))
    for path in of_newer:
        _put(document, path, _at(whole, path))
    return document


def merged(target: Any, patch: Any) -> Any:
    """Merge a patch into a value, as RFC 7396 defines it. Neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def read_stored(document: Mapping[str, Any]) -> tuple[Overrides, tuple[str, ...]]:
    """Read a stored document as a layer; return also the paths that were left out.

    A newer version may have stored keys that this one does not know; the rest is applied all the same (tenancy §3.11).

    Raises:
        SettingsError: it is no object, or a value is not valid; with every fault.
    """
    known, unknown = _divided(_object(document, "the settings"))
    return to_overrides(_checked(known, [])), tuple(dotted(path) for path in unknown)


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise SettingsError([Fault("", f"should be a JSON object with {what}")])
    return value


def _checked(value: Json, faults: list[Fault]) -> SettingsModel:
    """Return a document if there are no faults in it, besides those that were found already."""
    try:
        document = validate(TenantDocument, value)
    except SettingsError as error:
        faults = [*faults, *error.faults]
    if faults:
        raise SettingsError(faults)
    return document


def _divided(value: Json) -> tuple[Json, list[_Path]]:
    """Return a document without the keys that none has, and where those stood."""
    unknown = list(_unknown(TenantDocument, value, ()))
    if not unknown:
        return value, unknown
    known = copy.deepcopy(value)
    for path in unknown:
        del _at(known, path[:-1])[path[-1]]
    return known, unknown


def _unknown(model: type[BaseModel], value: object, path: _Path) -> Iterator[_Path]:
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown(model, inner, (*path, index))
    elif isinstance(value, dict):
        fields = _fields(model)
        for key, inner in value.items():
            if key not in fields:
                yield (*path, key)
            elif (nested := next(models_in(fields[key].annotation), None)) is not None:
                yield from _unknown(nested, inner, (*path, key))


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {key_of(name, field): field for name, field in model.model_fields.items()}


def _unknown_fault(path: _Path) -> Fault:
    is_operators = not any(_unknown(Overrides, _put({}, path, None), ()))
    message = "is set by operators only; leave it out" if is_operators else unknown_key(TenantDocument, path)
    return Fault(dotted(path), message)


def _at(value: Any, path: _Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _put(document: Json, path: _Path, value: object) -> Json:
    """Put a value into a document, with the objects around it. Lists on the way are there."""
    inner: Any = document
    for part in path[:-1]:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    inner[path[-1]] = value
    return document

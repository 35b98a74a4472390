"""The document of a tenant: those keys of the overrides that are the tenant's own (tenancy §3.2).

Its type is made from that of the overrides: keys that a tenant owns, with the tenant's bounds where they are narrower.
A document is JSON; it is stored in one way of writing, and becomes a layer of overrides when it is read.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from tenants.settings.errors import (
    MORE_FAULTS,
    Fault,
    PathPart,
    SettingsError,
    dotted,
    first_faults,
)
from tenants.settings.model import MAX_NEAR_MISSES, SettingsModel, key_of, models_in, unknown_key, validate
from tenants.settings.overrides import Overrides
from tenants.settings.plain import plain
from tenants.settings.schema import Owner, about
from tenants.settings.strict_json import read_json

Json = dict[str, Any]

_Path = tuple[PathPart, ...]

_ENTRIES_AT_FIRST: Final = 1000
"""Entries of lists that are checked before all others are: more than a document that somebody means has."""


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
        SettingsError: with every fault, up to 100.
    """
    known, unknown = _divided(_object(read_json(text), "the settings"))
    return _checked(known, unknown)


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
            with every fault, up to 100.
    """
    patch, unknown = _divided(_object(read_json(text), "the keys to change; null removes a key"))
    whole = merged(dict(stored or {}), patch)
    known, of_newer = _divided(whole)
    document = to_json(_checked(known, unknown))
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
        SettingsError: it is no object, or a value is not valid; with every fault, up to 100.
    """
    known, unknown = _divided(_object(document, "the settings"))
    return to_overrides(_checked(known, ())), tuple(dotted(path) for path in unknown)


def _object(value: object, what: str) -> Json:
    if not isinstance(value, dict):
        raise SettingsError([Fault("", f"should be a JSON object with {what}")])
    return value


def _checked(value: Json, unknown: Iterable[_Path]) -> SettingsModel:
    """Return a document if there are no faults in it, and it had no unknown keys."""
    faults = first_faults(_unknown_faults(unknown))
    try:
        document = _validated(value)
    except SettingsError as error:
        faults = first_faults([*faults, *error.faults])
    if faults:
        raise SettingsError(faults)
    return document


def _validated(value: Json) -> SettingsModel:
    """Check a document from its beginning on, in ever larger parts, as far as there is no fault.

    pydantic tells all faults of a value in one call, with the interpreter locked: for a hundred thousand that takes
    seconds, in which no other thread goes on. That a list is cut short makes no fault.
    """
    entries = _ENTRIES_AT_FIRST
    while True:
        beginning = _Beginning(entries)
        part = beginning.of(value)
        try:
            document = validate(TenantDocument, part)
        except SettingsError as error:
            raise SettingsError(error.faults if beginning.is_whole else [*error.faults, MORE_FAULTS]) from None
        if beginning.is_whole:
            return document
        entries *= 2


class _Beginning:
    """Copies values with their first entries: of all lists together so many, and of each mapping that is too large."""

    def __init__(self, entries: int) -> None:
        self.is_whole = True
        self._most = entries
        self._left = entries

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            # No model has so many keys: it has those of whoever wrote it.
            self.is_whole &= len(value) <= self._most
            return {key: self.of(inner) for key, inner in islice(value.items(), self._most)}
        if not isinstance(value, list):
            return value
        kept = []
        for inner in value:
            if not self._left:
                self.is_whole = False
                break
            self._left -= 1
            kept.append(self.of(inner))
        return kept


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


@cache
def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {key_of(name, field): field for name, field in model.model_fields.items()}


def _unknown_faults(paths: Iterable[_Path]) -> Iterator[Fault]:
    for index, path in enumerate(paths):
        if any(_unknown(Overrides, _put({}, path, None), ())):
            message = unknown_key(TenantDocument, path, is_compared=index < MAX_NEAR_MISSES)
        else:
            message = "is set by operators only; leave it out"
        yield Fault(dotted(path), message)


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

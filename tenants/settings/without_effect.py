"""Which keys somebody set that nothing is done with: a file written for Grafana Tempo loads, but not silently."""

from collections.abc import Iterator

from pydantic import BaseModel

from tenants.settings.model import key_of
from tenants.settings.schema import Effect, about


def keys_without_effect(settings: BaseModel, effect: Effect | None = None, path: str = "") -> Iterator[str]:
    """Return the dotted keys that are present in settings and have no effect.

    Args:
        settings: what was read.
        effect: of the mapping that the settings stand in; None: of what it holds each key says so itself.
        path: put before the keys.
    """
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value is None or name not in settings.model_fields_set:
            continue
        key = f"{path}.{key_of(name, field)}".removeprefix(".")
        acts = about(field).effect or effect
        if isinstance(value, BaseModel):
            yield from keys_without_effect(value, acts, key)
        elif acts is Effect.NEVER:
            yield key

"""Names in settings: of labels, attributes and metrics, and the label that an attribute becomes.

Nothing is corrected here. A name that would give two series one label set is refused, never changed.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, Strict

MAX_NAME_BYTES = 1024

SPAN_LABELS = frozenset({"service", "span_name", "span_kind", "status_code", "status_message"})
"""Labels that span metrics build themselves. Reserved even where switched off (processors §0.4)."""

_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9_]")
# The series of one label set differ in these: as a dimension they would make two label sets one series.
_SERIES_LABELS = frozenset({"__name__", "le"})
_OWN_METRICS = ("traces_spanmetrics_", "traces_service_graph_", "traces_target_info")


def check_label_name(name: str) -> str:
    """Return a label name that may stand on every series; raise ValueError otherwise (tenancy §10 D-7)."""
    if not _LABEL_NAME.fullmatch(name):
        raise ValueError("is not a label name: a letter or underscore, then letters, digits and underscores")
    if name in _SERIES_LABELS:
        raise ValueError("is a label name that Millrace itself sets; choose another")
    return name


def check_text(text: str) -> str:
    """Return text that can be sent as UTF-8; raise ValueError otherwise.

    Escapes in JSON can build half characters (lone surrogates), which no label may hold.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode text") from error
    return text


def check_size(text: str, max_bytes: int) -> str:
    """Return valid text of at most ``max_bytes`` in UTF-8; raise ValueError otherwise."""
    if (size := len(check_text(text).encode())) > max_bytes:
        raise ValueError(f"should be at most {max_bytes} bytes, not {size}")
    return text


def label_of(name: str, reserved: frozenset[str] = frozenset()) -> str:
    """Return the label that an attribute or a mapping becomes (processors §0.4 ``sanitize_protected``)."""
    label = _NOT_IN_LABELS.sub("_", name)
    return f"__{label}" if label in reserved else label


def _check_short(text: str) -> str:
    return check_size(text, MAX_NAME_BYTES)


def _check_attribute_name(name: str) -> str:
    if not name:
        raise ValueError("should be an attribute name, not an empty text")
    return _check_short(name)


def _check_dimension(name: str) -> str:
    if (label := label_of(name)) in _SERIES_LABELS:
        raise ValueError(f"the label {label} belongs to the metrics themselves; use another attribute")
    return name


def _check_mapping_name(name: str) -> str:
    # The reference takes an empty name and then discards every span (processors Q39).
    if not name:
        raise ValueError("should be the name of a label, not an empty text")
    if (label := label_of(_check_short(name))) in _SERIES_LABELS:
        raise ValueError(f"the label {label} belongs to the metrics themselves; use another name")
    return name


def _check_metric_name(name: str) -> str:
    # Any text is allowed, as in the reference (tenancy §2.4), but series of two meanings may not share a name.
    if not name:
        raise ValueError("should be the name of a metric, not an empty text")
    if _check_short(name).startswith(_OWN_METRICS):
        raise ValueError("is the name of a metric that another processor generates; choose another")
    return name


LabelName = Annotated[str, AfterValidator(check_label_name)]
MappingName = Annotated[str, AfterValidator(_check_mapping_name)]
MetricName = Annotated[str, AfterValidator(_check_metric_name)]

Text = Annotated[str, AfterValidator(check_text)]
ShortText = Annotated[str, AfterValidator(_check_short)]
"""Text of at most 1 KiB; may be empty."""

AttributeName = Annotated[str, AfterValidator(_check_attribute_name)]
AttributeNames = Annotated[tuple[AttributeName, ...], Field(max_length=64), Strict(False)]
DimensionNames = Annotated[
    tuple[Annotated[AttributeName, AfterValidator(_check_dimension)], ...], Field(max_length=64), Strict(False)
]
"""Attributes that become labels; none may become a label that tells the series of a metric apart."""

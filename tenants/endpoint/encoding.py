"""How series are written for endpoints: those that want the same share one encoding."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tenants.endpoint.batch import Batch
from tenants.settings.protobuf_message import ProtobufMessage


class Encoding(NamedTuple):
    """What the batches of an endpoint have to be.

    Attributes:
        relabel: the rules for their series, as the engine reads them; empty: none.
        message: which message of Remote-Write.
    """

    relabel: str = ""
    message: ProtobufMessage = ProtobufMessage.V2


Encoded = Mapping[Encoding, list[Batch]]
"""The batches of one collection."""


def unique_encodings(wanted: Iterable[Encoding]) -> list[Encoding]:
    """Return each once, in order. For nobody there is one all the same: what is not sent is counted."""
    return list(dict.fromkeys(wanted)) or [Encoding()]


def batches_for(wanted: Encoding, encoded: Encoded) -> list[Batch]:
    """Return the batches with these rules, in the message wanted if there is a choice.

    What an endpoint takes may change between encoding and sending; its sender can say 2.0 batches in 1.0.
    """
    if wanted in encoded:
        return encoded[wanted]
    return next((batches for encoding, batches in encoded.items() if encoding.relabel == wanted.relabel), [])

"""The part of one endpoint's queue that is on disk."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields

import structlog

from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.queue import Waiting
from tenants.identity.tenant_id import TenantId
from tenants.journal.backlog_store import BacklogChange, StoredBatch
from tenants.journal.backlog_writer import BacklogWriter
from tenants.settings.protobuf_message import ProtobufMessage

_FACTS = tuple(each.name for each in fields(Batch) if each.name != "body")
_SIZE = "size_bytes"

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)


def endpoint_key(config: EndpointConfig) -> str:
    """Return what the backlog calls an endpoint: its settings may change, but not its name and URL."""
    # Hashed: a URL may hold secrets.
    return hashlib.sha256(f"{config.name}\0{config.url}".encode()).hexdigest()[:32]


class EndpointBacklog:
    """Writes, reads and removes the batches of one endpoint. Every method raises ``StoreError`` if that failed.

    Args:
        writer: the way to the disk.
        tenant: whose.
        key: of the endpoint.
        is_free: set once nobody else removes what is there under this key, and nothing is changed before; None: nobody.
    """

    def __init__(self, writer: BacklogWriter, tenant: TenantId, key: str, is_free: asyncio.Event | None = None) -> None:
        self._writer = writer
        self._tenant = tenant
        self._key = key
        self._is_free = is_free

    async def add(self, batches: Iterable[Waiting]) -> None:
        """Write batches, all or none."""
        stored = tuple(StoredBatch(each.sequence, _facts(each), each.batch.body) for each in batches)
        await self._change(BacklogChange(self._tenant, self._key, added=stored))

    async def remove(self, sequences: Sequence[int]) -> None:
        """Remove batches for good."""
        await self._change(BacklogChange(self._tenant, self._key, removed=tuple(sequences)))

    async def clear(self) -> None:
        """Remove all."""
        await self._change(BacklogChange(self._tenant, self._key, is_cleared=True))

    async def bodies(self, sequences: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of batches; what is missing is lost."""
        return await self._writer.bodies(self._tenant, self._key, sequences)

    async def _change(self, change: BacklogChange) -> None:
        if self._is_free is not None:
            await self._is_free.wait()
        await self._writer.change(change)


def stored_batches(rows: Iterable[tuple[int, str]]) -> list[Waiting]:
    """Return what is on disk, without bodies, by collection; what another version has written otherwise is left out."""
    found = []
    for sequence, text in rows:
        try:
            facts = json.loads(text)
            known = {name: facts[name] for name in _FACTS if name in facts}
            batch = Batch(body=b"", **known | {"message": ProtobufMessage(facts["message"])})
            found.append(Waiting(sequence, batch, int(facts[_SIZE]), is_stored=True, is_loaded=False))
        except (ValueError, TypeError, KeyError) as error:
            log.error("batch in the backlog cannot be read, it is left out", sequence=sequence, problem=str(error))  # noqa: TRY400
    return sorted(found, key=lambda each: (each.batch.timestamp_ms, each.sequence))


def _facts(waiting: Waiting) -> str:
    return json.dumps({name: getattr(waiting.batch, name) for name in _FACTS} | {_SIZE: waiting.size_bytes})

"""A tenant's state from its journal, and the collections that may not have been delivered."""

from dataclasses import dataclass

from tenants import _engine
from tenants.endpoint.collection_encoder import CollectionEncoder
from tenants.endpoint.encoding import Encoded
from tenants.endpoint.endpoint_settings import encodings
from tenants.endpoint.tenant_endpoint import Backlog
from tenants.identity.tenant_id import TenantId
from tenants.journal.entries import BeginEntry, CollectEntry, Entry, decode
from tenants.journal.errors import JournalDamaged
from tenants.journal.store import JournalStore
from tenants.processing.tenant_state import CheckpointError, TenantState
from tenants.settings.tenant_settings import TenantSettings

MAX_UNDELIVERED = 100
"""Collections that are encoded again. Series are cumulative: of older ones only resolution is lost."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a tenant goes on with.

    Attributes:
        state: as it was when the last entry was committed.
        undelivered: collections that are not known to have been delivered or to be on disk, oldest first: the same
            series, values and timestamps as they were sent with, or were to be.
        backlog: what is on disk.
    """

    state: TenantState
    undelivered: tuple[Encoded, ...]
    backlog: Backlog


def recover(store: JournalStore, tenant: TenantId, settings: TenantSettings) -> Recovered:
    """Read a tenant's journal and put it in force. Blocks; the more, the longer the journal is.

    Raises:
        JournalDamaged: it cannot be used; nothing was changed.
        StoreError: it cannot be read.
    """
    checkpoint, stored = store.load(tenant)
    entries: list[Entry] = []
    for position, body in stored:
        try:
            entries.append(decode(body))
        except ValueError as error:
            raise JournalDamaged(tenant, position, str(error)) from error
    try:
        if checkpoint is not None:
            state = TenantState.restore(tenant, checkpoint.body)
        elif entries and isinstance(begin := entries.pop(0), BeginEntry):
            state = TenantState(tenant, begin)
        else:
            raise JournalDamaged(tenant, None, "it has no beginning")
        undelivered = _replay(state, entries, settings)
    except (CheckpointError, _engine.EngineError) as error:
        raise JournalDamaged(tenant, checkpoint and checkpoint.position, str(error)) from error
    return Recovered(state, tuple(undelivered), store.backlog.index(tenant))


def _replay(state: TenantState, entries: list[Entry], settings: TenantSettings) -> list[Encoded]:
    collections = [entry for entry in entries if isinstance(entry, CollectEntry)]
    delivered_ms = max((entry.delivered_ms for entry in collections), default=state.delivered_ms)
    first_ms = min((entry.timestamp_ms for entry in collections[-MAX_UNDELIVERED:]), default=0)
    encoded_from_ms = max(first_ms, delivered_ms + 1)
    encoder = CollectionEncoder()
    undelivered: list[Encoded] = []
    for entry in entries:
        match entry:
            case CollectEntry(timestamp_ms, is_silent=False) if timestamp_ms >= encoded_from_ms:
                state.begin_collection(entry)
                undelivered.append(encoder.encode(state.registry, settings, timestamp_ms, encodings(settings)))
            case _:
                state.replay(entry)
    return undelivered

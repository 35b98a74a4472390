"""What a journal says of a tenant, and its binary form: a head of version and kind, numbers of fixed width, the rest.

The form is private to Millrace. A version is never given another meaning: whoever comes after a rollout reads what its
predecessor has written.
"""

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<BB")


@dataclass(frozen=True, slots=True)
class BeginEntry:
    """The tenant begins; the first entry of its journal.

    Attributes:
        plan_text: of the settings that are in force.
        started_at_ms: Unix milliseconds.
        seed: of the registry's estimates (64 bits); whoever chooses label values must not know it.
    """

    plan_text: str
    started_at_ms: int
    seed: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """A flush record of one shard.

    Attributes:
        index: which hash range.
        count: of how many.
        epoch: of its ownership.
        sequence: of the record within the epoch.
        now_ns: Unix nanoseconds at which the collector took it.
        data: the engine's record, what of it lasts.
    """

    index: int
    count: int
    epoch: int
    sequence: int
    now_ns: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClaimEntry:
    """A shard host begins to count for a hash range.

    Attributes:
        index: which hash range.
        count: of how many.
        host: name of the shard host.
        epoch: of its ownership.
        now_ns: Unix nanoseconds.
    """

    index: int
    count: int
    host: str
    epoch: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """Nobody counts for a hash range any more.

    Attributes:
        index: which hash range.
        count: of how many.
        epoch: of the ownership that ends.
    """

    index: int
    count: int
    epoch: int


@dataclass(frozen=True, slots=True)
class CollectEntry:
    """The series are collected.

    Attributes:
        timestamp_ms: of the samples.
        delivered_ms: every collection up to this one was delivered or given up, or is in the backlog.
        is_silent: nothing was sent.
    """

    timestamp_ms: int
    delivered_ms: int
    is_silent: bool


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """Other settings come into force.

    Attributes:
        plan_text: of the settings.
    """

    plan_text: str


Entry = BeginEntry | RecordEntry | ClaimEntry | ReleaseEntry | CollectEntry | PlanEntry


class _Form(NamedTuple):
    kind: int
    numbers: struct.Struct


# Kinds are never given another meaning.
_RECORD: Final = _Form(1, struct.Struct("<IIQQq"))
_CLAIM: Final = _Form(2, struct.Struct("<IIQq"))
_RELEASE: Final = _Form(3, struct.Struct("<IIQ"))
_COLLECT: Final = _Form(4, struct.Struct("<qqB"))
_PLAN: Final = _Form(5, struct.Struct("<"))
_BEGIN: Final = _Form(6, struct.Struct("<qQ"))


def encode(entry: Entry) -> bytes:
    """Return the binary form.

    Raises:
        ValueError: a number is out of its range, or a text cannot be written.
    """
    if isinstance(entry, RecordEntry | ClaimEntry | ReleaseEntry):
        _check_range(entry.index, entry.count)
    try:
        match entry:
            case RecordEntry(index, count, epoch, sequence, now_ns, data):
                return _written(_RECORD, (index, count, epoch, sequence, now_ns), data)
            case ClaimEntry(index, count, host, epoch, now_ns):
                return _written(_CLAIM, (index, count, epoch, now_ns), host.encode())
            case ReleaseEntry(index, count, epoch):
                return _written(_RELEASE, (index, count, epoch))
            case CollectEntry(timestamp_ms, delivered_ms, is_silent):
                return _written(_COLLECT, (timestamp_ms, delivered_ms, is_silent))
            case PlanEntry(plan_text):
                return _written(_PLAN, (), plan_text.encode())
            case BeginEntry(plan_text, started_at_ms, seed):
                return _written(_BEGIN, (started_at_ms, seed), plan_text.encode())
    except struct.error as error:
        raise ValueError(f"{type(entry).__name__} cannot be written: {error}") from error


def decode(body: bytes) -> Entry:
    """Read an entry.

    Raises:
        ValueError: it is none; the message says why.
    """
    if len(body) < _HEAD.size:
        raise ValueError(f"{len(body)} bytes are no entry")
    version, kind = _HEAD.unpack_from(body)
    if version != _VERSION:
        raise ValueError(f"the entry has version {version}, not {_VERSION}: run the program that wrote it")
    match kind:
        case _RECORD.kind:
            (index, count, epoch, sequence, now_ns), data = _read(_RECORD, body)
            _check_range(index, count)
            return RecordEntry(index, count, epoch, sequence, now_ns, data)
        case _CLAIM.kind:
            (index, count, epoch, now_ns), host = _read(_CLAIM, body)
            _check_range(index, count)
            return ClaimEntry(index, count, host.decode(), epoch, now_ns)
        case _RELEASE.kind:
            (index, count, epoch), rest = _read(_RELEASE, body)
            _check_range(index, count)
            _check_end(rest)
            return ReleaseEntry(index, count, epoch)
        case _COLLECT.kind:
            (timestamp_ms, delivered_ms, is_silent), rest = _read(_COLLECT, body)
            _check_end(rest)
            if is_silent > 1:
                raise ValueError(f"a collection is silent or not, and not {is_silent}")
            return CollectEntry(timestamp_ms, delivered_ms, bool(is_silent))
        case _PLAN.kind:
            _, plan_text = _read(_PLAN, body)
            return PlanEntry(plan_text.decode())
        case _BEGIN.kind:
            (started_at_ms, seed), plan_text = _read(_BEGIN, body)
            return BeginEntry(plan_text.decode(), started_at_ms, seed)
    raise ValueError(f"the entry's kind {kind} is not known: run the program that wrote it")


def _written(form: _Form, numbers: tuple[int, ...], rest: bytes = b"") -> bytes:
    return b"".join((_HEAD.pack(_VERSION, form.kind), form.numbers.pack(*numbers), rest))


def _read(form: _Form, body: bytes) -> tuple[tuple[int, ...], bytes]:
    ends_at = _HEAD.size + form.numbers.size
    if len(body) < ends_at:
        raise ValueError(f"the entry ends after {len(body)} bytes; its numbers alone need {ends_at}")
    return form.numbers.unpack_from(body, _HEAD.size), body[ends_at:]


def _check_range(index: int, count: int) -> None:
    if index >= count:
        raise ValueError(f"there is no range {index} of {count}")


def _check_end(rest: bytes) -> None:
    if rest:
        raise ValueError(f"{len(rest)} bytes follow the entry")

"""The protocol by which spans are counted once, whoever dies: a state machine of immutable values, for one tenant.

The hash range is cut into two halves. A *key* is a range: the left half (0 of 2), the right half (1 of 2), or both
(0 of 1). A request has one row in each half; the left rows of requests 0 and 1 are the two halves of one edge. A row of
one request is a bit of a mask (:func:`rows`), and so a set of rows is an integer.

Step by step:

1. A client sends a request to a gateway (``Client``). Until it is acknowledged it sends the same bytes again, to the
   same gateway or to another, a few times.
2. The gateway sends one frame for each key, with the request's fingerprint and the key that it was made for. The host
   answers with the place (epoch, sequence) of the flush record that will hold it. The gateway acknowledges to the
   client when all frames are counted (mode *accepted*), or when all are journalled (mode *durable*). Until then, and
   after, it keeps the frame and polls the host. Key unknown, or of a newer epoch: the frame is lost, and is replayed to
   whoever has a part of its range now.
3. A host to which a frame comes for a key that it does not count *claims* the key, and the frame waits (in the code
   with its gateway, which asks for the claim and then sends the frame once more). The collector asks the owners of
   all overlapping keys, the claimant included, for their last records (*release*), and waits for the answer as long as
   the owner's process lives. An owner that has not begun in that epoch will not: the answer binds it. The collector
   journals these records, then the claim, puts it in force, and answers with a new epoch and the part of the mirror in
   the key's range.
4. A shard applies a (fingerprint, half) once. A flush makes a record of what was applied since the last one: counts,
   fingerprints, edges closed, half edges left open. It is kept until it is acknowledged.
5. The collector pulls records, commits them to the journal in one transaction, then puts them in force in order: a
   record whose epoch is not the owner's, or that is not the owner's next, is ignored. What is in force is acknowledged.
   Records of a shard that does not own its key are answered by a *fence*: the host forgets the shard.
6. A collection is journalled, then encoded, then sent. A checkpoint replaces the entries before it, but not while a
   collection is not known to be delivered: that one is encoded again when the collector restarts.
7. A process that crashes restarts with empty memory, the collector with checkpoint and journal. The former process
   of a shard host, a *zombie*, may go on for a while: it takes frames, flushes, answers polls, is pulled and released,
   and a claim that it sent may arrive late.

What is simpler here than in the code, and why nothing is missed:

* A poll, a pull with its acknowledgements, and a request or an answer between client and gateway are one step each.
  They tell facts that stay true (a record is journalled, an epoch is over), so that a late answer is an early one whose
  reader acted late. The exception, a late "not here", is the fault "stale poll". A lost call is a step that is not
  taken.
* An answer that nobody waits for any more is dropped at once.
* Frames, claims and their answers are messages that stay in the network as long as they like and pass each other. Loss,
  duplication and running out of patience while the message is still under way are faults, as crashes are; a bounded
  number of them is spent in a run.
* Two gateways that never had a request are alike: a client takes the first.
* A collector that was replaced cannot commit (incarnation); what it may still do, sending collections that are
  journalled and acknowledging what is in force, its successor does as well. So it has no zombie.
* The collector is a function of the journal's entries, so it does not matter where a checkpoint cuts them.
  ``checkpoints`` = "free" makes a step of it; "eager" cuts as soon as it is allowed, which leaves far fewer states.
* Half edges do not expire: one that is left open when its partner was counted would have become a virtual edge.
* A frame given up by the client's gateway ("not counted") is not a message of its own: the gateway notices that nothing
  is under way.

Values and steps share this file so that the protocol can be read in one piece.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import NamedTuple, TypeVar

LEFT, RIGHT, WHOLE = 0, 1, 2
KEY_NAMES = ("0/2", "1/2", "0/1")
_HALVES = (0b01, 0b10, 0b11)
_HOST_OF = (0, 1, 0)
_LEFT_ROWS = 0b0101
_RIGHT_ROWS = 0b1010
_EDGE = (0b0001, 0b0100)

FIRST, AGAIN, REFUSED, DURABLE = (-4, 0), (-3, 0), (-2, 0), (-1, 0)
"""Instead of a place: a frame that waits for the first answer, that is replayed, that failed, that is journalled."""

NEW, WAITING, ACKNOWLEDGED, GAVE_UP = range(4)


@dataclass(frozen=True)
class Faults:
    """What a careless implementation would do; the model has to find out.

    Those after ``successor_without_mirror`` are of our own finding.
    """

    acknowledges_before_journal: bool = False
    applies_before_journal: bool = False
    no_fingerprints: bool = False
    no_fingerprints_in_record: bool = False
    epoch_is_not_checked: bool = False
    gateway_drops_accepted: bool = False
    replays_without_fingerprint: bool = False
    answers_claim_before_journal: bool = False
    successor_without_mirror: bool = False
    checkpoint_drops_collection: bool = False
    claimant_is_not_released: bool = False
    release_is_given_up: bool = False
    release_does_not_bind: bool = False
    fingerprint_without_range: bool = False
    takes_rows_beyond_its_range: bool = False


@dataclass(frozen=True)
class Configuration:
    """What is explored.

    Attributes:
        before, after: the keys that gateways send to, at first and after they have seen the new settings.
        halves: of the hash range that have rows.
        is_durable: mode of acknowledgement.
        tries: how often a client sends a request.
        crashes: of any process, in one run.
        network_faults: messages lost, duplicated, given up or read late, in one run.
        collections: in one run.
        has_zombies: whether a crashed host's process goes on.
        is_begun: whether the keys of ``before`` are claimed already.
        checkpoints: "eager" or "free".
        crashing: which processes may crash.
        has_ledger: whether duplicates are counted.
    """

    requests: int = 2
    gateways: int = 2
    before: tuple[int, ...] = (LEFT, RIGHT)
    after: tuple[int, ...] = ()
    halves: int = 0b11
    is_durable: bool = False
    tries: int = 2
    crashes: int = 1
    network_faults: int = 0
    collections: int = 0
    has_zombies: bool = True
    is_begun: bool = True
    checkpoints: str = "eager"
    crashing: tuple[str, ...] = ("gateway", "host", "collector")
    has_ledger: bool = False
    faults: Faults = Faults()


class Client(NamedTuple):
    """Who sends one request, where it waits, and how often it may still send it."""

    phase: int
    gateway: int
    tries: int


class Retained(NamedTuple):
    """A frame that a gateway keeps: the key it was made for, the key it was sent to, the place of its record."""

    made_for: int
    key: int
    place: tuple[int, int]


class Gateway(NamedTuple):
    """Its frames by request, and whether it has seen the settings of after."""

    requests: tuple[tuple[Retained, ...], ...]
    is_rescaled: bool
    was_used: bool


class Counts(NamedTuple):
    """Rows counted, those counted more than once, edges counted, rows told to be duplicates."""

    once: int = 0
    twice: int = 0
    edges: int = 0
    duplicates: int = 0


class Record(NamedTuple):
    """A flush record: counts and fingerprints since the last one, and the half edges that are open now."""

    sequence: int
    counts: Counts
    fingerprints: int
    open_halves: int


class Shard(NamedTuple):
    """A shard in a host's memory. ``outbox``: what is flushed and not acknowledged."""

    epoch: int
    fingerprints: int
    open_halves: int
    fresh: Counts = Counts()
    fresh_fingerprints: int = 0
    posted: int = 0
    acknowledged: int = 0
    outbox: tuple[Record, ...] = ()
    is_released: bool = False


class Host(NamedTuple):
    """Shards by key, and the claim under way: (key, number of the claim). ``void``: epochs of the claimed key up to
    this one were released before they began.
    """

    shards: tuple[Shard | None, ...]
    claim: tuple[int, int] | None
    claims: int
    void: int = 0


class Owner(NamedTuple):
    """Of a key: its epoch, and the last record in force."""

    epoch: int
    sequence: int


class Entry(NamedTuple):
    """Of the journal. ``kind``: record, claim, collect."""

    kind: str
    key: int
    epoch: int
    record: Record | None = None
    number: int = 0


class Tenant(NamedTuple):
    """The collector's state machine: registry, mirror, owners."""

    counts: Counts
    fingerprints: int
    open_halves: int
    owners: tuple[Owner | None, ...]
    last_epoch: int
    collections: int


class Claiming(NamedTuple):
    """A claim that the collector works on; ``asked``: owners, as (key, epoch), still to be asked for their records."""

    key: int
    number: int
    asked: tuple[tuple[int, int], ...]
    is_submitted: bool


class Collector(NamedTuple):
    """Its memory. ``committed``: how many entries at the end of the journal are not in force yet."""

    tenant: Tenant
    pending: tuple[Entry, ...]
    committed: int
    claiming: Claiming | None
    undelivered: tuple[tuple[int, Counts], ...]
    is_collecting: bool


class Journal(NamedTuple):
    """What outlives the collector."""

    checkpoint: Tenant
    entries: tuple[Entry, ...]


class Frame(NamedTuple):
    """A message from gateway to host. ``is_waiting``: it came, and the host claims the key for it."""

    gateway: int
    request: int
    made_for: int
    key: int
    has_fingerprint: bool
    is_waiting: bool = False


class Placed(NamedTuple):
    """The answer to a frame."""

    gateway: int
    request: int
    made_for: int
    key: int
    place: tuple[int, int]


class Claim(NamedTuple):
    """A message from host to collector."""

    host: int
    key: int
    number: int
    is_claim: bool = True


class Claimed(NamedTuple):
    """The answer to a claim."""

    host: int
    key: int
    number: int
    epoch: int
    fingerprints: int
    open_halves: int


Message = Frame | Placed | Claim | Claimed


class State(NamedTuple):
    """Of everything."""

    clients: tuple[Client, ...]
    gateways: tuple[Gateway, ...]
    hosts: tuple[Host, ...]
    zombies: tuple[tuple[Shard | None, ...], ...]
    network: frozenset[Message]
    collector: Collector
    journal: Journal
    samples: frozenset[tuple[int, Counts]]
    endpoint: frozenset[tuple[int, Counts]]
    crashes: int
    network_faults: int


class Step(NamedTuple):
    """What happened, and whether it need not happen: a crash, a fault of the network."""

    text: str
    arguments: tuple[object, ...]
    is_fault: bool = False

    def __str__(self) -> str:
        return self.text.format(*self.arguments)


_T = TypeVar("_T")

Steps = Iterator[tuple[Step, State]]

_NO_SHARDS: tuple[Shard | None, ...] = (None, None, None)


def rows(request: int, key: int) -> int:
    """Return the rows of a request in the range of a key."""
    return _HALVES[key] << (2 * request)


def rows_of_key(key: int) -> int:
    """Return the rows of all requests in the range of a key."""
    return (_LEFT_ROWS, _RIGHT_ROWS, _LEFT_ROWS | _RIGHT_ROWS)[key]


def overlap(key: int, other: int) -> bool:
    """Whether two keys have a hash in common."""
    return bool(_HALVES[key] & _HALVES[other])


def put(values: tuple[_T, ...], at: int, value: _T) -> tuple[_T, ...]:
    """Return the tuple with one value replaced."""
    return (*values[:at], value, *values[at + 1 :])


def begin(configuration: Configuration) -> State:
    """Return the first state."""
    owners: tuple[Owner | None, ...] = (None, None, None)
    hosts = [Host(_NO_SHARDS, None, 0), Host(_NO_SHARDS, None, 0)]
    epoch = 0
    if configuration.is_begun:
        for key in configuration.before:
            epoch += 1
            owners = put(owners, key, Owner(epoch, 0))
            host = hosts[_HOST_OF[key]]
            hosts[_HOST_OF[key]] = host._replace(shards=put(host.shards, key, Shard(epoch, 0, 0)))
    tenant = Tenant(Counts(), 0, 0, owners, epoch, 0)
    no_requests: tuple[tuple[Retained, ...], ...] = ((),) * configuration.requests
    return State(
        clients=(Client(NEW, 0, configuration.tries),) * configuration.requests,
        gateways=(Gateway(no_requests, False, False),) * configuration.gateways,
        hosts=tuple(hosts),
        zombies=(_NO_SHARDS, _NO_SHARDS),
        network=frozenset(),
        collector=Collector(tenant, (), 0, None, (), False),
        journal=Journal(tenant, ()),
        samples=frozenset(),
        endpoint=frozenset(),
        crashes=configuration.crashes,
        network_faults=configuration.network_faults,
    )


def add(counts: Counts, other: Counts) -> Counts:
    """Return the sum."""
    return Counts(
        counts.once | other.once,
        counts.twice | other.twice | counts.once & other.once,
        counts.edges + other.edges,
        counts.duplicates | other.duplicates,
    )


def renumber(state: State) -> State:
    """Give the epochs and the numbers of claims that are still in use the least numbers, in the same order.

    Only their order is ever looked at. Two keys of different counts may take the range from each other without end:
    with growing numbers there would be no end of states.
    """
    collector, journal = state.collector, state.journal
    tenants = (collector.tenant, journal.checkpoint)
    shards = [shard for shards in (*(host.shards for host in state.hosts), *state.zombies) for shard in shards if shard]
    entries = [entry for entry in collector.pending + journal.entries if entry.kind != "collect"]
    retained = [frame for gateway in state.gateways for frames in gateway.requests for frame in frames]
    epochs = {tenant.last_epoch for tenant in tenants}
    epochs |= {owner.epoch for tenant in tenants for owner in tenant.owners if owner}
    epochs |= {shard.epoch for shard in shards} | {entry.epoch for entry in entries}
    epochs |= {host.void for host in state.hosts}
    epochs |= {frame.place[0] for frame in retained}
    epochs |= {message.place[0] for message in state.network if type(message) is Placed}
    epochs |= {message.epoch for message in state.network if type(message) is Claimed}
    if collector.claiming is not None:
        epochs |= {epoch for _, epoch in collector.claiming.asked}
    # What is not above 0 is no epoch.
    new = {epoch: min(epoch, 0) for epoch in epochs}
    new |= {epoch: rank for rank, epoch in enumerate(sorted(epoch for epoch in epochs if epoch > 0), 1)}
    numbers = {host.claim[1] for host in state.hosts if host.claim}
    numbers |= {message.number for message in state.network if isinstance(message, Claim | Claimed)}
    numbers |= {entry.number for entry in entries if entry.kind == "claim"}
    if collector.claiming is not None:
        numbers.add(collector.claiming.number)
    rank_of = {number: rank for rank, number in enumerate(sorted(numbers), 1)}

    def of_shards(shards: tuple[Shard | None, ...]) -> tuple[Shard | None, ...]:
        renumbered = tuple(shard and shard._replace(epoch=new[shard.epoch]) for shard in shards)
        return _NO_SHARDS if renumbered == _NO_SHARDS else renumbered

    def of_host(host: Host) -> Host:
        claim = host.claim and (host.claim[0], rank_of[host.claim[1]])
        return Host(of_shards(host.shards), claim, len(rank_of), new[host.void])

    def of_tenant(tenant: Tenant) -> Tenant:
        owners = tuple(owner and owner._replace(epoch=new[owner.epoch]) for owner in tenant.owners)
        return tenant._replace(owners=owners, last_epoch=new[tenant.last_epoch])

    def of_entry(entry: Entry) -> Entry:
        if entry.kind == "collect":
            return entry
        number = rank_of[entry.number] if entry.kind == "claim" else 0
        return entry._replace(epoch=new[entry.epoch], number=number)

    def of_message(message: Message) -> Message:
        match message:
            case Placed():
                return message._replace(place=(new[message.place[0]], message.place[1]))
            case Claim():
                return message._replace(number=rank_of[message.number])
            case Claimed():
                return message._replace(number=rank_of[message.number], epoch=new[message.epoch])
        return message

    def of_gateway(gateway: Gateway) -> Gateway:
        return gateway._replace(
            requests=tuple(
                tuple(sorted(frame._replace(place=(new[frame.place[0]], frame.place[1])) for frame in frames))
                for frames in gateway.requests
            )
        )

    claiming = collector.claiming and collector.claiming._replace(
        number=rank_of[collector.claiming.number],
        asked=tuple((key, new[epoch]) for key, epoch in collector.claiming.asked),
    )
    return state._replace(
        gateways=tuple(map(of_gateway, state.gateways)),
        hosts=tuple(map(of_host, state.hosts)),
        zombies=tuple(map(of_shards, state.zombies)),
        network=frozenset(map(of_message, state.network)),
        collector=collector._replace(
            tenant=of_tenant(collector.tenant), pending=tuple(map(of_entry, collector.pending)), claiming=claiming
        ),
        journal=Journal(of_tenant(journal.checkpoint), tuple(map(of_entry, journal.entries))),
    )


class Model:
    """The steps that are possible in a state."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._faults = configuration.faults
        self._rows = sum(
            rows(request, key)
            for request in range(configuration.requests)
            for key in (LEFT, RIGHT)
            if _HALVES[key] & configuration.halves
        )

    def steps(self, state: State) -> Steps:
        """Yield every step, with the state after it."""
        yield from self._client_steps(state)
        yield from self._gateway_steps(state)
        for number in range(len(state.hosts)):
            yield from self._host_steps(state, number)
        yield from self._network_steps(state)
        yield from self._collector_steps(state)
        yield from self._collection_steps(state)
        if state.crashes:
            yield from self._crashes(state._replace(crashes=state.crashes - 1))

    # Clients

    def _client_steps(self, state: State) -> Steps:
        for request, client in enumerate(state.clients):
            if client.phase == NEW:
                yield from self._sends(state, request, client)
            elif client.phase == WAITING:
                frames = state.gateways[client.gateway].requests[request]
                if self._is_settled(frames):
                    acknowledged = self._with_client(state, request, client._replace(phase=ACKNOWLEDGED))
                    yield Step("gateway {} acknowledges request {}", (client.gateway, request)), acknowledged
                refused = not frames or any(frame.place == REFUSED for frame in frames)
                if refused or state.network_faults:
                    again = client._replace(phase=NEW if client.tries else GAVE_UP)
                    after = self._with_client(state, request, again)
                    if refused:
                        yield Step("client of request {} hears that it failed", (request,)), after
                    else:
                        after = after._replace(network_faults=state.network_faults - 1)
                        yield Step("client of request {} loses patience", (request,), True), after

    def _sends(self, state: State, request: int, client: Client) -> Steps:
        is_first_fresh = True
        for number, gateway in enumerate(state.gateways):
            if not gateway.was_used:
                if not is_first_fresh:
                    continue
                is_first_fresh = False
            network = set(state.network)
            frames = {(frame.made_for, frame.key): frame for frame in gateway.requests[request]}
            for key in self._keys(gateway):
                known = frames.get((key, key))
                if known is None or known.place == REFUSED:
                    frames[key, key] = Retained(key, key, FIRST)
                    network.add(Frame(number, request, key, key, not self._faults.no_fingerprints))
            after = state._replace(
                clients=put(state.clients, request, Client(WAITING, number, client.tries - 1)),
                network=frozenset(network),
                gateways=put(state.gateways, number, gateway._replace(was_used=True)),
            )
            after = self._with_frames(after, number, request, frames.values())
            yield Step("client sends request {} to gateway {}", (request, number)), after

    def _is_settled(self, frames: tuple[Retained, ...]) -> bool:
        if self._configuration.is_durable:
            return bool(frames) and all(frame.place == DURABLE for frame in frames)
        return bool(frames) and all(frame.place not in (FIRST, REFUSED) for frame in frames)

    def _with_client(self, state: State, request: int, client: Client) -> State:
        state = state._replace(clients=put(state.clients, request, client))
        return self._with_frames(state, client.gateway, request, state.gateways[client.gateway].requests[request])

    # Gateways

    def _keys(self, gateway: Gateway) -> tuple[int, ...]:
        return self._configuration.after if gateway.is_rescaled else self._configuration.before

    def _with_frames(self, state: State, number: int, request: int, frames: Iterable[Retained]) -> State:
        """Let the gateway keep these frames of a request; those that are settled only as long as the client waits."""
        client = state.clients[request]
        is_awaited = client.phase == WAITING and client.gateway == number
        kept = tuple(sorted(frame for frame in frames if is_awaited or frame.place not in (REFUSED, DURABLE)))
        gateway = state.gateways[number]
        gateway = gateway._replace(requests=put(gateway.requests, request, kept))
        return state._replace(gateways=put(state.gateways, number, gateway))

    def _with_frame(self, state: State, number: int, request: int, old: Retained, place: tuple[int, int]) -> State:
        frames = state.gateways[number].requests[request]
        new = [old._replace(place=place) if frame is old else frame for frame in frames]
        return self._with_frames(state, number, request, new)

    def _gateway_steps(self, state: State) -> Steps:
        for number, gateway in enumerate(state.gateways):
            if self._configuration.after and not gateway.is_rescaled:
                rescaled = gateway._replace(is_rescaled=True)
                after = state._replace(gateways=put(state.gateways, number, rescaled))
                yield Step("gateway {} sees the new keys", (number,)), after
            for request, frames in enumerate(gateway.requests):
                for frame in frames:
                    if frame.place in (FIRST, AGAIN):
                        yield from self._waits(state, number, request, frame)
                    elif frame.place not in (REFUSED, DURABLE):
                        yield from self._polls(state, number, request, frame)

    def _waits(self, state: State, number: int, request: int, frame: Retained) -> Steps:
        about = (number, request, frame.made_for, frame.key)
        is_under_way = any(message[:4] == about for message in state.network)
        if frame.place == AGAIN:
            if not is_under_way:
                message = Frame(*about, self._replays_with_fingerprint)
                after = state._replace(network=state.network | {message})
                yield (
                    Step("gateway {} sends the frame of request {} to {} again", self._named(number, request, frame)),
                    after,
                )
        elif not is_under_way or state.network_faults:
            # An answer to a call that was given up is not heard.
            network = frozenset(
                message for message in state.network if not (type(message) is Placed and message[:4] == about)
            )
            after = self._with_frame(state._replace(network=network), number, request, frame, REFUSED)
            if is_under_way:
                after = after._replace(network_faults=state.network_faults - 1)
            yield (
                Step(
                    "gateway {} gives up the frame of request {} to {}",
                    self._named(number, request, frame),
                    is_under_way,
                ),
                after,
            )

    @staticmethod
    def _named(number: int, request: int, frame: Retained | Frame) -> tuple[object, ...]:
        return number, request, KEY_NAMES[frame.key]

    @property
    def _replays_with_fingerprint(self) -> bool:
        return not (self._faults.no_fingerprints or self._faults.replays_without_fingerprint)

    def _polls(self, state: State, number: int, request: int, frame: Retained) -> Steps:
        epoch, sequence = frame.place
        is_lost = False
        host = _HOST_OF[frame.key]
        processes = [state.hosts[host].shards]
        if state.zombies[host] is not _NO_SHARDS:
            processes.append(state.zombies[host])
        for shards in processes:
            shard = shards[frame.key]
            if shard is None or shard.epoch > epoch:
                is_lost = True
            elif shard.epoch == epoch and shard.acknowledged >= sequence:
                after = self._with_frame(state, number, request, frame, DURABLE)
                yield (
                    Step("gateway {} hears that request {} is durable at {}", self._named(number, request, frame)),
                    after,
                )
        if is_lost or state.network_faults:
            after = self._replays(state, number, request, frame)
            if not is_lost:
                after = after._replace(network_faults=state.network_faults - 1)
            text = "gateway {} replays the frame of request {} to {}" + ("" if is_lost else " (stale poll)")
            yield Step(text, self._named(number, request, frame), not is_lost), after

    def _replays(self, state: State, number: int, request: int, lost: Retained) -> State:
        gateway = state.gateways[number]
        network = set(state.network)
        frames = {(frame.made_for, frame.key): frame for frame in gateway.requests[request] if frame is not lost}
        for key in self._keys(gateway):
            if overlap(key, lost.made_for) and (lost.made_for, key) not in frames:
                frames[lost.made_for, key] = Retained(lost.made_for, key, AGAIN)
                network.add(Frame(number, request, lost.made_for, key, self._replays_with_fingerprint))
        state = state._replace(network=frozenset(network))
        return self._with_frames(state, number, request, frames.values())

    # Shard hosts

    def _host_steps(self, state: State, number: int) -> Steps:
        host = state.hosts[number]
        for is_zombie, shards in ((False, host.shards), (True, state.zombies[number])):
            name = f"{'zombie' if is_zombie else 'host'} {number}"
            for key, shard in enumerate(shards):
                if shard is not None:
                    for step, after in self._shard_steps(state, name, key, shard):
                        yield step, self._with_shard(state, number, is_zombie, key, after)
        if state.zombies[number] is not _NO_SHARDS:
            after_zombie = state._replace(zombies=put(state.zombies, number, _NO_SHARDS))
            yield Step("zombie {} ends", (number,)), after_zombie
        if host.claim is not None:
            yield from self._gives_up_claim(state, number, host.claim)
            return
        frames = [message for message in state.network if type(message) is Frame and _HOST_OF[message.key] == number]
        for key in {frame.key for frame in frames if not frame.is_waiting}:
            shard = host.shards[key]
            if shard is None or shard.is_released:
                claiming = host._replace(claim=(key, host.claims + 1), claims=host.claims + 1)
                came = {frame for frame in frames if frame.key == key}
                waiting = {frame._replace(is_waiting=True) for frame in came}
                network = state.network - came | waiting | {Claim(number, key, claiming.claims)}
                after_host = state._replace(hosts=put(state.hosts, number, claiming), network=network)
                yield Step("host {} claims {}", (number, KEY_NAMES[key])), after_host

    def _with_shard(self, state: State, number: int, is_zombie: bool, key: int, shard: Shard | None) -> State:
        if is_zombie:
            shards = put(state.zombies[number], key, shard)
            return state._replace(zombies=put(state.zombies, number, _NO_SHARDS if shards == _NO_SHARDS else shards))
        host = state.hosts[number]
        return state._replace(hosts=put(state.hosts, number, host._replace(shards=put(host.shards, key, shard))))

    def _shard_steps(self, state: State, name: str, key: int, shard: Shard) -> Iterator[tuple[Step, Shard | None]]:
        about = (name, KEY_NAMES[key])
        collector = state.collector
        owner = collector.tenant.owners[key]
        if shard.fresh.once and not shard.is_released:
            yield Step("{} flushes {}", about), self._flushed(shard)
        if owner is not None and owner.epoch == shard.epoch:
            sequence = owner.sequence
            if self._faults.acknowledges_before_journal:
                pending = [
                    entry.record.sequence for entry in collector.pending if entry.record and entry.epoch == owner.epoch
                ]
                sequence = max([sequence, *pending])
            if sequence > shard.acknowledged:
                waiting = tuple(record for record in shard.outbox if record.sequence > sequence)
                yield (
                    Step("{} hears that {} is acknowledged up to {}", (*about, sequence)),
                    shard._replace(acknowledged=sequence, outbox=waiting),
                )
        elif shard.outbox and collector.claiming is None:
            yield Step("{} hears that {} is fenced", about), None

    def _flushed(self, shard: Shard) -> Shard:
        if not shard.fresh.once:
            return shard
        fingerprints = 0 if self._faults.no_fingerprints_in_record else shard.fresh_fingerprints
        record = Record(shard.posted + 1, shard.fresh, fingerprints, shard.open_halves)
        return shard._replace(
            fresh=Counts(), fresh_fingerprints=0, posted=record.sequence, outbox=(*shard.outbox, record)
        )

    def _gives_up_claim(self, state: State, number: int, claim: tuple[int, int]) -> Steps:
        claiming = state.collector.claiming
        is_under_way = any(
            type(message) in (Claim, Claimed) and message[:3] == (number, *claim) for message in state.network
        ) or (claiming is not None and (claiming.key, claiming.number) == claim)
        if is_under_way and not state.network_faults:
            return
        after = self._without_claim(state, number)
        if is_under_way:
            after = after._replace(network_faults=state.network_faults - 1)
        yield Step("host {} gives up its claim", (number,), is_under_way), after

    @staticmethod
    def _without_claim(state: State, number: int) -> State:
        network = frozenset(m for m in state.network if not (type(m) is Claimed and m.host == number))
        host = state.hosts[number]._replace(claim=None, void=0)
        return state._replace(hosts=put(state.hosts, number, host), network=network)

    def _applied(self, shard: Shard, key: int, frame: Frame) -> tuple[Shard, tuple[int, int]]:
        """Apply a frame; return the shard, and the place of the record that holds the frame or will hold it."""
        has_own = rows(frame.request, frame.made_for) & self._rows
        if not self._faults.takes_rows_beyond_its_range:
            has_own &= rows_of_key(key)
        new = has_own & ~shard.fingerprints if frame.has_fingerprint else has_own
        told = has_own & ~new if self._configuration.has_ledger else 0
        edges, open_halves = 0, shard.open_halves
        for half, row in enumerate(_EDGE):
            if new & row:
                other = 1 << (1 - half)
                edges += bool(open_halves & other)
                open_halves = open_halves & ~other if open_halves & other else open_halves | 1 << half
        remembered = new if frame.has_fingerprint else 0
        if self._faults.fingerprint_without_range and remembered:
            remembered = rows(frame.request, WHOLE)
        shard = shard._replace(
            fingerprints=shard.fingerprints | remembered,
            open_halves=open_halves,
            fresh=add(shard.fresh, Counts(new, 0, edges, told)),
            fresh_fingerprints=shard.fresh_fingerprints | remembered,
        )
        return shard, (shard.epoch, shard.posted + bool(shard.fresh.once))

    # Network

    def _network_steps(self, state: State) -> Steps:
        for message in state.network:
            delivered = state._replace(network=state.network - {message})
            fewer = state._replace(network_faults=state.network_faults - 1)
            match message:
                case Frame():
                    about = self._named(message.gateway, message.request, message)
                    yield from self._frame_arrives(delivered, message, "", False)
                    if state.network_faults:
                        yield from self._frame_arrives(fewer, message, " (and once more)", True)
                        yield (
                            Step("frame from gateway {} of request {} to {} is lost", about, True),
                            fewer._replace(network=delivered.network),
                        )
                case Placed():
                    yield from self._answer_arrives(delivered, message)
                case Claim():
                    yield from self._claim_arrives(delivered, message, "", False)
                    if state.network_faults:
                        yield from self._claim_arrives(fewer, message, " (and once more)", True)
                case Claimed():
                    yield from self._grant_arrives(delivered, message)
            if state.network_faults and type(message) is not Frame:
                lost = fewer._replace(network=delivered.network)
                yield Step("{} is lost", (message,), True), lost

    def _frame_arrives(self, state: State, frame: Frame, remark: str, is_fault: bool) -> Steps:
        number = _HOST_OF[frame.key]
        host = state.hosts[number]
        own = host.shards[frame.key]
        is_here = own is not None and not own.is_released
        if frame.is_waiting and not is_here and (host.claim is None or host.claim[0] != frame.key):
            # One claim for one call: what cannot be counted then is for the gateway to send again.
            whose = (number, frame.request, frame.gateway, KEY_NAMES[frame.key])
            yield Step("host {} cannot count request {} from gateway {} for {}" + remark, whose, is_fault), state
        for is_zombie, shards in ((False, state.hosts[number].shards), (True, state.zombies[number])):
            shard = shards[frame.key]
            if shard is None or shard.is_released:
                continue
            shard, place = self._applied(shard, frame.key, frame)
            after = self._with_shard(state, number, is_zombie, frame.key, shard)
            about = frame[:4]
            for retained in state.gateways[frame.gateway].requests[frame.request]:
                if (retained.made_for, retained.key) == about[2:] and retained.place in (FIRST, AGAIN):
                    after = after._replace(network=after.network | {Placed(*about, place)})
            name = f"{'zombie' if is_zombie else 'host'} {number}"
            text = "{} takes the frame of request {} from gateway {} for {}, to be in {}" + remark
            yield Step(text, (name, frame.request, frame.gateway, KEY_NAMES[frame.key], place), is_fault), after

    def _answer_arrives(self, state: State, answer: Placed) -> Steps:
        number, request, made_for, key, place = answer
        for frame in state.gateways[number].requests[request]:
            if (frame.made_for, frame.key) == (made_for, key) and frame.place in (FIRST, AGAIN):
                kept = DURABLE if self._faults.gateway_drops_accepted else place
                state = self._with_frame(state, number, request, frame, kept)
                break
        yield (
            Step("gateway {} hears that request {} is counted at {} in {}", (number, request, KEY_NAMES[key], place)),
            state,
        )

    def _claim_arrives(self, state: State, claim: Claim, remark: str, is_fault: bool) -> Steps:
        collector = state.collector
        if collector.claiming is not None or collector.is_collecting:
            return
        asked = tuple(
            (key, owner.epoch)
            for key, owner in enumerate(collector.tenant.owners)
            if owner is not None
            and overlap(key, claim.key)
            and not (self._faults.claimant_is_not_released and key == claim.key)
        )
        collector = collector._replace(claiming=Claiming(claim.key, claim.number, asked, False))
        text = "collector takes the claim for {}" + remark
        yield Step(text, (KEY_NAMES[claim.key],), is_fault), state._replace(collector=collector)

    def _grant_arrives(self, state: State, grant: Claimed) -> Steps:
        host = state.hosts[grant.host]
        if host.claim == (grant.key, grant.number):
            if grant.epoch > host.void:
                shard = Shard(grant.epoch, grant.fingerprints, grant.open_halves)
                host = host._replace(shards=put(host.shards, grant.key, shard))
            state = state._replace(hosts=put(state.hosts, grant.host, host._replace(claim=None, void=0)))
        yield Step("host {} is granted {} in epoch {}", (grant.host, KEY_NAMES[grant.key], grant.epoch)), state

    # Collector

    def _collector_steps(self, state: State) -> Steps:
        collector, journal = state.collector, state.journal
        if collector.claiming is not None:
            yield from self._claiming_steps(state, collector, collector.claiming)
        elif not collector.is_collecting:
            yield from self._pulls(state)
        if collector.pending and not collector.committed:
            after = state._replace(
                collector=collector._replace(pending=(), committed=len(collector.pending)),
                journal=journal._replace(entries=journal.entries + collector.pending),
            )
            yield Step("collector commits {} entries", (len(collector.pending),)), after
        if collector.committed:
            yield Step("collector puts {} entries in force", (collector.committed,)), self._in_force(state)
        if self._configuration.checkpoints == "free" and journal.entries and not collector.committed:
            cut = self._checkpointed(state)
            if cut is not state:
                yield Step("collector writes a checkpoint", ()), cut

    def _pulls(self, state: State) -> Steps:
        for number, host in enumerate(state.hosts):
            for is_zombie, shards in ((False, host.shards), (True, state.zombies[number])):
                name = f"{'zombie' if is_zombie else 'host'} {number}"
                for key, shard in enumerate(shards):
                    if shard is None or not shard.outbox:
                        continue
                    new, repeated = self._wanted(state, key, shard)
                    if new:
                        yield Step("collector pulls {} from {}", (KEY_NAMES[key], name)), self._submitted(state, new)
                    elif repeated and state.network_faults:
                        after = self._submitted(state, repeated)._replace(network_faults=state.network_faults - 1)
                        yield Step("collector pulls {} from {} twice", (KEY_NAMES[key], name), True), after

    def _wanted(self, state: State, key: int, shard: Shard) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """Return the entries of the records that are to be journalled, and of those that are on their way to be."""
        collector = state.collector
        owner = collector.tenant.owners[key]
        if owner is None or (owner.epoch != shard.epoch and not self._faults.epoch_is_not_checked):
            return (), ()
        under_way = collector.pending
        if collector.committed:
            under_way += state.journal.entries[-collector.committed :]
        entries = [
            Entry("record", key, shard.epoch, record) for record in shard.outbox if record.sequence > owner.sequence
        ]
        return (
            tuple(entry for entry in entries if entry not in under_way),
            tuple(entry for entry in entries if under_way.count(entry) == 1),
        )

    def _submitted(self, state: State, entries: tuple[Entry, ...]) -> State:
        collector = state.collector
        if self._faults.applies_before_journal:
            collector = collector._replace(tenant=reduce(self._after_entry, entries, collector.tenant))
        return state._replace(collector=collector._replace(pending=collector.pending + entries))

    def _claiming_steps(self, state: State, collector: Collector, claiming: Claiming) -> Steps:
        if claiming.asked:
            (key, epoch), *rest = claiming.asked
            answered = state._replace(collector=collector._replace(claiming=claiming._replace(asked=tuple(rest))))
            number = _HOST_OF[key]
            for is_zombie, shards in ((False, state.hosts[number].shards), (True, state.zombies[number])):
                shard = shards[key]
                if shard is not None and shard.epoch == epoch:
                    shard = self._flushed(shard)._replace(is_released=True)
                    after = self._with_shard(answered, number, is_zombie, key, shard)
                    new, _ = self._wanted(state, key, shard)
                    name = f"{'zombie' if is_zombie else 'host'} {number}"
                    yield Step("{} releases {}", (name, KEY_NAMES[key])), self._submitted(after, new)
            host = state.hosts[number]
            current = host.shards[key]
            if current is None or current.epoch != epoch:
                after = answered
                if host.claim is not None and host.claim[0] == key and not self._faults.release_does_not_bind:
                    after = after._replace(hosts=put(after.hosts, number, host._replace(void=max(host.void, epoch))))
                yield Step("host {} has no {} of epoch {} to release", (number, KEY_NAMES[key], epoch)), after
            elif self._faults.release_is_given_up and state.network_faults:
                after = answered._replace(network_faults=state.network_faults - 1)
                yield Step("release of {} is lost, and the claim goes on", (KEY_NAMES[key],), True), after
        elif not (claiming.is_submitted or collector.pending or collector.committed):
            entry = Entry("claim", claiming.key, collector.tenant.last_epoch + 1, None, claiming.number)
            after = state._replace(
                collector=collector._replace(claiming=claiming._replace(is_submitted=True), pending=(entry,))
            )
            if self._faults.answers_claim_before_journal:
                after = self._granted(after, entry)
            yield Step("collector submits the claim for {}", (KEY_NAMES[claiming.key],)), after

    def _granted(self, state: State, entry: Entry) -> State:
        host = _HOST_OF[entry.key]
        if state.hosts[host].claim != (entry.key, entry.number):
            return state
        tenant = state.collector.tenant
        fingerprints, open_halves = tenant.fingerprints & rows_of_key(entry.key), 0
        if self._faults.fingerprint_without_range:
            fingerprints = tenant.fingerprints
        if overlap(entry.key, LEFT):
            open_halves = tenant.open_halves
        if self._faults.successor_without_mirror:
            fingerprints = open_halves = 0
        grant = Claimed(host, entry.key, entry.number, entry.epoch, fingerprints, open_halves)
        return state._replace(network=state.network | {grant})

    def _in_force(self, state: State) -> State:
        """Put in force what is committed."""
        collector, journal = state.collector, state.journal
        entries = journal.entries[-collector.committed :]
        tenant, undelivered = collector.tenant, collector.undelivered
        for entry in entries:
            if not (self._faults.applies_before_journal and entry.kind != "claim"):
                tenant = self._after_entry(tenant, entry)
                if entry.kind == "collect":
                    undelivered = (*undelivered, (entry.number, tenant.counts))
        kinds = {entry.kind for entry in entries}
        state = state._replace(
            collector=collector._replace(
                tenant=tenant,
                committed=0,
                claiming=None if "claim" in kinds else collector.claiming,
                undelivered=undelivered,
                is_collecting=collector.is_collecting and "collect" not in kinds,
            )
        )
        if "claim" in kinds and not self._faults.answers_claim_before_journal:
            state = self._granted(state, entries[-1])
        if self._configuration.checkpoints == "eager":
            state = self._checkpointed(state)
        return renumber(state) if "claim" in kinds and self._configuration.after else state

    def _after_entry(self, tenant: Tenant, entry: Entry) -> Tenant:
        """Return the state of the tenant after an entry of the journal."""
        key, epoch, record = entry.key, entry.epoch, entry.record
        if entry.kind == "collect":
            return tenant._replace(collections=entry.number)
        if record is None:
            owners = tuple(None if overlap(key, other) else owner for other, owner in enumerate(tenant.owners))
            return tenant._replace(owners=put(owners, key, Owner(epoch, 0)), last_epoch=epoch)
        owner = tenant.owners[key]
        if owner is None or record.sequence != owner.sequence + 1:
            return tenant
        if owner.epoch != epoch and not self._faults.epoch_is_not_checked:
            return tenant
        return tenant._replace(
            counts=add(tenant.counts, record.counts),
            fingerprints=tenant.fingerprints | record.fingerprints,
            open_halves=record.open_halves if overlap(key, LEFT) else tenant.open_halves,
            owners=put(tenant.owners, key, owner._replace(sequence=record.sequence)),
        )

    def _checkpointed(self, state: State) -> State:
        """Replace what is in force by a checkpoint, unless a collection would have to be encoded again."""
        collector, journal = state.collector, state.journal
        if collector.undelivered and not self._faults.checkpoint_drops_collection:
            return state
        cut = len(journal.entries) - collector.committed
        checkpoint = reduce(self._after_entry, journal.entries[:cut], journal.checkpoint)
        return state._replace(journal=Journal(checkpoint, journal.entries[cut:]))

    # Collections

    def _collection_steps(self, state: State) -> Steps:
        collector = state.collector
        number = collector.tenant.collections + 1
        if number <= self._configuration.collections and collector.claiming is None and not collector.is_collecting:
            entry = Entry("collect", WHOLE, 0, None, number)
            after = self._submitted(state, (entry,))
            collecting = after.collector._replace(is_collecting=True)
            if self._faults.applies_before_journal:
                sent = (*collecting.undelivered, (number, collecting.tenant.counts))
                collecting = collecting._replace(undelivered=sent)
            yield Step("collector begins collection {}", (number,)), after._replace(collector=collecting)
        for collection in collector.undelivered:
            if collection in state.endpoint:
                delivered = tuple(other for other in collector.undelivered if other != collection)
                after = state._replace(collector=collector._replace(undelivered=delivered))
                if self._configuration.checkpoints == "eager":
                    after = self._checkpointed(after)
                yield Step("collector hears that collection {} is delivered", collection[:1]), after
            elif collection not in state.samples:
                yield (
                    Step("collector sends collection {}", collection[:1]),
                    state._replace(samples=state.samples | {collection}),
                )
        for collection in state.samples:
            after = state._replace(samples=state.samples - {collection}, endpoint=state.endpoint | {collection})
            yield Step("collection {} arrives at the endpoint", collection[:1]), after

    # Crashes

    def _crashes(self, state: State) -> Steps:
        crashing = self._configuration.crashing
        if "gateway" in crashing:
            for number, gateway in enumerate(state.gateways):
                if any(gateway.requests):
                    yield Step("gateway {} crashes", (number,), True), self._without_gateway(state, number, gateway)
        if "host" in crashing:
            for number, host in enumerate(state.hosts):
                if host.shards != _NO_SHARDS or host.claim is not None:
                    after = self._without_claim(state, number)
                    fresh = after.hosts[number]._replace(shards=_NO_SHARDS)
                    zombie = host.shards if self._configuration.has_zombies else _NO_SHARDS
                    after = after._replace(
                        hosts=put(after.hosts, number, fresh), zombies=put(after.zombies, number, zombie)
                    )
                    yield Step("host {} crashes", (number,), True), after
        if "collector" in crashing:
            yield Step("collector crashes", (), True), self._recovered(state)

    @staticmethod
    def _without_gateway(state: State, number: int, gateway: Gateway) -> State:
        network = frozenset(m for m in state.network if not (type(m) is Placed and m.gateway == number))
        empty = gateway._replace(requests=((),) * len(gateway.requests))
        return state._replace(gateways=put(state.gateways, number, empty), network=network)

    def _recovered(self, state: State) -> State:
        tenant, undelivered = state.journal.checkpoint, []
        for entry in state.journal.entries:
            tenant = self._after_entry(tenant, entry)
            if entry.kind == "collect":
                undelivered.append((entry.number, tenant.counts))
        return state._replace(collector=Collector(tenant, (), 0, None, tuple(undelivered), False))

    # What must hold

    def violation(self, state: State) -> str | None:
        """Return what is wrong with a state that can never be right."""
        counts = state.collector.tenant.counts
        if counts.twice:
            return f"rows {counts.twice:b} are counted twice"
        if counts.edges > 1:
            return "an edge is counted twice"
        if counts.duplicates & ~counts.once:
            return f"rows {counts.duplicates & ~counts.once:b} are told to be duplicates of what is not counted"
        if len(state.endpoint) > 1:
            sent = sorted(state.endpoint)
            for (number, before), (next_number, after) in pairwise(sent):
                if number == next_number:
                    return f"collection {number} arrives with two values"
                if before.once & ~after.once or before.edges > after.edges:
                    return f"what was sent in collection {number} goes back in collection {next_number}"
        processes = [*(host.shards for host in state.hosts), *state.zombies]
        epochs = [shard.epoch for shards in processes for shard in shards if shard is not None]
        if len(set(epochs)) != len(epochs):
            return "two shards count in the same epoch"
        return None

    def final_violation(self, state: State) -> str | None:
        """Return what is wrong with a state in which nothing is left to do."""
        tenant = state.collector.tenant
        for request, client in enumerate(state.clients):
            if client.phase not in (ACKNOWLEDGED, GAVE_UP):
                return f"client of request {request} waits for ever"
            if client.phase == ACKNOWLEDGED and rows(request, WHOLE) & self._rows & ~tenant.counts.once:
                return f"request {request} was acknowledged, and rows of it are not counted"
        if state.network or any(any(gateway.requests) for gateway in state.gateways):
            return "a message or a frame waits for ever"
        if any(
            shard is not None and (shard.fresh.once or shard.outbox) for host in state.hosts for shard in host.shards
        ):
            return "a record waits for ever"
        is_whole = all(row & tenant.counts.once for row in _EDGE)
        if tenant.counts.edges != is_whole or (is_whole and tenant.open_halves):
            return "the edge is not counted once, or a half of it is left open"
        if {number for number, _ in state.endpoint} != set(range(1, tenant.collections + 1)):
            return "a collection never arrived"
        return None

"""What travels between a gateway, a shard and its tenant's collector, and the numbers that let it be counted once."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tenants.identity.tenant_id import TenantId


@dataclass(frozen=True, slots=True)
class ShardKey:
    """One hash range of one tenant.

    Attributes:
        tenant: whose range it is.
        index: which of the ``count`` equal ranges of the trace-ID hash.
        count: into how many the tenant was cut; shards of different counts are different shards.
    """

    tenant: TenantId
    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.tenant}/{self.index}of{self.count}"

    def overlaps(self, other: "ShardKey") -> bool:
        """Whether the two ranges, of one tenant, have a hash in common."""
        return (
            self.tenant == other.tenant
            and self.index * other.count < (other.index + 1) * self.count
            and other.index * self.count < (self.index + 1) * other.count
        )


class Place(NamedTuple):
    """A point in the life of a shard.

    Attributes:
        epoch: of its ownership; the collector chose it when the shard was claimed.
        sequence: number of a flush record within the epoch, from 1 on; 0 is before the first.
    """

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class FlushRecord:
    """Everything a shard counted between two flushes: applied once, or not at all.

    Attributes:
        key: the shard.
        place: epoch and sequence; sequences ascend by one, and resent records keep theirs.
        data: the engine's record.
    """

    key: ShardKey
    place: Place
    data: bytes = field(repr=False)


class Claimed(NamedTuple):
    """The right to count for a key, and what was known of it.

    Attributes:
        epoch: the ownership that begins; records and frames of earlier ones are void.
        state: what the engine's shard goes on with: open half edges, markers, fingerprints.
    """

    epoch: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Pulled:
    """A shard host's answer to a collector.

    Attributes:
        records: what is not acknowledged, each shard's in order; beyond a bound of bytes the next pull brings more.
        gone: shards that were acknowledged and are no more, with their epochs: nobody counts for them.
    """

    records: tuple[FlushRecord, ...]
    gone: tuple[tuple[ShardKey, int], ...] = ()


Acknowledgements = dict[ShardKey, Place]
"""The last record of each shard that is journalled."""

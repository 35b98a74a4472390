"""What travels from a shard to its tenant's collector: a record with the number that lets it be counted once."""

from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class FlushRecord:
    """Everything a shard counted between two flushes: applied once, or not at all.

    Attributes:
        key: the shard.
        sequence: ascending by one within the life of a shard, and above all numbers of a former shard of the same
            key in the same process; resent records keep theirs.
        data: the engine's record.
    """

    key: ShardKey
    sequence: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pulled:
    """A shard host's answer to a collector.

    Attributes:
        epoch: of the host process. Another epoch is another set of shards: sequences begin anew.
        records: what is not acknowledged, each shard's in order; beyond a bound of bytes the next pull brings more.
        gone: shards that were acknowledged and are no more: whatever is kept to read their records can go.
    """

    epoch: int
    records: tuple[FlushRecord, ...]
    gone: tuple[ShardKey, ...] = ()


Acknowledgements = dict[ShardKey, int]
"""The last sequence of each shard that the collector has merged."""

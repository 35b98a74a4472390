"""Batches of a registry that counts one span: real ones, for tests of what becomes of them."""

from tenants import _engine
from tenants.endpoint import Batch
from tenants.settings.protobuf_message import ProtobufMessage
from tests.unit.tenant_work import ACME, NOW_NS, book, group

NOW_MS = NOW_NS // 1_000_000


class SmallTenant:
    """Makes one batch after the other, each a second later than the last."""

    def __init__(self, *names: str) -> None:
        settings = book().get(ACME)
        shard = _engine.Shard(settings.plan)
        shard.apply(group(settings, *(names or ("op",)), count=1).payload, NOW_NS)
        self._registry = _engine.Registry(settings.plan, NOW_MS)
        self._registry.merge(0, shard.flush(NOW_NS), NOW_NS)
        self._now_ms = NOW_MS

    def batch(self, message: ProtobufMessage = ProtobufMessage.V2) -> Batch:
        """Collect."""
        self._now_ms += 1000
        (made,) = self._registry.collect(self._now_ms, [], 100_000, message.value)
        return Batch(made.body, made.samples, made.exemplars, made.series, self._now_ms, message)

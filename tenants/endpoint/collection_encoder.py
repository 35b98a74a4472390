"""From a tenant's registry to the batches of one collection, relabelled for each endpoint. Sends nothing."""

from tenants import _engine
from tenants.endpoint.batch import Batch
from tenants.endpoint.endpoint_settings import max_samples, relabellings
from tenants.settings.tenant_settings import TenantSettings

Encoded = dict[str, list[Batch]]
"""Batches by the text of the rules that made them; without rules an empty one."""


class CollectionEncoder:
    """Encodes collections of one tenant; keeps compiled rules from one to the next.

    Attributes:
        left_out: series that rules of endpoints made impossible to send, over all collections, by reason.
    """

    def __init__(self) -> None:
        self.left_out = dict.fromkeys(("collision", "without_name", "too_large"), 0)
        self._relabel: dict[str, _engine.Relabel | None] = {}

    def encode(self, registry: _engine.Registry, settings: TenantSettings, timestamp_ms: int) -> Encoded:
        """Collect all series with samples at ``timestamp_ms``. Blocks for as long as that takes."""
        texts = relabellings(settings)
        self._relabel = {text: self._relabel.get(text) or (_engine.Relabel(text) if text else None) for text in texts}
        encoded = registry.collect_each(
            timestamp_ms, list(settings.external_labels), max_samples(settings), list(self._relabel.values())
        )
        for _, left_out in encoded:
            for reason, count in left_out.items():
                self.left_out[reason] += count
        return {
            text: [_batch(written, timestamp_ms) for written in batches]
            for text, (batches, _) in zip(texts, encoded, strict=True)
        }


def _batch(written: _engine.WriteBatch, timestamp_ms: int) -> Batch:
    # A native histogram is a sample like any other: it can be lost, and is counted then.
    samples = written.samples + written.histograms
    return Batch(written.body, samples, written.exemplars, written.series, timestamp_ms)

"""Which message an endpoint is sent: Remote-Write 2.0, or 1.0 if it does not know that. Never retries or counts.

There is no way to ask. A receiver that knows only 1.0 answers 415 to a 2.0 message, or 400; or it takes it for an empty
message of its own and answers that all is well, having stored nothing (remote-write §1.6).
"""

import asyncio
from dataclasses import replace
from typing import Final

from tenants import _engine
from tenants.endpoint.batch import Batch
from tenants.endpoint.endpoint_access import Granted
from tenants.endpoint.exchange import Outcome, Verdict, exchange
from tenants.endpoint.surroundings import Surroundings
from tenants.settings.protobuf_message import ProtobufMessage

PROBE_AFTER_MS: Final = 6 * 3600 * 1000
"""How long a receiver is taken for one that does not know 2.0: it may be replaced, but each try costs it a request."""

V1, V2 = ProtobufMessage.V1, ProtobufMessage.V2
_MENDED_BY_PINNING = "set protobuf_message to auto or prometheus.WriteRequest"


class Negotiation:
    """What is known of one endpoint, for as long as the process lives.

    It begins with 2.0. It goes on with 1.0 after an answer that says 415, after 400 to the first 2.0 message, if 1.0 is
    taken instead, and after 2xx without a word of what was written; the batch in question is sent again as 1.0 at once,
    without what 1.0 cannot say: since when series count. After six hours 2.0 is tried again.

    An endpoint whose message is set is never sent another, but for batches that were made before it was set.
    """

    def __init__(self, pinned: ProtobufMessage | None) -> None:
        self.pinned = pinned
        self._knows_v2 = False
        self._fell_back_at_ms: int | None = None
        self._in_v1: tuple[Batch, Batch] | None = None

    def message(self, now_ms: int) -> ProtobufMessage:
        """Return what batches for the endpoint should be."""
        if self.pinned is not None:
            return self.pinned
        fell_back_at_ms = self._fell_back_at_ms
        # A clock that was set back must not put off the next try for ever.
        is_v1 = fell_back_at_ms is not None and abs(now_ms - fell_back_at_ms) < PROBE_AFTER_MS
        return V1 if is_v1 else V2

    async def exchange(self, batch: Batch, attempt: int, granted: Granted, around: Surroundings) -> Outcome:
        """POST a batch, and if its message is not understood once more in the other; judge the answer."""
        outcome = await self._exchange(batch, attempt, granted, around)
        if outcome.verdict is not Verdict.RETRY:
            self._in_v1 = None
        return outcome

    async def _exchange(self, batch: Batch, attempt: int, granted: Granted, around: Surroundings) -> Outcome:
        try:
            if batch.message is V2 and self.message(around.clock.now_ms()) is V1:
                batch = await self._said_in_v1(batch)
            outcome = await exchange(batch, attempt, granted, around)
            if batch.message is V1 or not (reason := self._misunderstood(outcome)):
                return outcome
            if self.pinned is not None:
                return _refused(outcome)
            again = await exchange(await self._said_in_v1(batch), attempt, granted, around)
        except _engine.MalformedFrame as error:
            return Outcome(Verdict.REJECTED, "malformed", str(error))
        # The first message may have deserved its 400: then 1.0 has the same answer, and nothing is known of 2.0.
        if outcome.status == 400 and again.verdict is not Verdict.DELIVERED:
            return again
        self._knows_v2, self._fell_back_at_ms = False, around.clock.now_ms()
        return replace(again, fell_back=reason)

    def _misunderstood(self, outcome: Outcome) -> str:
        """Say why the receiver seems not to know 2.0, or note that it does."""
        if outcome.status == 415:
            return "answered 415"
        if outcome.written is not None:
            self._knows_v2, self._fell_back_at_ms = True, None
            return ""
        if outcome.verdict is Verdict.DELIVERED:
            return f"answered {outcome.status} without saying what was written"
        return "answered 400" if outcome.status == 400 and not self._knows_v2 else ""

    async def _said_in_v1(self, batch: Batch) -> Batch:
        # Kept until it is answered for good: it may be tried again and again.
        if self._in_v1 is None or self._in_v1[0] is not batch:
            written = await asyncio.to_thread(_engine.as_remote_write_1, batch.body)
            self._in_v1 = batch, replace(batch, body=written.body, message=V1)
        return self._in_v1[1]


def _refused(outcome: Outcome) -> Outcome:
    """The outcome for an endpoint that must not be sent 1.0: nothing was stored, whatever it answered."""
    if outcome.verdict is not Verdict.DELIVERED:
        return outcome
    message = f"status {outcome.status} without X-Prometheus-Remote-Write-Samples-Written: it knows only 1.0 and has"
    return Outcome(
        Verdict.REJECTED, "nothing_written", f"{message} stored nothing; {_MENDED_BY_PINNING}", outcome.status
    )

"""One POST of one batch, and what its answer means. Never retries, sleeps or counts."""

import asyncio
import re
from dataclasses import dataclass
from enum import Enum, auto

import httpx

from tenants.endpoint.backoff import parse_retry_after
from tenants.endpoint.batch import Batch
from tenants.endpoint.config import EndpointConfig
from tenants.endpoint.endpoint_access import Granted
from tenants.endpoint.headers import request_headers
from tenants.endpoint.surroundings import Surroundings

_MAX_MESSAGE_BYTES = 1024  # as much as Prometheus reads (remote-write §1.6)
_MAX_MESSAGE_CHARACTERS = 256

_NUMBER = re.compile(r"[0-9]{1,18}")

# The reasons a receiver can cause, as labels: a hostile one must not be able to invent hundreds.
_NAMED_STATUSES = frozenset({400, 401, 403, 404, 413, 415, 422})


class Verdict(Enum):
    """What becomes of a batch after an attempt (remote-write §1.6)."""

    DELIVERED = auto()
    RETRY = auto()
    REJECTED = auto()


@dataclass(frozen=True, slots=True)
class Written:
    """What a receiver of 2.0 says it stored: samples, those of native histograms included, and exemplars."""

    samples: int
    exemplars: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to.

    Attributes:
        verdict: what to do with the batch.
        reason: short and fixed: ``http_400``, ``timeout``, ``network``; empty if delivered. Fit for a label
            if the verdict is ``REJECTED``.
        message: the receiver's words or the network's, one printable line of at most 256 characters; the
            endpoint's secrets are masked wherever they appear letter for letter.
        status: of the answer, if there was one.
        retry_after_s: the pause that the receiver asked for.
        written: what the receiver says it stored; None: it does not say.
        fell_back: why the batch was sent again as 1.0, which this is the outcome of; empty: it was not.
    """

    verdict: Verdict
    reason: str = ""
    message: str = ""
    status: int | None = None
    retry_after_s: float | None = None
    written: Written | None = None
    fell_back: str = ""

    def stored(self, batch: Batch) -> tuple[int, int]:
        """Return how many samples and exemplars of the batch the receiver has, by its word or by its status."""
        if self.written is None:
            return (batch.samples, batch.exemplars) if self.verdict is Verdict.DELIVERED else (0, 0)
        return min(self.written.samples, batch.samples), min(self.written.exemplars, batch.exemplars)


async def exchange(batch: Batch, attempt: int, granted: Granted, around: Surroundings) -> Outcome:
    """POST a batch once, within the endpoint's ``timeout_s`` in all, and judge the answer.

    Once the status is known it decides, whatever happens to the body behind it. Cancelling closes the
    connection.
    """
    config = granted.config
    status: int | None = None
    retry_after_s: float | None = None
    written: Written | None = None
    body = bytearray()
    problem, message = "", ""
    try:
        # httpx's own limits are per read and write: a receiver that trickles bytes would hold us for ever.
        async with (
            asyncio.timeout(config.timeout_s),
            granted.client.stream(
                "POST",
                config.url,
                content=batch.body,
                headers=httpx.Headers(
                    request_headers(config, around.version, attempt, batch.message), encoding="utf-8"
                ),
                timeout=None,
                follow_redirects=False,
                extensions=_extensions(config),
            ) as response,
        ):
            status = response.status_code
            retry_after_s = parse_retry_after(response.headers.get("retry-after"), around.clock.now_ms())
            written = _written(response.headers)
            async for chunk in response.aiter_raw():
                body += chunk[: _MAX_MESSAGE_BYTES - len(body)]
                if len(body) == _MAX_MESSAGE_BYTES:
                    break
    except TimeoutError:
        problem, message = "timeout", f"no complete answer within {config.timeout_s:g} s"
    except (httpx.HTTPError, OSError) as error:
        problem, message = "network", f"{type(error).__name__}: {error}"

    if status is None:
        return Outcome(Verdict.RETRY, problem, _readable(message, config.secrets))
    verdict, reason = judge(status)
    if verdict is Verdict.DELIVERED:
        return Outcome(verdict, status=status, written=written)
    message = _readable(body.decode("utf-8", "replace"), config.secrets)
    return Outcome(verdict, reason, message, status, retry_after_s, written)


def _written(headers: httpx.Headers) -> Written | None:
    """Read the statistics of an answer: of those that are there, one that is missing is 0 (remote-write §1.6)."""
    texts = [
        headers.get(f"x-prometheus-remote-write-{kind}-written") for kind in ("samples", "histograms", "exemplars")
    ]
    if not any(text is not None for text in texts):
        return None
    samples, histograms, exemplars = (int(text) if text and _NUMBER.fullmatch(text) else 0 for text in texts)
    return Written(samples + histograms, exemplars)


def judge(status: int) -> tuple[Verdict, str]:
    """Say what an HTTP status means for the batch, and name the reason (remote-write §1.6).

    A redirect is a rejection: following it would carry the endpoint's secrets to a host nobody configured.
    """
    if 200 <= status < 300:
        return Verdict.DELIVERED, ""
    if status == 429 or 500 <= status < 600:
        return Verdict.RETRY, f"http_{status}"
    if status in _NAMED_STATUSES:
        return Verdict.REJECTED, f"http_{status}"
    return Verdict.REJECTED, f"http_{status // 100}xx"


def _extensions(config: EndpointConfig) -> dict[str, str]:
    name = config.tls.server_name if config.tls is not None else None
    return {} if name is None else {"sni_hostname": name}


def _readable(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:_MAX_MESSAGE_CHARACTERS]

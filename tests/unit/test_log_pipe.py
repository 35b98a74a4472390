import io
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
import structlog

from cluster import log_pipe as module
from cluster.log_pipe import LineWriter, log_pipe, open_log_pipe
from cluster.log_setup import set_up_logging
from tenants.settings.service_config import LogConfig


class Stderr(io.StringIO):
    """Standard error that can be stuck, like a terminal that was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = threading.Event()
        self.flows.set()
        self.is_stuck = threading.Event()

    def write(self, text: str, /) -> int:
        if not self.flows.is_set():
            self.is_stuck.set()
        assert self.flows.wait(10)
        return super().write(text)


def writer(number: int = 1) -> LineWriter:
    """A writer as another process has it."""
    return LineWriter(os.environ["MILLRACE_LOG_PIPE"], number)


@pytest.fixture
def other_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_reads_here", lambda: False)
    module._writer.cache_clear()
    yield
    module._writer.cache_clear()


def test_lines_reach_standard_error_as_they_are() -> None:
    with redirect_stderr(Stderr()) as stderr, log_pipe():
        out = writer()
        for line in ("one\n", "zwei \N{LATIN SMALL LETTER U WITH DIAERESIS}\n", "three\nof two lines\n"):
            assert out.write(line) == len(line)
        out.close()
    assert stderr.getvalue() == "one\nzwei ü\nthree\nof two lines\n"
    assert out.dropped == 0


def test_lines_of_several_writers_arrive_whole_however_long() -> None:
    ids = {name: number for number, name in enumerate(("a", "b", "c", "d"), start=1000)}

    def write(name: str) -> None:
        out = writer(ids[name])
        for length in (3, 5000, 20_000, 100):
            for _ in range(20):
                text = name * length + "\n"
                out.write(text)
                while out.dropped:  # the pipe holds only so much
                    time.sleep(0.001)
                    out.write(text)
        while out._pieces:
            out._send()
            time.sleep(0.001)
        out.close()

    with redirect_stderr(Stderr()) as stderr, log_pipe():
        threads = [threading.Thread(target=write, args=(name,)) for name in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = stderr.getvalue().splitlines()
    assert sorted(map(len, lines)) == sorted([3, 5000, 20_000, 100] * 20 * 4)
    assert all(len(set(line)) == 1 for line in lines)


def test_writer_never_waits_for_a_reader_that_is_stuck() -> None:
    with redirect_stderr(Stderr()) as stderr, log_pipe():
        out = writer()
        stderr.flows.clear()
        out.write("first\n")
        assert stderr.is_stuck.wait(5)
        started = time.monotonic()
        for number in range(2000):
            out.write(f"{number} " + "x" * 200 + "\n")
        assert time.monotonic() - started < 2
        assert out.dropped > 0
        dropped = out.dropped
        stderr.flows.set()
        while out.dropped:
            out.write("last\n")
            time.sleep(0.001)
        out.close()
    lines = stderr.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    kept = [int(line.split()[0]) for line in lines if "x" in line]
    assert kept == list(range(2000 - dropped))
    assert all(line.endswith("x" * 200) for line in lines if "x" in line)


def test_end_of_the_service_waits_for_no_stuck_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_JOIN_S", 0.05)
    started = time.monotonic()
    with redirect_stderr(Stderr()) as stderr, log_pipe():
        out = writer()
        stderr.flows.clear()
        out.write("first\n")
        assert stderr.is_stuck.wait(5)
        with suppress(BlockingIOError):
            while True:
                os.write(out._descriptor, b"\0")
        reader = next(thread for thread in threading.enumerate() if thread.name == "log-pipe")
    assert time.monotonic() - started < 2
    out.close()
    with pytest.MonkeyPatch.context() as patch:
        # It wakes to a closed pipe, as it would in a process that is ending.
        patch.setattr(threading, "excepthook", lambda _: None)
        stderr.flows.set()
        reader.join(5)
    assert not reader.is_alive()


def test_writing_after_the_service_is_gone_is_no_error() -> None:
    with redirect_stderr(Stderr()), log_pipe():
        out = writer()
    out.write("into nothing\n")
    assert out.dropped == 1
    out.close()
    out.close()


def test_pipe_and_its_variable_are_gone_in_the_end() -> None:
    with redirect_stderr(Stderr()), log_pipe():
        path = Path(os.environ["MILLRACE_LOG_PIPE"])
        assert path.is_fifo()
        assert path.stat().st_mode & 0o777 == 0o600
        assert open_log_pipe() is None  # the process that reads writes to standard error itself
    assert not path.exists()
    assert "MILLRACE_LOG_PIPE" not in os.environ
    assert open_log_pipe() is None
    assert not [thread for thread in threading.enumerate() if thread.name == "log-pipe"]


# Events


@pytest.fixture
def _structlog_stays() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_structlog_stays", "other_process")
def test_events_of_an_actor_are_whole_json_lines() -> None:
    with redirect_stderr(Stderr()) as stderr, log_pipe():
        set_up_logging(LogConfig(format="json"), "gateway-0")
        set_up_logging(LogConfig(format="json"), "gateway-0")
        structlog.get_logger().info("accepting", port=4317)
        structlog.get_logger().debug("not written")
        assert open_log_pipe() is open_log_pipe()
    (event,) = (json.loads(line) for line in stderr.getvalue().splitlines())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "accepting", "port": 4317, "process": "gateway-0", "level": "info"}


@pytest.mark.usefixtures("_structlog_stays", "other_process")
def test_event_after_dropped_lines_says_how_many() -> None:
    with redirect_stderr(Stderr()) as stderr, log_pipe():
        set_up_logging(LogConfig(format="json"), "gateway-0")
        out = open_log_pipe()
        assert out is not None
        out.dropped = 3
        structlog.get_logger().info("after")
        structlog.get_logger().info("later")
    after, later = (json.loads(line) for line in stderr.getvalue().splitlines())
    assert after["dropped_lines"] == 3
    assert "dropped_lines" not in later


@pytest.mark.usefixtures("_structlog_stays")
@pytest.mark.parametrize("style", ["json", "pretty"])
def test_traceback_shows_where_and_never_what_variables_held(style: str) -> None:
    def send() -> None:
        headers = {"Authorization": "s3cr3t"}
        raise RuntimeError(f"{len(headers)} headers")

    with redirect_stderr(Stderr()) as stderr:
        set_up_logging(LogConfig(format=style), "service")  # type: ignore[arg-type]
        try:
            send()
        except RuntimeError:
            structlog.get_logger().exception("could not send")
    text = stderr.getvalue()
    assert "could not send" in text
    assert "1 headers" in text
    assert "test_log_pipe.py" in text
    assert "s3cr3t" not in text


@pytest.mark.usefixtures("_structlog_stays")
def test_level_decides_what_is_written() -> None:
    with redirect_stderr(Stderr()) as stderr:
        set_up_logging(LogConfig(format="json", level="warning"), "service")
        structlog.get_logger().info("not written")
        structlog.get_logger().warning("written", process="other")
    (event,) = (json.loads(line) for line in stderr.getvalue().splitlines())
    assert (event["event"], event["process"]) == ("written", "other")

"""A folder like a fresh clone, and terminals in it: one to type in, and one for each program that goes on."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from tests.integration.readme.document import README

COMMAND_TIMEOUT_S: Final = 90
_ENDED: Final = "ended-with:"
_SAY_END: Final = f'code=$?; echo; echo "{_ENDED}$code"\n'


def clone(folder: Path) -> None:
    """Fill a folder with the repository's files, installed."""
    root = README.parent
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    built = [path.relative_to(root) for path in root.glob("tenants/_engine*.so")]
    for name in [*(Path(each) for each in listed.decode().split("\0") if each), *built]:
        if (root / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".stamps").mkdir()
    (folder / ".stamps" / "run").touch()


def _heed_ctrl_c() -> None:
    # Who runs the tests in the background has Ctrl-C ignored, and so would their children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Running:
    """A program that goes on until it is told to end."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def output(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text(errors="replace")

    async def end(self) -> int:
        """Press Ctrl-C; return its exit code."""
        os.killpg(self._process.pid, signal.SIGINT)
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """End it for good, if it still runs."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                os.killpg(self._process.pid, signal.SIGKILL)
                await self._process.wait()


class Terminal:
    """A shell in which one command is typed after the other; variables stay."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self.folder = folder
        self._process = process
        self._running: list[Running] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        """Open one, and close it with all that it started."""
        process = await asyncio.create_subprocess_exec(
            *("bash", "--norc", "--noprofile"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env=_environment(),
            preexec_fn=_heed_ctrl_c,
            limit=1 << 24,
        )
        terminal = cls(folder, process)
        try:
            yield terminal
        finally:
            for running in reversed(terminal._running):
                await running.kill()
            process.kill()
            await process.wait()

    async def type(self, command: str) -> tuple[int, str]:
        """Run a command; return its exit code and what it wrote."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\n{_SAY_END}".encode())
        await stdin.drain()
        written: list[str] = []
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            while line := (await stdout.readline()).decode():
                if line.startswith(_ENDED):
                    return int(line.removeprefix(_ENDED)), "".join(written)
                written.append(line)
        raise AssertionError(f"the shell ended after {command}:\n{''.join(written)}")

    async def start(self, command: str) -> Running:
        """Start a program in a terminal of its own, which has none of this one's variables."""
        log = self.folder / f"terminal-{len(self._running)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_shell(
                f"exec {command}",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=_environment(),
                start_new_session=True,
                preexec_fn=_heed_ctrl_c,
            )
        self._running.append(Running(process, log))
        return self._running[-1]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "OTEL_"))}
    return kept | {"COLUMNS": "200", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

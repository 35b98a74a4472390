"""A real PostgreSQL, for tests: its own data, a free port on 127.0.0.1, and as many empty databases as they want."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.lasting_ports import lasting_port

_READY_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_TAKEN_PORT_TRIES = 3

# Who runs the server if the tests are run by root, which it refuses.
_UNPRIVILEGED = ("postgres", "nobody")


class Postgres:
    """One PostgreSQL server that asks for a password. What it keeps does not survive it.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`.

    Args:
        host: the address it listens on; its neighbours may connect.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self.password = secrets.token_urlsafe()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._databases = 0
        self._schemas = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def new_database(self) -> str:
        """Make an empty database and return its URL, with the password."""
        self._databases += 1
        name = f"test_{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def new_schema(self) -> str:
        """Return the URL of an empty schema, in a database with others: a database of its own is hundreds of files."""
        self._schemas += 1
        name = f"test_schema_{self._schemas}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}?options=-csearch_path%3D{name}"

    def url(self, database: str, password: str | None = None) -> str:
        """Return the URL of a database; with another password than the right one, if there is one."""
        return f"postgresql://tester:{password or self.password}@{self._host}:{self._port}/{database}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: there are no programs of PostgreSQL, or it did not become ready; with its log.
        """
        binaries = _binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        (self._folder / "password").write_text(self.password)
        user = _user()
        if user is not None:
            for path in (self._folder, self._folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        try:
            self._initialise(binaries / "initdb", user)
            self._start(binaries / "postgres", user)
        except BaseException:
            self.stop()
            raise

    def halt(self) -> None:
        """End the process that was started; its data stay, for :meth:`resume`. Can be repeated."""
        if self._process is not None and self._process.poll() is None:
            # Close the connections of clients too, rather than wait for them.
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        self._process = None

    def resume(self) -> None:
        """Start it again after :meth:`halt`, with the same data and the same port, and wait until it answers."""
        self._launch(_binaries() / "postgres", _user())
        if not self._becomes_ready():
            raise RuntimeError(f"postgres did not become ready again; its log ends:\n{self._log()[-2000:]}")

    def stop(self) -> None:
        """End the process that was started, and remove its data. Can be repeated."""
        self.halt()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _start(self, postgres: Path, user: pwd.struct_passwd | None) -> None:
        for _ in range(_TAKEN_PORT_TRIES):
            self._port = lasting_port()
            self._launch(postgres, user)
            if self._becomes_ready():
                return
            # Somebody may have taken the port between our look and its bind: try another one.
            if "Address already in use" not in self._log():
                break
        raise RuntimeError(f"postgres did not become ready; its log ends:\n{self._log()[-2000:]}")

    def _initialise(self, initdb: Path, user: pwd.struct_passwd | None) -> None:
        assert self._folder is not None
        subprocess.run(
            [
                *_as(user),
                initdb,
                "--no-sync",
                "--encoding=UTF8",
                "--username=tester",
                "--auth=scram-sha-256",
                f"--pwfile={self._folder / 'password'}",
                f"--pgdata={self._folder / 'data'}",
            ],
            **self._surroundings(),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        with (self._folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")

    def _launch(self, postgres: Path, user: pwd.struct_passwd | None) -> None:
        assert self._folder is not None
        settings = {
            "listen_addresses": self._host,
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "16MB",
        }
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *_as(user),
                    postgres,
                    "-D",
                    self._folder / "data",
                    *(f"--{key}={value}" for key, value in settings.items()),
                ],
                **self._surroundings(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _becomes_ready(self) -> bool:
        assert self._process is not None
        ends_at = time.monotonic() + _READY_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < ends_at:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url("postgres")):
                return True
            time.sleep(0.05)
        return False

    def _surroundings(self) -> dict[str, Any]:
        environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        return {"cwd": self._folder, "env": environment, "stdin": subprocess.DEVNULL}

    def _log(self) -> str:
        assert self._folder is not None
        return (self._folder / "log").read_text(errors="replace")


def _binaries() -> Path:
    """Return the directory of the programs: Debian has those of each version in one of their own, not on PATH."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise RuntimeError(
            "these tests need a real PostgreSQL (13 or newer) and found no 'initdb' on PATH or in /usr/lib/postgresql; "
            "on Debian: apt-get install postgresql"
        )
    return versions[-1].parent


def _as(user: pwd.struct_passwd | None) -> list[str]:
    """Return what to put before a command, for this user to run it.

    Not by ``subprocess``: it would fork for that, where a gRPC client in this process makes the child crash.
    """
    if user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _user() -> pwd.struct_passwd | None:
    """Return who runs the server; None: who runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"postgres does not run as root, and there is no user {' or '.join(_UNPRIVILEGED)}: add one")

"""What ``millrace doctor`` looks at on this machine: ports, databases, disk, limits. Leaves everything as it was."""

import resource
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
from sqlalchemy import Connection, Table

from cluster.commands.finding import Finding, fail, ok, warn
from cluster.commands.service_access import Reach, address_of
from cluster.errors import CommandError, StartError
from cluster.gateway.listen import CannotListenError, bind
from cluster.tls import certificates
from tenants.journal import schema as journal_schema
from tenants.journal.url import journal_url
from tenants.settings.scalars import HostPort
from tenants.settings.service_config import ServiceConfig
from tenants.store import schema as store_schema
from tenants.store.database import Database
from tenants.store.errors import SchemaTooNewError, StoreError
from tenants.store.url import store_url

_ANSWER_TIMEOUT_S: Final = 3.0
_FILES_NEEDED: Final = 1024
"""Of one process: connections of clients and to endpoints, a database, Ray's sockets."""
_FILES_ADVISED: Final = 8192
_FREE_BYTES_ADVISED: Final = 1 << 30
_SQLITE: Final = "sqlite:///"


def files_finding() -> Finding:
    """Look at how many files a process may open, the limit that the service inherits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES_ADVISED:
        return ok(
            "file limit", f"a process may open {'any number of' if soft == resource.RLIM_INFINITY else soft} files"
        )
    said = f"a process may open {soft} files (hard limit {hard})"
    mend = f"ulimit -n {_FILES_ADVISED} where the service is started (systemd: LimitNOFILE)"
    return (fail if soft < _FILES_NEEDED else warn)("file limit", said, mend)


def directory_finding(config: ServiceConfig) -> Finding:
    """Look whether ``data_dir`` can be written to, and has room."""
    check, folder = "data directory", config.data_dir
    # The service makes what is missing.
    there = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return fail(
            check,
            f"{there} cannot be written to: {error.strerror}",
            "set data_dir to a directory of the service's user, or change its owner",
        )
    free = shutil.disk_usage(there).free
    if free < _FREE_BYTES_ADVISED:
        return warn(
            check,
            f"{folder}: {free >> 20} MiB free; journal and backlog wait there while endpoints are down",
            "make room, or lower queue_max_bytes of the endpoints",
        )
    return ok(
        check, f"{folder}: writable, {free >> 30} GiB free" + ("" if folder.exists() else "; made at the first start")
    )


def database_findings(config: ServiceConfig) -> Iterator[Finding]:
    """Look whether store and journal can be reached and written to. Owns no journal, and changes no table."""
    databases: tuple[tuple[str, str, str, Callable[[Connection], None], Table], ...] = (
        ("store", "store.url", store_url(config), store_schema.migrate, store_schema.SCHEMA_VERSION),
        ("journal", "journal.url", journal_url(config), journal_schema.migrate, journal_schema.SCHEMA_VERSION),
    )
    for check, setting, url, migrate, version in databases:
        yield _database_finding(check, setting, url, migrate, version)


class _Enough(Exception):  # noqa: N818  (ends a transaction that must leave nothing)
    """Everything could be done, and is undone."""


def _database_finding(
    check: str, setting: str, url: str, migrate: Callable[[Connection], None], version: Table
) -> Finding:
    """Do in a transaction what the service does at its start, and undo it."""
    if url.startswith(_SQLITE) and not Path(path := url.removeprefix(_SQLITE)).exists():
        return ok(check, f"{path}: made at the first start")
    place = ""

    def rehearse(connection: Connection) -> None:
        nonlocal place
        url = connection.engine.url
        place = f"{url.database} on {url.host}" if url.host else str(url.database)
        migrate(connection)
        connection.execute(version.update(), {"version": connection.execute(version.select()).scalar_one()})
        raise _Enough

    try:
        Database.open(url, rehearse)
    except _Enough:
        return ok(check, f"{place}: answers, and can be written to")
    except SchemaTooNewError as error:
        return fail(check, str(error), "install the version that the service had last, or a newer one")
    except StoreError as error:
        return fail(check, str(error), f"see {setting}, and whether the database runs and lets this user write")
    raise AssertionError("a rehearsal has an end")


def port_findings(config: ServiceConfig, ca_file: Path | None) -> Iterator[Finding]:
    """Look whether the ports are free, or the service answers there."""
    listen = config.listen
    face, is_running = _face_finding(listen.http, ca_file, is_encrypted=listen.http_tls is not None)
    yield face
    for key, address in (("listen.otlp_grpc", listen.otlp_grpc), ("listen.otlp_http", listen.otlp_http)):
        yield _otlp_finding(key, address, is_running=is_running)
    for key, tls in (
        ("listen.http_tls", listen.http_tls),
        ("listen.otlp_grpc_tls", listen.otlp_grpc_tls),
        ("listen.otlp_http_tls", listen.otlp_http_tls),
    ):
        if tls is None:
            continue
        try:
            certificates(tls, key)
        except StartError as error:
            yield fail(key, str(error), "renew the files, or mend their paths")
        else:
            yield ok(key, f"{tls.cert_file}: certificate and key fit together")


def _face_finding(listen: HostPort, ca_file: Path | None, *, is_encrypted: bool) -> tuple[Finding, bool]:
    """Return the finding, and whether the service runs."""
    key = "listen.http"
    problem = _bind_problem(listen)
    if problem is None:
        return ok(key, _free(listen)), False
    try:
        url = address_of(listen, key, is_encrypted=is_encrypted)
        with Reach(ca_file=ca_file).client(url, {}, _ANSWER_TIMEOUT_S) as client:
            answer = client.get("/ready").text.strip()
    except (CommandError, httpx.HTTPError, OSError) as error:
        return fail(key, f"{problem}, and no service answers there ({error})", _other_port(key)), False
    if answer == "ready":
        return ok(key, f"{listen}: the service answers, and is ready"), True
    if answer == "not ready":
        return warn(key, f"{listen}: the service answers, and is not ready", "millrace status says why"), True
    return fail(key, f"{listen}: something else answers there", _other_port(key)), False


def _otlp_finding(key: str, listen: HostPort, *, is_running: bool) -> Finding:
    problem = _bind_problem(listen)
    if problem is None and not (is_running and listen.port):
        return ok(key, _free(listen))
    if problem is None:
        return warn(
            key,
            f"{listen}: the service runs, and takes no spans here",
            "its gateways may run on other nodes, or it has another configuration: millrace status shows their ports",
        )
    if is_running and _accepts(listen):
        return ok(key, f"{listen}: the service takes spans")
    return fail(key, problem, _other_port(key))


def _bind_problem(listen: HostPort) -> str | None:
    try:
        bind(str(listen)).close()
    except CannotListenError as error:
        return str(error)
    return None


def _accepts(listen: HostPort) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    try:
        socket.create_connection((host, listen.port), _ANSWER_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _free(listen: HostPort) -> str:
    return f"{listen}: free" if listen.port else f"{listen}: takes any free port"


def _other_port(key: str) -> str:
    return f"stop what uses it (ss -ltnp), or set {key}"

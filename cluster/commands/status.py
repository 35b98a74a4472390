"""What ``millrace status`` does: says how a running service is, and what is wrong with it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.commands.metrics_page import samples
from cluster.commands.service_access import Service
from cluster.json_output import write_json

_UP: Final = "millrace_actor_up"
_VERSION: Final = "millrace_settings_version"
_SHOWN_PROBLEMS: Final = 20
_GOOD_STATES: Final = frozenset({"idle", "sending"})


@dataclass(frozen=True, slots=True)
class Actor:
    """One process of the service.

    Attributes:
        is_up: it answered in time.
        settings_version: of the overrides that it has in force; None: it says nothing.
    """

    is_up: bool
    settings_version: int | None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How a service is.

    Attributes:
        is_ready: it accepts spans.
        version: of the service.
        engine: version and profile of its engine.
        state: starting, running or draining.
        started_at: when, in ISO 8601.
        gateways: ports by gateway.
        overrides: what is in force of settings, as ``/status`` says.
        actors: by name.
        tenants: that have series.
        active_series: of all of them.
        problems: what is wrong and how to mend it; empty: nothing.
    """

    is_ready: bool
    version: str
    engine: dict[str, Any]
    state: str
    started_at: str
    gateways: dict[str, dict[str, int]]
    overrides: dict[str, Any]
    actors: dict[str, Actor]
    tenants: int
    active_series: int
    problems: list[str] = field(default_factory=list)


def status(service: Service, out: Console, *, as_json: bool) -> bool:
    """Show how the service is; return whether nothing is wrong.

    Raises:
        CommandError: it does not answer, or not this.
    """
    found = read_status(service)
    if as_json:
        write_json(asdict(found), out)
    else:
        _show(found, service.url, out)
    return not found.problems


def read_status(service: Service) -> ServiceStatus:
    """Ask the service how it is.

    Raises:
        CommandError: it does not answer, or not this.
    """
    said = service.get("/status")
    is_ready = service.ask("GET", "/ready").is_success
    actors = _actors(service.text("/metrics"))
    return ServiceStatus(
        is_ready,
        said["version"],
        said["engine"],
        said["state"],
        said["started_at"],
        said["gateways"],
        said["overrides"],
        actors,
        len(said["tenants"]),
        sum(tenant["active_series"] for tenant in said["tenants"].values()),
        list(_problems(said, actors, is_ready=is_ready)),
    )


def _actors(page: str) -> dict[str, Actor]:
    up: dict[str, bool] = {}
    versions: dict[str, int] = {}
    for name, labels, value in samples(page, _UP, _VERSION):
        if name == _UP:
            up[labels["actor"]] = bool(value)
        else:
            versions[labels["actor"]] = int(value)
    # The service's own process says no more than its version: who answers is up.
    return {name: Actor(up.get(name, True), versions.get(name)) for name in sorted({*up, *versions})}


def _problems(said: dict[str, Any], actors: dict[str, Actor], *, is_ready: bool) -> Iterator[str]:
    if said["state"] != "running":
        yield f"the service is {said['state']}"
    elif not is_ready:
        yield "spans are not accepted now: an actor is restarting, or the controller does not answer; see the log"
    if said["engine"].get("profile") != "release":
        yield f"the engine is a {said['engine'].get('profile')} build, and slow; install a release build"
    wanted = said["overrides"]["version"]
    for name, actor in actors.items():
        if not actor.is_up:
            yield f"{name} does not answer: it is restarting or overloaded; see its log"
        elif actor.settings_version is not None and actor.settings_version < wanted:
            yield (
                f"{name} has version {actor.settings_version} of the settings, not {wanted}; see its log if that stays"
            )
    if not said["overrides"]["last_reload_successful"]:
        yield "the runtime file has faults, the last good one stays in force; millrace config check says which"
    for tenant, known in said["tenants"].items():
        for endpoint in known["endpoints"]:
            if endpoint["state"] not in _GOOD_STATES:
                yield f"{tenant}: endpoint {endpoint['endpoint']} is {endpoint['state']}: {endpoint['last_error']}"


def _show(found: ServiceStatus, url: str, out: Console) -> None:
    engine = found.engine
    facts = Table.grid(padding=(0, 2))
    readiness = Text("ready", style="green") if found.is_ready else Text("not ready", style="red")
    runtime = "good" if found.overrides["last_reload_successful"] else "with faults"
    gateways = (
        f"{name}: OTLP/gRPC {ports['otlp_grpc']}, OTLP/HTTP {ports['otlp_http']}"
        for name, ports in found.gateways.items()
    )
    for name, text in (
        ("service", Text.assemble(f"{url}, {found.state} since {found.started_at}, ", readiness)),
        ("version", Text(f"{found.version}, engine {engine.get('version')} ({engine.get('profile')})")),
        ("gateways", Text("\n".join(gateways) or "none yet")),
        (
            "settings",
            Text(f"version {found.overrides['version']}, runtime file {runtime}, {found.overrides['entries']} entries"),
        ),
        ("tenants", Text(f"{found.tenants:,} with {found.active_series:,} active series")),
    ):
        facts.add_row(Text(name, style="dim"), text)
    out.print(facts)
    table = Table("Actor", "State", "Settings", box=SIMPLE_HEAD)
    for name, actor in found.actors.items():
        state = Text("up", style="green") if actor.is_up else Text("down", style="red")
        table.add_row(Text(name), state, "" if actor.settings_version is None else str(actor.settings_version))
    out.print(table)
    for problem in found.problems[:_SHOWN_PROBLEMS]:
        out.print(Text.assemble(("problem: ", "bold red"), problem), soft_wrap=True)
    if (more := len(found.problems) - _SHOWN_PROBLEMS) > 0:
        out.print(f"and {more} more; --json lists all")
    if not found.problems:
        out.print(Text("no problems", style="green"))

"""The demo's directory: the configuration that Millrace is started with, and the settings of the two tenants.

Everything the demo writes is below one temporary directory. Both files are ordinary ones, meant to be read,
and the tenants' file to be edited while the demo runs.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.demo.ports import HOST, free_ports
from cluster.demo.readings import TENANT_LABEL

COLLECTION_S = 5

_USUAL_PORTS = {"otlp_grpc": 4317, "otlp_http": 4318, "http": 8080}
_FINE_BUCKETS_S = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
"""The service graph's own begin at 0.1 s: too coarse for a shop whose databases answer in a millisecond."""

_OVERRIDES_NOTE = """\
# The settings of the demo's two tenants. Edit and save: Millrace reads this file again every two seconds.
# Try: another dimension, other buckets, a processor less, `collection_interval: 10s`, or a third tenant.
"""


@dataclass(frozen=True, slots=True)
class Listen:
    """The ports of Millrace, all on loopback. ``moved`` names those that are not the usual ones."""

    otlp_grpc: int
    otlp_http: int
    http: int
    moved: tuple[str, ...]

    def address(self, port: int) -> str:
        """Return host:port."""
        return f"{HOST}:{port}"


def choose_ports(*, ephemeral: bool) -> Listen:
    """Return the usual ports where they are free, and any others for those that are not.

    Args:
        ephemeral: ask for no usual port at all.
    """
    found = free_ports(0 if ephemeral else usual for usual in _USUAL_PORTS.values())
    ports = dict(zip(_USUAL_PORTS, found, strict=True))
    moved = tuple(
        f"{usual} is taken, {name} listens on {ports[name]}"
        for name, usual in _USUAL_PORTS.items()
        if ports[name] != usual and not ephemeral
    )
    return Listen(**ports, moved=moved)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths below the demo's directory."""

    directory: Path

    @property
    def service_config(self) -> Path:
        """The service configuration."""
        return self.directory / "millrace.yaml"

    @property
    def overrides(self) -> Path:
        """The tenants' runtime file."""
        return self.directory / "overrides.yaml"

    @property
    def progress(self) -> Path:
        """The traffic's tallies."""
        return self.directory / "traffic.json"

    def log(self, name: str) -> Path:
        """Return the log file of a child."""
        return self.directory / f"{name}.log"

    def write_settings(self, listen: Listen, write_url: str) -> None:
        """Write the service configuration and the runtime file."""
        self.service_config.write_text(yaml.safe_dump(self._service(listen, write_url), sort_keys=False))
        self.overrides.write_text(_OVERRIDES_NOTE + yaml.safe_dump(_tenants(), sort_keys=False))

    def _service(self, listen: Listen, write_url: str) -> dict[str, object]:
        return {
            "data_dir": str(self.directory / "data"),
            "listen": {
                "otlp_grpc": listen.address(listen.otlp_grpc),
                "otlp_http": listen.address(listen.otlp_http),
                "http": listen.address(listen.http),
            },
            "multitenancy_enabled": True,
            "overrides": {
                "per_tenant_override_config": str(self.overrides),
                "per_tenant_override_period": "2s",
                "user_configurable_overrides": {"enabled": True, "poll_interval": "2s"},
            },
            "metrics_generator": {
                "registry": {
                    "collection_interval": "15s",
                    "external_labels": {"source": "millrace-demo"},
                    "inject_tenant_id_as": TENANT_LABEL,
                },
                # Half of the default: edges of uninstrumented callers show after 5 s instead of 10 s.
                "processor": {"service_graphs": {"wait": "5s"}},
            },
            "remote_write": [{"url": write_url}],
        }


def _tenants() -> dict[str, object]:
    processors = ["span-metrics", "service-graphs"]
    return {
        "overrides": {
            "acme": {
                "metrics_generator": {
                    "processors": processors,
                    "collection_interval": f"{COLLECTION_S}s",
                    "processor": {"service_graphs": {"histogram_buckets": _FINE_BUCKETS_S}},
                }
            },
            "globex": {
                "metrics_generator": {
                    "processors": processors,
                    "collection_interval": f"{COLLECTION_S}s",
                    "processor": {
                        "span_metrics": {
                            "dimensions": ["cloud.region", "http.response.status_code"],
                            "histogram_buckets": _FINE_BUCKETS_S,
                        },
                        "service_graphs": {
                            "dimensions": ["cloud.region"],
                            "histogram_buckets": _FINE_BUCKETS_S,
                        },
                    },
                }
            },
        }
    }

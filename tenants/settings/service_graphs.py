"""Settings of service graphs: the static ones of the service and what a tenant may override (processors §2)."""

from typing import Annotated

from pydantic import Field

from tenants.settings.filter_policies import FilterPolicies
from tenants.settings.model import SettingsModel
from tenants.settings.names import AttributeNames, DimensionNames, ShortText
from tenants.settings.scalars import Buckets, Duration, between
from tenants.settings.schema import COUNT, About, Effect

SERVICE_GRAPHS_BUCKETS = tuple(0.1 * 2**n for n in range(8))


class ServiceGraphsConfig(SettingsModel):
    """Service-wide settings of service graphs; a tenant's overrides win where there are any."""

    wait: Annotated[Duration, between("1ms", "10m")] = Field(
        default=Duration.parse("10s"),
        description="Time the first half of an edge waits for the other.",
    )
    max_items: Annotated[int, COUNT] = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Most half edges of one tenant that wait at once.",
    )
    workers: Annotated[int, COUNT, About(effect=Effect.NEVER)] = Field(
        default=10, ge=0, description="Without effect: edges expire without sweepers."
    )
    histogram_buckets: Buckets = Field(
        default=SERVICE_GRAPHS_BUCKETS,
        description="Upper bounds of the latency buckets, increasing.",
    )
    dimensions: DimensionNames = Field(
        default=(), description="Attributes of resource or span that become labels of edges."
    )
    peer_attributes: AttributeNames = Field(
        default=("peer.service", "db.name", "db.system", "db.system.name"),
        description="Span attributes that name a peer without spans of its own, first found wins.",
    )
    database_name_attributes: AttributeNames = Field(
        default=("db.namespace", "db.name", "db.system", "db.system.name"),
        description="Attributes that make a client span a database request, first found wins.",
    )
    filter_policies: FilterPolicies = Field(default=(), description="Which spans take part; none: all.")
    enable_client_server_prefix: bool = Field(
        default=False,
        description="Give dimensions the prefix client_ or server_, by the side they come from.",
    )
    enable_messaging_system_latency_histogram: bool = Field(
        default=False, description="Generate the histogram of the time between producer and consumer."
    )
    enable_virtual_node_label: bool = Field(
        default=False, description="Add the label virtual_node to edges with an uninstrumented side."
    )
    span_multiplier_key: ShortText = Field(
        default="", description="Attribute (double) with the ratio at which spans were sampled; empty: none."
    )
    enable_tracestate_span_multiplier: bool = Field(
        default=False, description="Count an edge by the sampling threshold in the W3C tracestate."
    )
    keep_colliding_dimensions: bool = Field(
        default=False, description="Of dimensions with one label, use the last that has a value (Q2)."
    )
    enable_strict_filter_types: bool = Field(
        default=False, description="Let filters match attributes of their own type only (Q32)."
    )
    pair_database_spans: bool = Field(
        default=False, description="Let a database request wait for the span of the database itself (Q12)."
    )
    count_every_receiver: bool = Field(
        default=False, description="Count an edge for every receiver of one request or message (Q13)."
    )
    enable_virtual_node_latency: bool = Field(
        default=True, description="Observe a latency of zero for the side without instrumentation (Q14)."
    )
    zero_parent_id_is_root: bool = Field(default=False, description="Take a parent id of zero bytes for none (Q15).")


class ServiceGraphsOverrides(SettingsModel):
    """What a tenant may change about service graphs. Lists replace those of the layers below."""

    histogram_buckets: Buckets | None = Field(
        default=None, description="Upper bounds of the latency buckets, increasing."
    )
    dimensions: DimensionNames | None = Field(
        default=None, description="Attributes of resource or span that become labels of edges."
    )
    peer_attributes: AttributeNames | None = Field(
        default=None, description="Span attributes that name a peer without spans of its own."
    )
    filter_policies: FilterPolicies | None = Field(
        default=None, description="Which spans take part; replaces the list. Empty: all."
    )
    enable_client_server_prefix: bool | None = Field(
        default=None,
        description="Give dimensions the prefix client_ or server_. False switches it off (D-4).",
    )
    enable_messaging_system_latency_histogram: bool | None = Field(
        default=None, description="Generate the histogram of the time between producer and consumer."
    )
    enable_virtual_node_label: bool | None = Field(
        default=None, description="Add the label virtual_node to edges with an uninstrumented side."
    )
    span_multiplier_key: ShortText | None = Field(
        default=None, description="Attribute (double) with the ratio at which spans were sampled; empty: none."
    )
    enable_tracestate_span_multiplier: bool | None = Field(
        default=None, description="Count an edge by the sampling threshold in the W3C tracestate."
    )
    keep_colliding_dimensions: bool | None = Field(
        default=None, description="Of dimensions with one label, use the last that has a value (Q2)."
    )
    enable_strict_filter_types: bool | None = Field(
        default=None, description="Let filters match attributes of their own type only (Q32)."
    )
    pair_database_spans: bool | None = Field(
        default=None, description="Let a database request wait for the span of the database itself (Q12)."
    )
    count_every_receiver: bool | None = Field(
        default=None, description="Count an edge for every receiver of one request or message (Q13)."
    )
    enable_virtual_node_latency: bool | None = Field(
        default=None, description="Observe a latency of zero for the side without instrumentation (Q14)."
    )
    zero_parent_id_is_root: bool | None = Field(
        default=None, description="Take a parent id of zero bytes for none (Q15)."
    )

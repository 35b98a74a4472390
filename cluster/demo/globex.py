"""The shop of tenant ``globex``: wholesale parts in two regions; a mobile API, partners, RabbitMQ, MySQL."""

from cluster.demo.model import (
    Call,
    Database,
    Entry,
    External,
    Flavour,
    Incident,
    Latency,
    Operation,
    Protocol,
    Publish,
    Query,
    Service,
)

_GRPC, _QUEUE = Protocol.GRPC, Protocol.QUEUE

GLOBEX = Flavour(
    tenant="globex",
    about="wholesale parts",
    traces_per_s=30.0,
    messaging_system="rabbitmq",
    regions=("us-east-1", "us-west-2"),
    services=(
        Service("mobile-api", "java", "11.3.0"),
        Service("partner-api", "dotnet", "3.0.9"),
        Service("accounts", "php", "8.1.4"),
        Service("parts", "go", "1.22.0"),
        Service("pricing", "cpp", "6.0.1"),
        Service("orders", "java", "7.7.2"),
        Service("stock", "java", "2.3.3"),
        Service("billing", "python", "4.5.0"),
        Service("dispatch", "go", "0.14.1"),
        Service("notifier", "erlang", "1.2.0"),
    ),
    databases=(
        Database("accounts-mysql", "mysql", "accounts", 3306),
        Database("parts-mongodb", "mongodb", "parts", 27017),
        Database("pricing-memcached", "memcached", "prices", 11211),
        Database("orders-mysql", "mysql", "orders", 3306),
        Database("stock-mysql", "mysql", "stock", 3306),
    ),
    entries=(
        Entry("mobile.login", 12),
        Entry("mobile.parts", 40),
        Entry("mobile.order", 18),
        Entry("partner.order", 20, peer="partner-edi"),
        Entry("partner.stock", 10, peer="partner-edi"),
    ),
    incident=Incident("stock-mysql", every_s=120, begins_after_s=60, lasts_s=35, slowdown=14.0, failure_rate=0.05),
    operations={
        "mobile.login": Operation("mobile-api", "POST /v2/login", Latency(5), (Call("accounts.login"),)),
        "mobile.parts": Operation(
            "mobile-api", "GET /v2/parts/{number}", Latency(4), (Call("parts.find"), Call("pricing.quote"))
        ),
        "mobile.order": Operation("mobile-api", "POST /v2/orders", Latency(6), (Call("orders.place"),)),
        "partner.order": Operation(
            "partner-api",
            "POST /edi/orders",
            Latency(18, spread=0.6),
            (Call("orders.place"),),
            failure_rate=0.012,
        ),
        "partner.stock": Operation("partner-api", "GET /edi/stock", Latency(9), (Call("stock.list"),)),
        "accounts.login": Operation(
            "accounts",
            "POST /sessions",
            Latency(70, spread=0.15),
            (Query("accounts-mysql", "SELECT users", Latency(4)),),
            failure_rate=0.03,
        ),
        "parts.find": Operation(
            "parts",
            "globex.Parts/Find",
            Latency(2),
            (Query("parts-mongodb", "find parts", Latency(12, spread=0.8), failure_rate=0.002),),
            protocol=_GRPC,
        ),
        "pricing.quote": Operation(
            "pricing",
            "globex.Pricing/Quote",
            Latency(3),
            (Query("pricing-memcached", "get prices", Latency(0.4)), Call("accounts.terms", chance=0.2)),
            protocol=_GRPC,
        ),
        "accounts.terms": Operation(
            "accounts", "GET /terms", Latency(8), (Query("accounts-mysql", "SELECT terms", Latency(5)),)
        ),
        "orders.place": Operation(
            "orders",
            "globex.Orders/Place",
            Latency(7),
            (
                Call("pricing.quote"),
                Call("stock.reserve"),
                Query("orders-mysql", "INSERT orders", Latency(9)),
                Publish("order.placed", "dispatch.order", Latency(120, spread=0.9)),
                Publish("order.billing", "billing.invoice", Latency(300, spread=0.9)),
            ),
            protocol=_GRPC,
        ),
        "stock.list": Operation(
            "stock",
            "globex.Stock/List",
            Latency(3),
            (Query("stock-mysql", "SELECT stock", Latency(15)),),
            protocol=_GRPC,
        ),
        "stock.reserve": Operation(
            "stock",
            "globex.Stock/Reserve",
            Latency(3),
            (Query("stock-mysql", "UPDATE stock", Latency(11, spread=0.5)),),
            failure_rate=0.006,
            protocol=_GRPC,
        ),
        "dispatch.order": Operation(
            "dispatch",
            "order.placed",
            Latency(22),
            (Query("stock-mysql", "SELECT bins", Latency(10)), Call("notifier.send", is_optional=True)),
            protocol=_QUEUE,
        ),
        "billing.invoice": Operation(
            "billing",
            "order.billing",
            Latency(16),
            (
                External("tax-office", "POST /v1/rates", Latency(220, spread=0.4), failure_rate=0.02),
                Query("orders-mysql", "UPDATE invoices", Latency(8)),
            ),
            protocol=_QUEUE,
        ),
        "notifier.send": Operation(
            "notifier",
            "POST /notifications",
            Latency(3),
            (External("sms-gateway", "POST /sms", Latency(95, spread=0.5), failure_rate=0.04),),
        ),
    },
)

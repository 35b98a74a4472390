"""How ``millrace top`` can sort: apart, because the command line has to know it for its help and completion."""

from enum import StrEnum


class Order(StrEnum):
    """By which column tenants are sorted, the most first."""

    SPANS = "spans"
    BYTES = "bytes"
    SERIES = "series"
    DISCARDS = "discards"
    LAG = "lag"

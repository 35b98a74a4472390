"""The reference model's native histograms: schemas, bucket indexes and the limit of buckets (processors, appendix C).

A histogram is made anew from all its observations at every look. Without resets the order of observations does not
show: the resolution is the finest that holds them all in the allowed number of buckets. Resets are not modelled.
"""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

ZERO_THRESHOLD = 2.0**-128
MIN_SCHEMA, MAX_SCHEMA = -4, 8


class NativeHistogram(NamedTuple):
    """One native histogram sample. Counts are integers, or all of them doubles in a float histogram."""

    schema: int
    zero_count: float
    buckets: dict[int, float]
    """Count by bucket index; empty buckets are left out."""
    count: float
    sum: float


def schema_of(factor: float) -> int:
    """Return the schema whose buckets grow by at most ``factor``, which is above 1."""
    return max(MIN_SCHEMA, min(MAX_SCHEMA, -math.floor(math.log2(math.log2(factor)))))


def bucket_index(value: float, schema: int) -> int:
    """Return the smallest ``i`` with ``value <= 2^(i * 2^-schema)``, exactly, for a value above zero."""
    numerator, denominator = value.as_integer_ratio()  # the denominator is a power of two
    exponent = denominator.bit_length() - 1
    if schema >= 0:
        # value^(2^schema) <= 2^i, and the smallest m with n <= 2^m is the bit length of n - 1.
        power = 2**schema
        return (numerator**power - 1).bit_length() - exponent * power
    smallest_power_of_two = (numerator - 1).bit_length() - exponent
    return math.ceil(Fraction(smallest_power_of_two, 2**-schema))


def native_histogram(
    observed: Iterable[tuple[float, Fraction]], total: float, form: Mapping[str, Any], *, is_weighted: bool
) -> NativeHistogram:
    """Return the histogram of values with their weights."""
    number = float if is_weighted else int
    schema = schema_of(form["native_bucket_factor"])
    count = zero_count = Fraction(0)
    buckets: dict[int, Fraction] = {}
    for value, weight in observed:
        count += weight
        if value > ZERO_THRESHOLD:
            index = bucket_index(value, schema)
            buckets[index] = buckets.get(index, Fraction(0)) + weight
        else:
            zero_count += weight
    while len(buckets) > form["native_max_buckets"] and schema > MIN_SCHEMA:
        schema, buckets = schema - 1, _halved(buckets)
    return NativeHistogram(
        schema,
        number(zero_count),
        {index: number(weight) for index, weight in buckets.items()},
        number(count),
        total,
    )


def _halved(buckets: Mapping[int, Fraction]) -> dict[int, Fraction]:
    """Return the buckets of the next coarser schema: index ``i`` becomes ``ceil(i / 2)``."""
    halved: dict[int, Fraction] = {}
    for index, weight in buckets.items():
        parent = math.ceil(Fraction(index, 2))
        halved[parent] = halved.get(parent, Fraction(0)) + weight
    return halved

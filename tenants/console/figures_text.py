"""Figures as a person reads them: three digits, and a unit."""

NONE = "\N{EN DASH}"
"""What stands where there is no figure."""


def count(value: float | None) -> str:
    """Write a number: ``950``, ``1.2 k``, ``35 M``; a dash for none."""
    if value is None:
        return NONE
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rate(value: float | None) -> str:
    """Write a rate: ``1.2 k/s``."""
    return NONE if value is None else f"{count(value)}/s"


def share(value: float | None) -> str:
    """Write a share: ``1.2 %``."""
    if value is None:
        return NONE
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{100 * value:.1f} %" if value else "0 %"


def duration(seconds: float | None) -> str:
    """Write a time: ``850 µs``, ``12.3 ms``, ``1.2 s``."""
    if seconds is None:
        return NONE
    if seconds == 0:
        return "0 s"
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def size(bytes_: float | None) -> str:
    """Write a number of bytes: ``1.5 MiB``."""
    if bytes_ is None:
        return NONE
    value = float(bytes_)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


def quantile(seconds: float | None, resolution_s: float | None) -> str:
    """Write a quantile: below the first bound of a histogram nobody knows where, ``< 100 ms``."""
    if seconds is not None and resolution_s is not None and seconds < resolution_s:
        return f"< {duration(resolution_s)}"
    return duration(seconds)

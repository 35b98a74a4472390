"""Numbers as short text and colour: rates, shares, durations and trends, each in a fixed small width."""

from collections.abc import Sequence

from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"
_NOTICE, _ALARM = 2.0, 4.0


def rate(per_s: float) -> Text:
    """Write a rate in at most five characters: ``0.07``, ``4.2``, ``51``, ``1.3k``."""
    if per_s >= 1_000:
        return Text(f"{per_s / 1_000:.1f}k")
    if per_s >= 100:
        return Text(f"{per_s:.0f}")
    return Text(f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2f}")


def share(part: float) -> Text:
    """Write an error share as a percentage; quiet at zero, loud from 1 % and from 5 %."""
    if part <= 0:
        return Text("-", style="dim")
    style = "bold red" if part >= 0.05 else "yellow" if part >= 0.01 else "green"
    text = f"{part:.0%}" if part >= 0.0995 else f"{part:.1%}"
    return Text(text if part >= 0.0005 else "<0.1%", style=style)


def duration(seconds: float | None, usual_s: float | None = None) -> Text:
    """Write a duration with three digits; coloured when it is well above what is usual for it."""
    if seconds is None:
        return Text("-", style="dim")
    # Each step begins where the one before would round up to one digit more.
    if seconds < 0.001:
        text = "<1 ms"
    elif seconds < 0.00995:
        text = f"{seconds * 1_000:.1f} ms"
    elif seconds < 0.9995:
        text = f"{seconds * 1_000:.0f} ms"
    else:
        text = f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    return Text(text, style=_heat(seconds, usual_s))


def usual(values: Sequence[float]) -> float | None:
    """Return what is usual: the lower quartile, so that trouble of half the time stays unusual."""
    return sorted(values)[len(values) // 4] if values else None


def trend(values: Sequence[float], *, is_ascii: bool = False) -> Text:
    """Draw values as bars; four times the usual is full height, so noise stays low and trouble stands out."""
    usual_value = usual(values)
    if is_ascii or not usual_value:
        return Text("")
    top = max(*values, _ALARM * usual_value)
    bars = Text()
    for value in values:
        bar = _BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))]
        bars.append(bar, style=_heat(value, usual_value) or "cyan")
    return bars


def count(number: int) -> str:
    """Write a count with thin groups of three digits."""
    return f"{number:,}".replace(",", " ")


def _heat(seconds: float, usual_s: float | None) -> str:
    if not usual_s or seconds < _NOTICE * usual_s:
        return ""
    return "bold red" if seconds >= _ALARM * usual_s else "yellow"

"""Charts over time, drawn by ECharts in the browser."""

from collections.abc import Sequence
from typing import Any, Final

from nicegui import ui

_COLOURS: Final = {
    False: ["#0b6e75", "#b3261e", "#a35c00"],
    True: ["#3fb8c0", "#ff8a80", "#f0a945"],
}

_SHORTEST_MS: Final = 60_000


class Chart:
    """One chart with some lines."""

    def __init__(self, title: str, is_dark: bool | None, lines: Sequence[str], *, unit: str = "") -> None:
        """Put an empty one on the page.

        Args:
            title: above it.
            is_dark: whether the page is; None: nobody knows, and colours are those of light.
            lines: their names.
            unit: ``s`` writes milliseconds where they are short.
        """
        ink = "#9aa5b4" if is_dark else "#5b6573"
        axis: dict[str, Any] = {
            "axisLabel": {"color": ink},
            "splitLine": {"lineStyle": {"color": ink, "opacity": 0.18}},
        }
        if unit == "s":
            axis["axisLabel"] = {
                "color": ink,
                ":formatter": "v => v >= 1 ? v + ' s' : +(v * 1000).toPrecision(3) + ' ms'",
            }
        self._chart = ui.echart(
            {
                "animation": False,
                "color": _COLOURS[bool(is_dark)],
                "title": {"text": title, "left": 0, "textStyle": {"fontSize": 13, "fontWeight": 600, "color": ink}},
                "legend": {"top": 0, "right": 0, "textStyle": {"color": ink}, "itemHeight": 9, "itemWidth": 16},
                "grid": {"left": 8, "right": 12, "top": 38, "bottom": 4, "containLabel": True},
                "tooltip": {"trigger": "axis"},
                # What stands at the very end would be cut off there.
                "xAxis": {"type": "time", "axisLabel": {"color": ink, "hideOverlap": True, "showMaxLabel": False}},
                "yAxis": {"type": "value", "min": 0} | axis,
                "series": [{"name": name, "type": "line", "showSymbol": False, "data": []} for name in lines],
            }
        ).classes("w-full h-56")

    def show(self, at_ms: Sequence[int], *lines: Sequence[float | None]) -> None:
        """Show these values."""
        for series, values in zip(self._chart.options["series"], lines, strict=True):
            series["data"] = [list(point) for point in zip(at_ms, values, strict=True)]
            # A line needs two points; one alone would be invisible.
            series["showSymbol"] = len(at_ms) < 2
        if at_ms:
            # Left to itself, an axis around few points spans days.
            self._chart.options["xAxis"] |= {"min": min(at_ms[0], at_ms[-1] - _SHORTEST_MS), "max": at_ms[-1]}

"""Draws service graphs beside the event loop, which answers clients meanwhile.

One thread draws for all pages, one picture after the other: they cost one processor at most, and leave the threads that
others wait for.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from tenants.console.graph_svg import draw

_KEPT: Final = 8
"""Pages look again every few seconds, each in its turn: this is for those of the same look. Up to 1 MB each."""


class GraphPictures:
    """Pictures of service graphs, each drawn once for all pages that show the same. One event loop owns it.

    Args:
        draw: as :func:`tenants.console.graph_svg.draw`; runs in a thread, never twice at a time.
    """

    def __init__(self, draw: Callable[[Mapping[str, Any], str], str] = draw) -> None:
        self._draw = draw
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="graph")
        # Of the thread alone.
        self._kept: deque[tuple[Mapping[str, Any], str, str]] = deque(maxlen=_KEPT)

    async def picture(self, graph: Mapping[str, Any], link: str) -> str:
        """Return the picture as SVG, as soon as those asked for before are drawn.

        Args:
            graph: as the API answers it; not to be changed any more.
            link: of a page that shows the edges of one service, whose name is put behind it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._once, graph, link)

    def _once(self, graph: Mapping[str, Any], link: str) -> str:
        for known, known_link, picture in self._kept:
            if link == known_link and graph == known:
                return picture
        picture = self._draw(graph, link)
        self._kept.append((graph, link, picture))
        return picture

"""A plain object behind what looks like a Ray actor's handle: no process, no Ray, the same manners."""

import asyncio
import inspect
import pickle
from collections.abc import Sequence
from typing import Any

_handles: list["ActorHandle"] = []


class ActorHandle:
    """``handle.method.remote(...)`` calls the object's method: in this event loop, or in a thread if it is not async.

    As with Ray, a call goes on when nobody waits for it any more, and arguments and answers arrive as copies: what does
    not pickle fails. ``actor`` can be exchanged for another object, like a process that was restarted. Who calls from a
    thread waits with :func:`wait_for`.
    """

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.loop = asyncio.get_running_loop()
        self.arguments: list[tuple[str, tuple[Any, ...]]] = []
        _handles.append(self)

    def __getattr__(self, name: str) -> "_Method":
        return _Method(self, name)

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return _handle, (_handles.index(self),)

    def sent(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of all calls of one method."""
        return [arguments for name, arguments in self.arguments if name == method]


class _Method:
    def __init__(self, handle: ActorHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    def remote(self, *arguments: Any) -> Any:
        copies = pickle.loads(pickle.dumps(arguments))
        self._handle.arguments.append((self._name, copies))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._call(copies), self._handle.loop)
        return asyncio.shield(asyncio.ensure_future(self._call(copies)))

    async def _call(self, arguments: tuple[Any, ...]) -> Any:
        method = getattr(self._handle.actor, self._name)
        if inspect.iscoroutinefunction(method):
            answer = await method(*arguments)
        else:
            answer = await asyncio.to_thread(method, *arguments)
        return pickle.loads(pickle.dumps(answer))


def wait_for(calls: Sequence[Any], timeout_s: float) -> list[Any]:
    """What ``ray_compat.wait_for`` does, for calls made in a thread."""
    return [call.result(timeout_s) for call in calls]


def _handle(index: int) -> ActorHandle:
    return _handles[index]

import asyncio
import threading

import pytest

from tenants.endpoint.work_threads import WorkThreads


async def test_short_work_finds_a_thread_however_much_long_work_there_is() -> None:
    threads = WorkThreads(4)
    finish = threading.Event()
    begun = threading.Semaphore(0)

    def long() -> int:
        begun.release()
        assert finish.wait(10)
        return threading.get_ident()

    works = [asyncio.ensure_future(threads.run(long, is_long=True)) for _ in range(20)]
    for _ in range(2):
        assert await asyncio.to_thread(begun.acquire, timeout=10)
    async with asyncio.timeout(20):
        assert await asyncio.gather(*(threads.run(lambda: 1, is_long=False) for _ in range(50))) == [1] * 50
    assert not begun.acquire(blocking=False)  # long work has half of the threads
    finish.set()
    assert len(set(await asyncio.gather(*works))) <= 4
    threads.close()


async def test_thread_of_work_that_nobody_waits_for_is_not_given_to_more_long_work() -> None:
    threads = WorkThreads(2)
    finish, begun = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        assert finish.wait(10)

    first = asyncio.ensure_future(threads.run(long, is_long=True))
    assert await asyncio.to_thread(begun.wait, 10)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.ensure_future(threads.run(lambda: 2, is_long=True))
    done, _ = await asyncio.wait([second], timeout=0.02)
    assert not done
    assert await threads.run(lambda: 3, is_long=False) == 3
    finish.set()
    async with asyncio.timeout(20):
        assert await second == 2
    threads.close()


async def test_what_work_raises_comes_back_and_its_place_is_free_again() -> None:
    threads = WorkThreads(2)

    def fail() -> None:
        raise ValueError("bug")

    for _ in range(3):
        with pytest.raises(ValueError, match="bug"):
            await threads.run(fail, is_long=True)
    threads.close()

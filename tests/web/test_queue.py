from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared_moe_conformer.web.queue import Ending, Full, RecognitionQueue


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Work waits for it."""
    gate = threading.Event()
    yield gate
    gate.set()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def begin(queue: Any, *parts: Callable[[], Any]) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(queue.run(*parts))


def is_running(queue: Any) -> bool:
    """Whether a job has begun, and nothing waits."""
    return bool(queue._open_jobs()) and queue.num_waiting == 0


def test_jobs_are_done_in_order_and_one_at_a_time() -> None:
    running: list[int] = []
    most: list[int] = []

    def part(number: int) -> int:
        running.append(number)
        most.append(len(running))
        running.remove(number)
        return number

    async def run() -> list[list[int]]:
        queue = RecognitionQueue(max_waiting=10)
        return await asyncio.gather(*(queue.run(*[lambda i=i: part(i)] * 2) for i in range(8)))  # type: ignore[misc]

    assert asyncio.run(run()) == [[i, i] for i in range(8)]
    assert most == [1] * 16


def test_beyond_the_bound_jobs_are_refused(gate: threading.Event) -> None:
    async def run() -> None:
        queue = RecognitionQueue(max_waiting=1)
        first = begin(queue, gate.wait)
        await until(lambda: is_running(queue))
        second = begin(queue, lambda: 2)
        await until(lambda: queue.num_waiting == 1)
        assert queue.is_full
        with pytest.raises(Full, match="busy: 1 recording waiting, and no other may wait; try again in 5 s"):
            await queue.run(lambda: 3)
        gate.set()
        assert (await first, await second) == ([True], [2])
        assert not queue.is_full and await queue.run(lambda: 3) == [3]

    asyncio.run(asyncio.wait_for(run(), 20))


def test_without_places_to_wait_one_job_at_a_time_is_taken(gate: threading.Event) -> None:
    async def run() -> None:
        queue = RecognitionQueue(max_waiting=0)
        first = begin(queue, gate.wait)
        await until(lambda: queue.is_full)
        with pytest.raises(Full, match="busy: a recording is being recognised, and no other may wait; try"):
            queue.require_room()
        gate.set()
        assert await first == [True]

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_job_that_nobody_waits_for_never_begins_and_a_running_one_ends_with_its_part(gate: threading.Event) -> None:
    done: list[str] = []

    async def run() -> None:
        queue = RecognitionQueue(max_waiting=1)
        running = begin(queue, gate.wait, lambda: done.append("second part"))
        await until(lambda: is_running(queue))
        waiting = begin(queue, lambda: done.append("waiting"))
        await until(lambda: queue.num_waiting == 1)
        for task in (waiting, running):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert queue.num_waiting == 0
        gate.set()
        await queue.run(lambda: done.append("last"))

    asyncio.run(asyncio.wait_for(run(), 20))
    assert done == ["last"]


def test_errors_are_the_clients_and_the_queue_goes_on() -> None:
    async def run() -> None:
        queue = RecognitionQueue(max_waiting=1)
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda: 1 / 0)
        assert await queue.run(lambda: 1) == [1]

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_waits_is_dropped_when_the_server_ends(gate: threading.Event) -> None:
    done: list[int] = []

    async def run() -> None:
        queue = RecognitionQueue(max_waiting=1)
        first = begin(queue, gate.wait, lambda: done.append(1))
        await until(lambda: is_running(queue))
        second = begin(queue, lambda: done.append(2))
        await until(lambda: queue.num_waiting == 1)
        queue.close()
        gate.set()
        assert await first == [True]
        with pytest.raises(Ending, match="the server ends"):
            await second
        with pytest.raises(Ending):
            queue.require_room()

    asyncio.run(asyncio.wait_for(run(), 20))
    assert done == []

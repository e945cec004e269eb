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


def begin(queue: Any, *parts: Callable[[], Any], seconds: float = 1.0) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(queue.run(parts, seconds=seconds))


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
        return await asyncio.gather(*(queue.run([lambda i=i: part(i)] * 2, seconds=1) for i in range(8)))  # type: ignore[misc]

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
        with pytest.raises(Full, match="busy: 1 recording waiting, and no other may wait; try again in 1 s"):
            await queue.run([lambda: 3], seconds=1)
        gate.set()
        assert (await first, await second) == ([True], [2])
        assert not queue.is_full and await queue.run([lambda: 3], seconds=1) == [3]

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
        await queue.run([lambda: done.append("last")], seconds=1)

    asyncio.run(asyncio.wait_for(run(), 20))
    assert done == ["last"]


def test_errors_are_the_clients_and_the_queue_goes_on() -> None:
    async def run() -> None:
        queue = RecognitionQueue(max_waiting=1)
        with pytest.raises(ZeroDivisionError):
            await queue.run([lambda: 1 / 0], seconds=1)
        assert await queue.run([lambda: 1], seconds=1) == [1]

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize(
    ("seconds", "elapsed", "estimate"),
    [
        (100.0, 0.0, 20),  # a fifth of real time, as before
        (100.0, 12.5, 8),
        (100.0, 30.0, 1),
        (0.0, 0.0, 2),  # of unknown length: as long as the one before
    ],
)
def test_the_time_until_there_is_room_is_told_from_what_recordings_took(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event, seconds: float, elapsed: float, estimate: int
) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr("shared_moe_conformer.web.queue.time", clock)

    async def run() -> None:
        queue = RecognitionQueue(max_waiting=0)
        await queue.run([lambda: setattr(clock, "now", clock.now + 2.0)], seconds=10)
        job = begin(queue, gate.wait, seconds=seconds)
        await until(lambda: is_running(queue))
        clock.now += elapsed
        with pytest.raises(Full) as refused:
            queue.require_room()
        assert refused.value.retry_after == estimate
        gate.set()
        await job

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_first_recording_of_all_is_taken_to_be_half_done(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    async def run() -> None:
        queue = RecognitionQueue(max_waiting=0)
        job = begin(queue, gate.wait, seconds=100)
        await until(lambda: is_running(queue))
        assert queue._jobs[0].started is not None
        queue._jobs[0].started -= 29.5
        with pytest.raises(Full, match="try again in 30 s"):
            queue.require_room()
        gate.set()
        await job

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

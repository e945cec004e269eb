"""The queue in which recordings wait for their turn: one thread recognises them one after the other."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from shared_moe_conformer.text import counted

REMEMBERED = 0.9
"""Weight of what earlier jobs took beside the latest one: the machine may become faster or slower."""


class Full(Exception):
    """No more jobs may wait."""

    def __init__(self, *, max_waiting: int, retry_after: int) -> None:
        """`retry_after`: seconds after which there is probably room."""
        waiting = f"{counted(max_waiting, 'recording')} waiting" if max_waiting else "a recording is being recognised"
        super().__init__(f"busy: {waiting}, and no other may wait; try again in {retry_after} s")
        self.retry_after = retry_after


class Ending(Exception):
    """The server ends."""

    def __init__(self) -> None:
        super().__init__("the server ends: the recording was not recognised")


class Job:
    """Parts of work that one client waits for."""

    def __init__(self, parts: Sequence[Callable[[], Any]], seconds: float) -> None:
        """`seconds`: of audio in the job; 0: unknown."""
        self.seconds = seconds
        self.is_wanted = True
        self.started: float | None = None
        self.future: Future[list[Any]] = Future()
        self._parts = parts

    def run(self) -> list[Any]:
        """What the parts return; once nobody waits any more, no further part begins."""
        self.started = time.monotonic()
        return [part() for part in self._parts if self.is_wanted]


class RecognitionQueue:
    """Jobs in the order in which they came; all methods are the event loop's."""

    def __init__(self, *, max_waiting: int) -> None:
        """Up to `max_waiting` jobs wait while another one runs."""
        self.max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recognition")
        self._jobs: list[Job] = []
        self._is_closed = False
        self._num_done = self._audio = self._spent = 0.0  # weighted: jobs, their seconds of audio, and what they took

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(job.started is None for job in self._open_jobs())

    @property
    def is_full(self) -> bool:
        """Whether another job would be refused."""
        return len(self._open_jobs()) > self.max_waiting

    def require_room(self) -> None:
        """Refuse a job that would be refused now.

        Raises:
          Full: there is no room.
          Ending: the queue is closed.
        """
        if self._is_closed:
            raise Ending
        if self.is_full:
            raise Full(max_waiting=self.max_waiting, retry_after=self._seconds_until_room())

    async def run(self, parts: Sequence[Callable[[], Any]], *, seconds: float) -> list[Any]:
        """What the parts return, called one after the other in the queue's thread once it is their turn.

        A task that is cancelled leaves the queue: parts that have not begun never do.

        Args:
          parts: all of them are one job.
          seconds: of audio that they recognise; 0: unknown.

        Raises:
          Full: there is no room.
          Ending: the queue was closed before the job began.
          Exception: whatever a part raises.
        """
        self.require_room()
        job = Job(parts, seconds)
        job.future = self._thread.submit(self._run, job)
        self._jobs.append(job)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            if self._is_closed:
                raise Ending from None
            raise
        finally:
            job.is_wanted = False

    def close(self) -> None:
        """Drop the jobs that wait and take no more."""
        self._is_closed = True
        for job in self._jobs:
            job.is_wanted = False
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open_jobs(self) -> list[Job]:
        self._jobs = [job for job in self._jobs if not job.future.done()]
        return self._jobs

    def _run(self, job: Job) -> list[Any]:
        """Run a job in the queue's thread, and note how long it took."""
        found = job.run()
        assert job.started is not None
        latest = (1.0, self._length(job), time.monotonic() - job.started)
        before = (self._num_done, self._audio, self._spent)
        self._num_done, self._audio, self._spent = (REMEMBERED * old + new for old, new in zip(before, latest))
        return found

    def _length(self, job: Job) -> float:
        """Seconds of a job's audio; of an unknown length, as many as the mean job has."""
        return job.seconds or (self._audio / self._num_done if self._num_done else 0.0)

    def _seconds_until_room(self) -> int:
        """Whole seconds, one or more, until the running job is probably done and the next leaves its place.

        The first job of all is probably half done.
        """
        running = next((job for job in self._open_jobs() if job.started is not None), None)
        if running is None or running.started is None:
            return 1
        elapsed = time.monotonic() - running.started
        total = self._length(running) * self._spent / self._audio if self._audio else 2 * elapsed
        return max(1, math.ceil(total - elapsed))

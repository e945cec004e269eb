"""The recordings that wait to be recognised: one thread takes them one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shared_moe_conformer.text import counted

RETRY_AFTER = 5
"""Seconds after which a client that found no room is told to ask again."""


class Full(Exception):
    """No more jobs may wait."""

    def __init__(self, max_waiting: int) -> None:
        waiting = f"{counted(max_waiting, 'recording')} waiting" if max_waiting else "a recording is being recognised"
        super().__init__(f"busy: {waiting}, and no other may wait; try again in {RETRY_AFTER} s")


class Ending(Exception):
    """The server ends."""

    def __init__(self) -> None:
        super().__init__("the server ends: the recording was not recognised")


class Job:
    """Parts of work that one client waits for."""

    def __init__(self, parts: Sequence[Callable[[], Any]], thread: ThreadPoolExecutor) -> None:
        self.is_wanted = True
        self._parts = parts
        self.future = thread.submit(self._run)

    def _run(self) -> list[Any]:
        """The results of the parts; once nobody waits any more, no further part begins."""
        return [part() for part in self._parts if self.is_wanted]


class RecognitionQueue:
    """Jobs in the order in which they came; all methods are the event loop's."""

    def __init__(self, *, max_waiting: int) -> None:
        """Up to `max_waiting` jobs wait while another one runs."""
        self.max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recognition")
        self._jobs: list[Job] = []
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Jobs that have not begun."""
        return sum(not job.future.running() for job in self._open_jobs())

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
            raise Full(self.max_waiting)

    async def run(self, *parts: Callable[[], Any]) -> list[Any]:
        """The results of the parts, which run one after the other in the queue's thread when it is their turn.

        A cancelled task leaves the queue: parts that have not begun never do.

        Args:
          parts: all of them are one job.

        Raises:
          Full: there is no room.
          Ending: the queue was closed before the job began.
          Exception: whatever a part raises.
        """
        self.require_room()
        job = Job(parts, self._thread)
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

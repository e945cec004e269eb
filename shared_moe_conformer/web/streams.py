"""Speech of many clients at once: one worker recognises a chunk of each as a batch."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from shared_moe_conformer.config import ENCODER_FRAME_SHIFT
from shared_moe_conformer.routing import SegmentExperts
from shared_moe_conformer.speech.transcript import EMPTY, Transcript
from shared_moe_conformer.streaming import Stream, StreamingRecognizer

SAMPLING_RATE = 16000
"""Rate of all clients' samples, in Hz. Source: sherpa-onnx's protocol."""
MOST_WAITING = 5 * SAMPLING_RATE
"""Most waiting samples of a client; beyond them its network connection waits."""
MOST_UPDATES = 100
"""Most unread updates of a client; beyond them its stream waits."""


class Update(NamedTuple):
    """News of a stream."""

    segment: int
    start: float
    """Seconds at which the segment begins in the stream; the transcript's times count from the stream's beginning."""
    transcript: Transcript
    is_final: bool
    """The segment has ended: its words stay."""
    is_eof: bool
    """The stream has ended: this is the last update."""
    experts: SegmentExperts | None = None
    """Experts of the frames of a recognised chunk; None without a chunk or without experts."""


class Busy(Exception):
    """No more streams may be open."""


class Client:
    """One client's stream, the samples that wait for it, and the updates that wait for the client."""

    def __init__(self, stream: Stream, wake: asyncio.Event) -> None:
        """`wake` is set when there is something to recognise."""
        self.updates: asyncio.Queue[Update | Exception] = asyncio.Queue()
        self.stream = stream
        self._wake = wake
        self._waiting: deque[np.ndarray] = deque()
        self._num_added = self._num_fed = 0  # samples, by the server's thread and by the worker's
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_ended = self.is_done = False

    async def add(self, samples: np.ndarray) -> None:
        """Take the next samples, (num_samples,), once there is room for them."""
        await self._has_room.wait()
        second = SAMPLING_RATE
        self._waiting.extend(samples[i : i + second] for i in range(0, len(samples), second))
        self._num_added += len(samples)
        self._look_for_room()
        self._wake.set()

    def end(self) -> None:
        """No more samples will come."""
        self._is_ended = True
        self._wake.set()

    async def next_update(self) -> Update:
        """The next update, once there is one; raises what the recogniser raised."""
        update = await self.updates.get()
        self._wake.set()
        if isinstance(update, Exception):
            raise update
        return update

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do for the worker."""
        is_wanted = not self.is_done and self.updates.qsize() < MOST_UPDATES
        return is_wanted and (bool(self._waiting) or self.stream.is_ready or self._is_ended)

    def feed(self) -> None:
        """Give the stream enough samples for a chunk; called in the worker's thread."""
        while self._waiting and not self.stream.is_ready:
            samples = self._next_part()
            self.stream.add(samples, SAMPLING_RATE)
            self._num_fed += len(samples)
        if self._is_ended and not self._waiting:
            self.stream.end()

    def _next_part(self) -> np.ndarray:
        """Up to a second of waiting samples, so that thousands of short messages cost no more than one."""
        parts = [self._waiting.popleft()]
        length = len(parts[0])
        while self._waiting and length + len(self._waiting[0]) <= SAMPLING_RATE:
            parts.append(self._waiting.popleft())
            length += len(parts[-1])
        return np.concatenate(parts)

    def publish(self, updates: Sequence[Update | Exception]) -> None:
        """Queue these updates for the client."""
        for update in updates:
            self.updates.put_nowait(update)
            self.is_done |= isinstance(update, Exception) or update.is_eof
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._num_added - self._num_fed < MOST_WAITING:
            self._has_room.set()
        else:
            self._has_room.clear()


class StreamHub:
    """The clients whose streams are open, and the worker that recognises their audio together."""

    def __init__(self, recognizer: StreamingRecognizer, *, max_streams: int) -> None:
        self.max_streams = max_streams
        self._recognizer = recognizer
        self._clients: list[Client] = []
        self._wake = asyncio.Event()

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._clients)

    @contextmanager
    def join(self) -> Iterator[Client]:
        """A client whose stream is open while the block runs.

        Raises:
          Busy: no more streams may be open.
        """
        if self.num_streams >= self.max_streams:
            raise Busy
        client = Client(self._recognizer.stream(), self._wake)
        self._clients.append(client)
        try:
            yield client
        finally:
            self._clients.remove(client)

    async def run(self) -> None:
        """Recognise audio, one chunk of every client at a time, until the task is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while await self._wake.wait():
                self._wake.clear()
                while clients := [client for client in self._clients if client.has_work]:
                    found = await loop.run_in_executor(thread, self._advance, clients)
                    for client, updates in zip(clients, found):
                        client.publish(updates)

    def _advance(self, clients: Sequence[Client]) -> list[list[Update | Exception]]:
        """The updates of each client after its next chunk.

        An error while samples are taken ends their stream, one while the batch is computed all of its streams.
        """
        errors: dict[Client, Exception] = {}
        for client in clients:
            try:
                client.feed()
            except Exception as error:
                logging.getLogger(__name__).exception("a stream's samples were not taken")
                errors[client] = error
        fed = [client for client in clients if client not in errors]
        try:
            stepped = self._recognizer.step([client.stream for client in fed]) if fed else []
            return [
                [errors[client]] if client in errors else _updates(client.stream, client.stream in stepped)
                for client in clients
            ]
        except Exception as error:
            logging.getLogger(__name__).exception("a batch of streams was not recognised")
            return [[errors.get(client, error)] for client in clients]


def _updates(stream: Stream, was_stepped: bool) -> list[Update | Exception]:
    """The news of a stream, given whether a chunk was recognised."""
    result = stream.result
    if not (was_stepped or result.is_final):
        return []
    segments = stream.pop_segments()
    first = result.segment - len(segments)
    updates = [Update(first + i, *segment, is_final=True, is_eof=False) for i, segment in enumerate(segments)]
    if not updates:
        start = stream.segment_start
        partial = EMPTY if result.is_final else result.partial
        updates = [Update(result.segment, start, partial, is_final=result.is_final, is_eof=False)]
    if was_stepped and stream.expert_ids is not None:
        start = stream.seconds - stream.expert_ids.size(1) * ENCODER_FRAME_SHIFT
        updates[0] = updates[0]._replace(experts=SegmentExperts(start, stream.expert_ids))
    return [*updates[:-1], updates[-1]._replace(is_eof=result.is_final)]

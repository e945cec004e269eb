"""Streams of clients that tests move by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.web import streams

SECOND = np.zeros(streams.SAMPLING_RATE, dtype=np.float32)


@contextlib.asynccontextmanager
async def working(hub: Any) -> AsyncIterator[None]:
    worker = asyncio.create_task(hub.run())
    yield
    worker.cancel()


@pytest.fixture
def hub(tiny_bundle: Bundle) -> Any:
    return streams.StreamHub(tiny_bundle.recognizer(chunk_size=8, left_context=16), max_streams=2)


def test_samples_wait_for_room(hub: Any) -> None:
    async def fill() -> None:
        with hub.join() as client:
            for _ in range(streams.MOST_WAITING // streams.SAMPLING_RATE):
                await client.add(SECOND)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.add(SECOND), 0.05)
            async with working(hub):
                await asyncio.wait_for(client.add(SECOND), 20)

    asyncio.run(fill())


def test_a_stream_whose_client_does_not_read_waits(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_UPDATES", 3)

    async def speak() -> None:
        with hub.join() as client:
            await client.add(np.tile(SECOND, 4))
            client.end()
            async with working(hub):
                while client.has_work:
                    await asyncio.sleep(0.01)
                assert client.updates.qsize() == 3
                while not (await asyncio.wait_for(client.next_update(), 20)).is_eof:
                    pass
                assert not client.has_work

    asyncio.run(speak())


def test_clients_are_recognised_in_one_batch(hub: Any, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, step = [], tiny_bundle.model.encoder.step
    monkeypatch.setattr(tiny_bundle.model.encoder, "step", lambda x, *rest: (sizes.append(len(x)), step(x, *rest))[1])

    async def speak() -> None:
        with hub.join() as first, hub.join() as second:
            for client in (first, second):
                await client.add(SECOND)
            async with working(hub):
                for client in (first, second):
                    await asyncio.wait_for(client.next_update(), 20)

    asyncio.run(speak())
    assert set(sizes) == {2}


def test_an_error_while_samples_are_taken_ends_their_stream_and_neither_others_nor_the_worker(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def speak() -> None:
        with hub.join() as client, hub.join() as neighbour, monkeypatch.context() as patch:
            patch.setattr(client.stream, "add", lambda *_: 1 / 0)
            for one in (client, neighbour):
                await one.add(SECOND)
            async with working(hub):
                with pytest.raises(ZeroDivisionError):
                    await asyncio.wait_for(client.next_update(), 20)
                await asyncio.wait_for(neighbour.next_update(), 20)
        async with working(hub):
            with hub.join() as client:
                client.end()
                assert (await asyncio.wait_for(client.next_update(), 20)).is_eof

    asyncio.run(speak())


def test_a_stream_is_freed_when_its_client_leaves(hub: Any) -> None:
    async def join() -> None:
        with contextlib.ExitStack() as stack:
            clients: list[Any] = [stack.enter_context(hub.join()) for _ in range(2)]
            with pytest.raises(streams.Busy):
                stack.enter_context(hub.join())
            assert hub.num_streams == len(clients) == 2
        assert hub.num_streams == 0

    asyncio.run(join())

"""People who speak to a server at the pace of speech: what they say, what they hear, and how late each word is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage

RATE = 16000
"""Rate of the samples that a server takes, in Hz."""
PACKET = RATE // 10
"""Samples that are sent together, once the last of them has been spoken."""


class Heard(NamedTuple):
    """An answer of the server."""

    seconds: float
    """Since the first sample began."""
    message: dict[str, Any]


class Connection:
    """A WebSocket of a client, for a server that speaks sherpa-onnx's protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = WSConnection(ConnectionType.CLIENT)

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect.

        Raises:
          ConnectionError: the server does not accept.
        """
        connection = cls(*await asyncio.open_connection(host, port))
        await connection.send(Request(host=f"{host}:{port}", target="/stream"))
        event = await connection._events().__anext__()
        if not isinstance(event, AcceptConnection):
            raise ConnectionError(f"the server refuses: {event}")
        return connection

    async def send(self, event: Event) -> None:
        """Send a message."""
        self._writer.write(self._protocol.send(event))
        await self._writer.drain()

    async def texts(self) -> Any:
        """Each text that comes, until the connection is closed."""
        text = ""
        async for event in self._events():
            if isinstance(event, CloseConnection):
                return
            if isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    yield text
                    text = ""

    def close(self) -> None:
        """Leave."""
        self._writer.close()

    async def _events(self) -> Any:
        while data := await self._reader.read(1 << 16):
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                if isinstance(event, Ping):  # a client that does not answer is taken for dead
                    await self.send(event.response())
                yield event


async def speak(
    host: str, port: int, samples: np.ndarray, *, pace: float = 1.0, note: Callable[[Heard], None] = lambda _: None
) -> list[Heard]:
    """Say samples (num_samples,); all answers.

    Args:
      pace: 1: that of speech; infinite: as fast as the server takes them.
      note: called with each answer.

    Raises:
      ConnectionError: the server does not accept, or answers with an error.
    """
    connection = await Connection.open(host, port)
    start = time.perf_counter()
    talking = asyncio.create_task(_talk(connection, samples, start, pace))
    heard = []
    async for text in connection.texts():
        if text == "Done!":
            break
        heard.append(Heard(time.perf_counter() - start, json.loads(text)))
        if error := heard[-1].message.get("error"):
            raise ConnectionError(error)
        note(heard[-1])
    await talking
    connection.close()
    return heard


async def _talk(connection: Connection, samples: np.ndarray, start: float, pace: float) -> None:
    for first in range(0, len(samples), PACKET):
        part = samples[first : first + PACKET]
        await asyncio.sleep(max(0.0, start + (first + len(part)) / RATE / pace - time.perf_counter()))
        await connection.send(BytesMessage(data=part.astype("<f4").tobytes()))
    await connection.send(TextMessage(data="Done"))


async def speak_together(host: str, port: int, recordings: Sequence[np.ndarray], *, within: float) -> list[list[Heard]]:
    """Say each recording over a connection of its own; they begin one after the other, all within some seconds."""

    async def later(number: int) -> list[Heard]:
        await asyncio.sleep(within * number / len(recordings))
        return await speak(host, port, recordings[number])

    return await asyncio.gather(*map(later, range(len(recordings))))


@dataclass
class Delays:
    """How late words were, in seconds; each list has one entry for each word or segment."""

    first_word: list[float] = field(default_factory=list)
    """From the beginning of a segment's first word until any word of it was shown."""
    word: list[float] = field(default_factory=list)
    """From a word's end until it was shown as it stayed."""
    final: list[float] = field(default_factory=list)
    """From the end of a segment's last word until the words were final."""
    num_shown: int = 0
    """Words in results that were not final, each counted once at its place."""
    num_grown: int = 0
    """Those that became longer."""
    num_changed: int = 0
    """Those that became another word, or none."""

    def add(self, heard: Sequence[Heard]) -> None:
        """Count a speaker's answers."""
        for answers in _segments(heard):
            final = answers[-1].message
            words = final["word_times"]
            if not words:
                continue
            begin = final["start_time"]
            first = next(answer for answer in answers if answer.message["word_times"])
            self.first_word.append(first.seconds - begin - words[0]["start"])
            self.final.append(answers[-1].seconds - begin - words[-1]["end"])
            self.word += [_shown(answers, i) - begin - word["end"] for i, word in enumerate(words)]
            self._count_changes(answers)

    def _count_changes(self, answers: Sequence[Heard]) -> None:
        final = [word["text"] for word in answers[-1].message["word_times"]]
        shown = {(i, text) for answer in answers[:-1] for i, text in enumerate(_texts(answer))}
        changed = [(i, text) for i, text in shown if final[i : i + 1] != [text]]
        grown = [text for i, text in changed if i < len(final) and final[i].startswith(text)]
        self.num_shown += len(shown)
        self.num_grown += len(grown)
        self.num_changed += len(changed) - len(grown)


def _segments(heard: Sequence[Heard]) -> Iterator[list[Heard]]:
    """The answers of each segment with an end."""
    answers: list[Heard] = []
    for answer in heard:
        answers.append(answer)
        if answer.message["is_final"]:
            yield answers
            answers = []


def _texts(answer: Heard) -> list[str]:
    return [word["text"] for word in answer.message["word_times"]]


def _shown(answers: Sequence[Heard], place: int) -> float:
    """The time from which on the word at a place was shown as it is in the last answer."""
    text, since = _texts(answers[-1])[place], answers[-1].seconds
    for answer in reversed(answers[:-1]):
        if _texts(answer)[place : place + 1] != [text]:
            break
        since = answer.seconds
    return since

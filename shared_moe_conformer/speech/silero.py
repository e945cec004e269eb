"""Silero VAD's network, computed for many windows at once: all of a recording, or those of several streams.

The package computes one window of 32 ms after the other, which takes as long as a small recogniser. Here the layers of
its network hear many windows in one call, and its own rules make stretches of speech of the probabilities.

Source: github.com/snakers4/silero-vad; its thresholds and lengths are taken as they are.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import LSTM

WINDOWS = {8000: 256, 16000: 512}
"""Samples that the network takes at once, by the sampling rates in Hz that it takes."""
_NETWORKS = {8000: "_model_8k", 16000: "_model"}
"""Names of the package's networks, by sampling rate in Hz."""


class Memory(NamedTuple):
    """What the network remembers of one stream."""

    before: Tensor
    """(C,), the last samples, which begin the next window."""
    hidden: Tensor
    """(H,), of its LSTM."""
    cell: Tensor
    """(H,), of its LSTM."""


class Network:
    """The package's network for one sampling rate, which takes several streams and windows at once."""

    def __init__(self, sampling_rate: int) -> None:
        """Load the package's weights; `sampling_rate` is one of `WINDOWS`."""
        self._size = WINDOWS[sampling_rate]
        self._parts = getattr(_package_and_model()[1], _NETWORKS[sampling_rate])
        self._num_before = int(self._parts.context_size_samples)
        weights = {f"{name}_l0": weight for name, weight in self._parts.decoder.rnn.named_parameters()}
        size = weights["weight_hh_l0"].size(1)
        self._lstm = LSTM(weights["weight_ih_l0"].size(1), size, batch_first=True)
        self._lstm.load_state_dict(weights)
        self.start = Memory(torch.zeros(self._num_before), torch.zeros(size), torch.zeros(size))
        """What is remembered at a stream's beginning."""

    def __call__(self, samples: Tensor, memories: Sequence[Memory]) -> tuple[Tensor, list[Memory]]:
        """The probability of speech in each window.

        Args:
          samples: (B, T * window), the next T windows of B streams.
          memories: of the streams.

        Returns:
          (B, T), and what is remembered of each stream.
        """
        before, hidden, cell = (torch.stack(parts) for parts in zip(*memories))
        audio = torch.cat([before, samples], dim=1)
        windows = audio.unfold(1, self._num_before + self._size, self._size)
        num_streams, num_windows, _ = windows.shape
        # not optimised: each new size would be compiled while somebody waits
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            heard = self._parts.encoder(self._parts.run_extractors(windows.flatten(0, 1))).squeeze(-1)
            heard, (hidden, cell) = self._lstm(heard.view(num_streams, num_windows, -1), (hidden[None], cell[None]))
            probabilities = self._parts.decoder.decoder(heard.flatten(0, 1)[..., None])
        kept = audio[:, audio.size(1) - self._num_before :]
        return probabilities.view(num_streams, num_windows), list(map(Memory, kept, hidden[0], cell[0]))


@functools.cache
def network(sampling_rate: int) -> Network:
    """The network for a sampling rate of `WINDOWS`; it is loaded once."""
    return Network(sampling_rate)


def speech_timestamps(audio: np.ndarray, sampling_rate: int) -> list[tuple[int, int]]:
    """First sample of each stretch of speech of a recording, and the one after its last.

    Args:
      audio: (num_samples,), of a level that the network takes.
      sampling_rate: of the samples, one of `WINDOWS`, in Hz.
    """
    samples = torch.from_numpy(audio.astype(np.float32))
    silero, missing = network(sampling_rate), -len(samples) % WINDOWS[sampling_rate]
    probabilities, _ = silero(torch.nn.functional.pad(samples, (0, missing))[None], [silero.start])
    known = _Known(probabilities[0].tolist())
    found = _package_and_model()[0].get_speech_timestamps(samples, known, sampling_rate=sampling_rate)
    return [(each["start"], each["end"]) for each in found]


class StreamRules:
    """The package's rules for the beginning and the end of speech in one stream."""

    def __init__(self, sampling_rate: int) -> None:
        """`sampling_rate` is one of `WINDOWS`."""
        self._known = _Known([])
        self._rules = _package_and_model()[0].VADIterator(self._known, sampling_rate=sampling_rate)
        self._window = torch.zeros(WINDOWS[sampling_rate])

    def take(self, probability: float) -> tuple[str, float] | None:
        """Take the next window's probability: "start" or "end" and its second, if speech starts or ends."""
        self._known.next_ones.append(probability)
        found = self._rules(self._window, return_seconds=True, time_resolution=3)
        return next(iter(found.items())) if found else None


class _Known:
    """What the package takes for its network: it gives, window by window, probabilities that are known already."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.next_ones = deque(probabilities)

    def reset_states(self) -> None:
        """Nothing: the probabilities of a recording are those from its beginning."""

    def __call__(self, window: Tensor, sampling_rate: int) -> Tensor:
        return torch.tensor(self.next_ones.popleft())


@functools.cache
def _package_and_model() -> tuple[Any, Any]:
    """The package and its model; the package sets torch to one thread, which is taken back."""
    num_threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how the package reads its own files
        package = importlib.import_module("silero_vad")
        model = package.load_silero_vad()
    torch.set_num_threads(num_threads)
    return package, model

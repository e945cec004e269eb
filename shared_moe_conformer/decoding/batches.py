"""Every search on every batch of a test set, timed; and the memory that each takes."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from shared_moe_conformer.config import FRAME_SHIFT
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.methods import decode_at_scales, decode_batch, grouped
from shared_moe_conformer.decoding.options import NOTHING, DecodingConfig, Resources
from shared_moe_conformer.decoding.scoring import Decoded
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput

if TYPE_CHECKING:
    from shared_moe_conformer.data.batch import AsrBatch

MEBIBYTE = 2**20
PATIENCE = 120.0
"""Seconds after which a search whose memory is measured is given up."""


@dataclass
class MethodResult:
    """The hypotheses of one method for one test set, and the time that they took."""

    config: DecodingConfig
    decoded: list[Decoded] = field(default_factory=list)
    hyps: list[Hypothesis] = field(default_factory=list)
    """The hypotheses of the same utterances."""
    seconds: float = 0.0
    """Encoder and search; the whole search where it serves several results."""
    audio_seconds: float = 0.0
    peak_memory: float | None = None
    """Memory (MiB) that the search of the largest batch takes at most; None: not measured."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.audio_seconds


@torch.inference_mode()
def decode_batches(
    model: AsrModel,
    batches: Iterable[AsrBatch],
    configs: Sequence[DecodingConfig],
    *,
    to_text: Callable[[list[int]], str],
    resources: Resources = NOTHING,
) -> list[MethodResult]:
    """Decode every batch by every method; the encoder runs once for all of them.

    Args:
      configs: one for each method, as `resolved` gives them; all with the same chunks.

    Returns:
      one result per config, in their order.
    """
    device = next(model.parameters()).device
    results = [MethodResult(config) for config in configs]
    for config in configs:
        _warm_up(model, config, device, resources)
    for batch in batches:
        begin = _now(device)
        encoder_output = model.encode(batch.x.to(device), batch.x_lens.to(device), configs[0].chunking)
        encoder_seconds = _now(device) - begin
        resources = replace(resources, transcripts=batch.texts)
        audio_seconds = float(batch.x_lens.sum()) * FRAME_SHIFT
        rest = iter(results)
        for group in grouped(configs):
            begin = _now(device)
            hyps_of_each = decode_at_scales(model, encoder_output, group, resources=resources)
            seconds = encoder_seconds + _now(device) - begin
            for hyps, result in zip(hyps_of_each, rest):
                result.seconds += seconds
                result.audio_seconds += audio_seconds
                result.hyps += hyps
                result.decoded += [
                    Decoded(cut_id, text, text_of(hyp, to_text))
                    for cut_id, text, hyp in zip(batch.cut_ids, batch.texts, hyps, strict=True)
                ]
    return results


def text_of(hyp: Hypothesis, to_text: Callable[[list[int]], str]) -> str:
    """The text of a hypothesis: its words, or if the search knows none, those of its tokens."""
    return to_text(hyp.tokens) if hyp.words is None else " ".join(hyp.words)


@torch.inference_mode()
def peak_memories(
    model: AsrModel, batches: Iterable[AsrBatch], configs: Sequence[DecodingConfig], resources: Resources
) -> list[float | None]:
    """The peak memory (MiB) of each search on the largest batch; the first that cannot be measured ends the measuring.

    Call this before anything is decoded: `peak_memory` searches in copies of this process, and threads that k2 has
    started are not copied.
    """
    largest = max(batches, key=lambda batch: batch.x.size(0) * batch.x.size(1))
    device = next(model.parameters()).device
    encoder_output = model.encode(largest.x.to(device), largest.x_lens.to(device), configs[0].chunking)
    resources = replace(resources, transcripts=largest.texts)
    peaks: list[float | None] = []
    for config in tqdm(configs, desc="measuring memory", unit="search"):
        search = functools.partial(decode_batch, model, encoder_output, config, resources=resources)
        peaks.append(peak_memory(search, device))
        if peaks[-1] is None:
            break
    return peaks + [None] * (len(configs) - len(peaks))


def _warm_up(model: AsrModel, config: DecodingConfig, device: torch.device, resources: Resources) -> None:
    """Search one frame, so that graphs and libraries are loaded before time is taken."""
    frame = torch.zeros(1, 1, model.config.encoder.encoder_dim, device=device)
    one = torch.ones(1, dtype=torch.int64, device=device)
    nothing_said = replace(resources, transcripts=[""])
    decode_batch(model, EncoderOutput(frame, one, None), config, resources=nothing_said)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(search: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory (MiB) of a call beyond the memory in use before it; None where it cannot be measured.

    On a GPU, torch's own count is returned. Elsewhere the call runs on one thread in a forked copy of this process,
    which is thrown away: every search begins with the same memory and cannot use what another has freed. Memory that
    this process has freed is fragmented, so a call may take somewhat more than in a new process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        search()
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    if not Path("/proc/self/clear_refs").exists():
        return None
    copies = multiprocessing.get_context("fork")
    receiving, sending = copies.Pipe(duplex=False)
    process = copies.Process(target=_measure, args=(search, sending), daemon=True)
    process.start()
    sending.close()
    try:
        return float(receiving.recv()) if receiving.poll(PATIENCE) else None
    except EOFError:  # the search failed
        return None
    finally:
        process.kill()
        process.join()


def _measure(search: Callable[[], object], sending: Connection) -> None:
    """Search in the copy, with no output on the terminal, and send the peak.

    Pages of programs and libraries do not count; the system tells how many they are only after the search. Source of
    the names: proc(5), /proc/[pid]/status and clear_refs.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)  # the original's threads are not copied
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)  # give memory that was freed back to the system
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    before = _status("RssAnon")
    search()
    sending.send(max(0.0, _status("VmHWM") - _status("RssFile") - _status("RssShmem") - before))


def _status(name: str) -> float:
    """An entry (MiB) of this process's status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024

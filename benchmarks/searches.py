"""Batched searches against searches that take one utterance at a time.

    python -m benchmarks.searches

The encoder's frames are random and the joiner sharpened, with a blank at 4 of 5 frames, about as in speech; only the
search is timed. The real-time factor counts 0.04 s a frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import per_utterance_search
from benchmarks.tables import Report, Table, command_line
from benchmarks.timing import forward, take_turns
from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.decoding.beam_search import modified_beam_search
from shared_moe_conformer.decoding.greedy import greedy_search
from shared_moe_conformer.model.asr_model import AsrModel

BLANK_SHARE = 0.8
BEAM = 4
SECONDS_PER_FRAME = 0.04


def measure(quick: bool) -> Report:
    """Both searches at several batch sizes."""
    batch_sizes, t, rounds = ([1, 2], 8, 1) if quick else ([1, 4, 16, 32], 250, 3)
    model = make_model(50 if quick else 500)
    encoder_out = make_frames(model, max(batch_sizes), t)
    rows = []
    with torch.inference_mode():
        for name, plain, batched in searches(model):
            contenders = {"one by one": forward(each, plain, encoder_out[:1])}
            contenders |= {f"batch of {n}": forward(batched, encoder_out[:n]) for n in batch_sizes}
            times = take_turns(contenders, rounds=rounds)
            sizes = [1, *batch_sizes]
            for (way, time), n in zip(times.items(), sizes, strict=True):
                real_time_factor = time.seconds / (n * t * SECONDS_PER_FRAME)
                rows.append([f"{name}, {way}", real_time_factor, time.ratio.divided(n)])
    columns = ["", "real-time factor", "ratio to one by one"]
    return Report([Table(f"Searches, {model.config.vocab_size} units, {t} frames an utterance", columns, rows)], [])


def searches(
    model: AsrModel,
) -> list[tuple[str, Callable[[Tensor], list[int]], Callable[[Tensor], list[list[int]]]]]:
    """Name, yardstick for an utterance (T, C), ours for a batch (N, T, C)."""

    def lens(x: Tensor) -> Tensor:
        return torch.full((len(x),), x.size(1))

    return [
        (
            "greedy",
            lambda x: per_utterance_search.greedy_search(model, x),
            lambda x: [hyp.tokens for hyp in greedy_search(model, x, lens(x))],
        ),
        (
            f"modified beam {BEAM}",
            lambda x: per_utterance_search.modified_beam_search(model, x, beam=BEAM),
            lambda x: [hyp.tokens for hyp in modified_beam_search(model, x, lens(x), beam_size=BEAM)],
        ),
    ]


def each(search: Callable[[Tensor], list[int]], encoder_out: Tensor) -> list[list[int]]:
    """The search of each utterance by itself."""
    return [search(x) for x in encoder_out]


def make_model(vocab_size: int) -> AsrModel:
    """A recogniser of usual sizes whose encoder is not used."""
    torch.manual_seed(0)
    config = ModelConfig(encoder=EncoderConfig(group_sizes=(1,), num_experts=1), vocab_size=vocab_size)
    model = AsrModel(config).eval().requires_grad_(False)
    model.joiner.output.weight *= 8
    return model


def make_frames(model: AsrModel, num_utterances: int, num_frames: int) -> Tensor:
    """Random frames (N, T, C), after which the joiner's blank gets a bias that makes it win at its share of frames."""
    frames = torch.randn(num_utterances, num_frames, model.config.encoder.encoder_dim)
    decoder_frame = model.joiner.decoder_projection(model.decoder.step(torch.tensor([model.decoder.start_context])))
    logits = model.joiner(model.joiner.encoder_projection(frames), decoder_frame.unsqueeze(1))
    lead = logits[..., 1:].amax(-1) - logits[..., 0]
    model.joiner.output.bias[0] += lead.flatten().quantile(BLANK_SHARE)
    return frames


if __name__ == "__main__":
    command_line(measure, __doc__)

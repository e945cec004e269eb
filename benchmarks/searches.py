"""Batched searches against searches that take one utterance at a time.

    python -m benchmarks.searches

The encoder's frames are random and the joiner sharpened, with a blank at 4 of 5 frames, about as in speech; only the
search is timed. The real-time factor counts 0.04 s a frame. The searches of one utterance are those of icefall, in our
words (greedy_search and modified_beam_search of its pruned_transducer_stateless recipes); both must find the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.tables import Report, Table, command_line
from benchmarks.timing import forward, take_turns
from shared_moe_conformer.config import EncoderConfig, ModelConfig
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch
from shared_moe_conformer.decoding.greedy import GreedySearch
from shared_moe_conformer.decoding.hypothesis import search_utterances
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
            few = encoder_out[:4, :25]
            assert batched(few) == each(plain, few), f"{name}: one by one, other tokens are found"
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
            lambda x: plain_greedy_search(model, x),
            lambda x: [hyp.tokens for hyp in search_utterances(GreedySearch(model), x, lens(x))],
        ),
        (
            f"modified beam {BEAM}",
            lambda x: plain_beam_search(model, x, beam=BEAM),
            lambda x: [hyp.tokens for hyp in search_utterances(ModifiedBeamSearch(model, BEAM), x, lens(x))],
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
    """Random frames (N, T, C), after which the joiner's blank gets a bias that makes it win at its share of frames.

    The bias lies midway between the leads of two frames, so no frame is a draw that rounding would decide.
    """
    frames = torch.randn(num_utterances, num_frames, model.config.encoder.encoder_dim)
    decoder_frame = model.joiner.decoder_projection(model.decoder.step(torch.tensor([model.decoder.start_context])))
    logits = model.joiner(model.joiner.encoder_projection(frames), decoder_frame.unsqueeze(1))
    leads = (logits[..., 1:].amax(-1) - logits[..., 0]).flatten().sort().values
    wins = round(BLANK_SHARE * len(leads))
    model.joiner.output.bias[0] += leads[wins - 1 : wins + 1].mean()
    return frames


class Partial(NamedTuple):
    """A hypothesis, the start context included."""

    tokens: tuple[int, ...]
    log_prob: float


def plain_greedy_search(model: AsrModel, encoder_out: Tensor) -> list[int]:
    """Tokens of one utterance (T, C): at most one a frame."""
    size = model.decoder.context_size
    tokens = list(model.decoder.start_context)
    decoder_frame = _decoder_frame(model, [tuple(tokens)])
    for frame in model.joiner.encoder_projection(encoder_out):
        token = int(model.joiner(frame.unsqueeze(0), decoder_frame).argmax())
        if token != model.decoder.blank_id:
            tokens.append(token)
            decoder_frame = _decoder_frame(model, [tuple(tokens)])
    return tokens[size:]


def plain_beam_search(model: AsrModel, encoder_out: Tensor, *, beam: int) -> list[int]:
    """Tokens of one utterance (T, C): hypotheses with equal tokens are added, the best per token wins."""
    beams = {tuple(model.decoder.start_context): 0.0}
    for frame in model.joiner.encoder_projection(encoder_out):
        hyps = [Partial(tokens, log_prob) for tokens, log_prob in beams.items()]
        logits = model.joiner(frame.unsqueeze(0), _decoder_frame(model, [hyp.tokens for hyp in hyps]))
        log_probs = logits.log_softmax(-1) + torch.tensor([[hyp.log_prob] for hyp in hyps])
        best = log_probs.flatten().topk(beam)
        beams = {}
        for log_prob, place in zip(best.values.tolist(), best.indices.tolist()):
            parent, token = divmod(place, log_probs.size(1))
            tokens = hyps[parent].tokens + ((token,) if token != model.decoder.blank_id else ())
            beams[tokens] = _log_add(beams[tokens], log_prob) if tokens in beams else log_prob
    best_tokens = max(beams, key=lambda tokens: beams[tokens] / len(tokens))
    return list(best_tokens[model.decoder.context_size :])


def _decoder_frame(model: AsrModel, hyps: list[tuple[int, ...]]) -> Tensor:
    context = torch.tensor([tokens[-model.decoder.context_size :] for tokens in hyps])
    return model.joiner.decoder_projection(model.decoder.step(context))


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


if __name__ == "__main__":
    command_line(measure, __doc__)

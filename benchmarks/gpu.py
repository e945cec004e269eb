"""Is everything that a GPU computes what a CPU computes? And how fast are steps, experts, losses, features, decoding?

    benchmarks/gpu.sh                        # at most eight minutes on one GPU
    benchmarks/gpu.sh --device cpu --quick   # a rehearsal

Every check compares with the same computation on the CPU in float32 and says the largest relative difference. The exit
status is 1 if one is above its tolerance. Parts for which no time is left are named.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kaldialign
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables import Table, plain
from shared_moe_conformer.config import EncoderConfig, FeatureConfig, ModelConfig, TrainingConfig
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.features import feature_extractor, filter_banks
from shared_moe_conformer.decoding.methods import decode_batch
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.device import choose_device
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput
from shared_moe_conformer.model.moe import Experts
from shared_moe_conformer.training.metrics import loss_scales
from shared_moe_conformer.training.precision import recompute_activations
from shared_moe_conformer.training.trainer import Trainer

TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2, "float16": 2e-2}
"""Largest difference that is allowed, relative to the largest value; TF32 and sums in another order are within it."""
METHODS = ("greedy_search", "modified_beam_search", "ctc_greedy_search")


class Size(NamedTuple):
    """How much is computed."""

    utterances: int
    seconds: float
    encoder_dim: int
    layers: int
    frames: int
    """Through the experts."""


FULL, QUICK = Size(64, 10.0, 512, 12, 65_536), Size(2, 1.0, 32, 2, 64)
Row = list[object]


class Part(NamedTuple):
    """One of the things that are checked and timed."""

    name: str
    rows: Callable[[torch.device, Size], Iterator[Row]]
    """Each row says what, its value and unit, the difference from the CPU and the one allowed (None: only timed)."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto: a GPU if there is one [auto]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    parser.add_argument("--seconds", type=float, default=420, help="no part begins later than this [420]")
    args = parser.parse_args()
    device, size, start = choose_device(args.device), QUICK if args.quick else FULL, time.perf_counter()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {'quick' if args.quick else 'full'} sizes", flush=True)
    failed = [part.name for part in PARTS if not run_part(part, device, size, left=args.seconds + start)]
    print(f"{time.perf_counter() - start:.0f} s; " + (f"FAILED: {', '.join(failed)}" if failed else "all is equal"))
    sys.exit(bool(failed))


def run_part(part: Part, device: torch.device, size: Size, *, left: float) -> bool:
    """Print the part's table; whether all of it ran and is equal."""
    if time.perf_counter() > left:
        print(f"\n{part.name}: no time left")
        return False
    rows, good = [], True
    try:
        for what, value, unit, difference, allowed in part.rows(device, size):
            is_equal = allowed is None or difference <= allowed  # type: ignore[operator]
            good &= is_equal
            rows.append([what, value, unit, difference, "" if is_equal else f"above {allowed}"])
    except (RuntimeError, ValueError) as error:  # the other parts can still be told
        rows.append([f"{type(error).__name__}: {str(error).splitlines()[0]}", None, "", None, "failed"])
        good = False
    print("\n" + plain(Table(part.name, ["", "value", "unit", "from the CPU's", ""], rows)), flush=True)
    return good


def features(device: torch.device, size: Size) -> Iterator[Row]:
    """Lhotse's filter banks on the device and, where it is installed, kaldifeat's."""
    samples = 0.1 * torch.randn(size.utterances, int(size.seconds * 16000), generator=generator())
    hours = samples.numel() / 16000 / 3600
    expected = torch.as_tensor(feature_extractor(FeatureConfig()).extract(samples[:1].numpy(), 16000)).squeeze(0)
    banks, moved = filter_banks(FeatureConfig()).to(device), samples.to(device)
    seconds, found = timed(lambda: banks(moved), device)
    yield ["filter banks by torch", hours / seconds * 3600, "hours an hour", differ(found[0], expected), 1e-3]
    if importlib.util.find_spec("kaldifeat") is None:
        return
    from lhotse.features.kaldifeat import KaldifeatFbank, KaldifeatFbankConfig

    kaldifeat = KaldifeatFbank(KaldifeatFbankConfig(device=str(device)))
    seconds, batch = timed(lambda: kaldifeat.extract_batch(list(moved), 16000), device)
    own = torch.as_tensor(np.asarray(torch.as_tensor(batch[0]).cpu()))
    yield ["kaldifeat", hours / seconds * 3600, "hours an hour", differ(own, expected), 1e-3]


def losses(device: torch.device, size: Size) -> Iterator[Row]:
    """Each loss and the gradient of their sum, with experts and without."""
    for num_experts in (1, 4):
        model, batch = make_model(size, num_experts=num_experts), make_batch(size, utterances=min(size.utterances, 8))
        expected, gradient = losses_of(model, batch, torch.device("cpu"))
        found, own = losses_of(model, batch, device)
        for name, value in expected.items():
            difference = abs(found[name] - value) / max(abs(value), 1e-6)
            yield [f"{name}, experts: {num_experts}", value, "a frame", difference, TOLERANCE["float32"]]
        yield [f"gradient, experts: {num_experts}", None, "", differ(own, gradient), 5 * TOLERANCE["float32"]]


def losses_of(model: AsrModel, batch: AsrBatch, device: torch.device) -> tuple[dict[str, float], Tensor]:
    trainer = Trainer(model, TrainingConfig(), device=device)
    model.eval()
    trainer.optimizer.zero_grad(set_to_none=True)
    loss, totals = trainer.losses(model, batch, loss_scales(trainer.config))
    loss.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    averages = {name: float(value) for name, value in totals.averages().items() if name.endswith("loss")}
    return averages, gradient


def updates(device: torch.device, size: Size) -> Iterator[Row]:
    """The weights after three updates with each optimizer, against the CPU's."""
    for optimizer in ("adamw", "muon"):
        config = TrainingConfig(optimizer=optimizer, warmup_steps=0, learning_rate=1e-3)  # type: ignore[arg-type]
        weights = []
        for place in (torch.device("cpu"), device):
            model = make_model(size)
            before = flat(model)
            trainer = Trainer(model, config, device=place)
            trainer.train_mode()
            for _ in range(3):
                trainer.train_step(make_batch(size, utterances=min(size.utterances, 4)), progress=0.1)
            weights.append(flat(model) - before)
        share = float(
            (weights[1] - weights[0]).norm() / weights[0].norm()
        )  # AdamW turns small gradients into large steps
        yield [f"three updates by {optimizer}", None, "", share, 0.1]


def steps(device: torch.device, size: Size) -> Iterator[Row]:
    """Time and memory of an update; the losses of each precision against float32's on the CPU."""
    small = make_batch(size, utterances=min(size.utterances, 4))
    expected, _ = losses_of(make_model(size), small, torch.device("cpu"))
    batch, hours = make_batch(size), size.utterances * size.seconds / 3600
    ways = [("float32", False), ("bfloat16", False), ("bfloat16", True), ("float16", False)]
    for precision, checkpointed in ways if device.type == "cuda" else ways[:1]:
        model = make_model(size)
        if checkpointed:
            recompute_activations(model)
        config = TrainingConfig(precision=precision)  # type: ignore[arg-type]
        trainer = Trainer(model, config, device=device)
        trainer.train_mode()
        with trainer.precision.autocast():
            model.eval()
            _, totals = trainer.losses(model, small, loss_scales(config))
        trainer.train_mode()
        difference = max(
            abs(float(value) - expected[name]) / max(abs(expected[name]), 1e-6)
            for name, value in totals.averages().items()
            if name in expected
        )
        reset_memory(device)
        seconds, report = timed(functools.partial(trainer.train_step, batch, progress=0.5), device, rounds=5)
        if report.skipped:
            raise RuntimeError(f"{precision}: {report.skipped}")
        name = f"{precision}{', activations computed again' if checkpointed else ''}"
        yield [f"update, {name}", hours / seconds * 3600, "hours an hour", difference, TOLERANCE[precision]]
        yield [f"memory, {name}", memory(device), "MiB", None, None]


def experts(device: torch.device, size: Size) -> Iterator[Row]:
    """Forward and backward of the experts, as a share of what the device does in one large product."""
    C, hidden, E = size.encoder_dim, 4 * size.encoder_dim, 8
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    layer, counts = Experts(C, hidden, E), [size.frames // E] * E
    rows = torch.randn(size.frames, C, generator=generator())
    expected = layer(rows[: 8 * E], [8] * E)
    layer, rows = layer.to(device, kind), rows.to(device, kind)
    difference = differ(layer(rows[: 8 * E], [8] * E), expected)
    large = torch.randn(min(size.frames, 8192), min(size.frames, 8192), device=device, dtype=kind)
    seconds, _ = timed(lambda: large @ large, device, rounds=10)
    peak = 2 * len(large) ** 3 / seconds
    yield ["one large product", peak / 1e12, "TFLOP/s", None, None]
    operations = 3 * 2 * 2 * C * hidden * size.frames  # two products forward, four backward; 2 operations a weight
    for name, own in (
        ("balanced", counts),
        ("skewed", [size.frames - 7 * (size.frames // 32), *[size.frames // 32] * 7]),
    ):
        seconds, _ = timed(functools.partial(forward_backward, layer, rows, own), device, rounds=10)
        yield [f"experts, {name}", operations / seconds / 1e12, "TFLOP/s", difference, TOLERANCE["bfloat16"]]
        yield [f"experts, {name}", operations / seconds / peak, "of that product", None, None]
    dense = nn.Sequential(nn.Linear(C, hidden), nn.SiLU(), nn.Linear(hidden, C)).to(device, kind)
    seconds, _ = timed(functools.partial(forward_backward, dense, rows), device, rounds=10)
    yield ["a dense feed-forward", operations / seconds / peak, "of that product", None, None]


def forward_backward(layer: nn.Module, *inputs: Any) -> None:
    layer(*inputs).sum().backward()


def decoding(device: torch.device, size: Size) -> Iterator[Row]:
    """The searches: the same tokens, and their time. Untrained models emit much, so that there is much to compare.

    Two experts, or two tokens, that are as good as equal may change places by rounding, so a few may differ.
    """
    model, batch = make_model(size).eval(), make_batch(size, utterances=min(size.utterances, 16))
    hours = len(batch.x) * size.seconds / 3600
    with torch.inference_mode():
        on_cpu = model.encode(batch.x, batch.x_lens)
        expected = {m: tokens_of(model, on_cpu, m) for m in METHODS}
        model = model.to(device)
        seconds, encoded = timed(lambda: model.encode(batch.x.to(device), batch.x_lens.to(device)), device)
        others = other_frames(encoded.encoder_out, on_cpu.encoder_out)
        yield ["encoder, share of other frames", hours / seconds * 3600, "hours an hour", others, 0.01]
        same = type(encoded)(*(part.to(device) if isinstance(part, Tensor) else part for part in on_cpu))
        for method in METHODS:
            seconds, found = timed(functools.partial(tokens_of, model, same, method), device, rounds=1)
            errors = sum(kaldialign.edit_distance(a, b)["total"] for a, b in zip(expected[method], found, strict=True))
            errors /= max(sum(map(len, expected[method])), 1)
            yield [f"{method}, share of other tokens", hours / seconds * 3600, "hours an hour", errors, 0.02]


def tokens_of(model: AsrModel, encoded: EncoderOutput, method: str) -> list[list[int]]:
    config = DecodingConfig(decoding_method=method)  # type: ignore[arg-type]
    return [list(hyp.tokens) for hyp in decode_batch(model, encoded, config)]


PARTS = [
    Part("Features", features),
    Part("Losses and gradients", losses),
    Part("Updates", updates),
    Part("Training", steps),
    Part("Experts", experts),
    Part("Decoding", decoding),
]


def make_model(size: Size, *, num_experts: int = 4) -> AsrModel:
    """A shared model with experts, always with the same weights, without dropout."""
    torch.manual_seed(0)
    encoder = EncoderConfig(
        encoder_dim=size.encoder_dim,
        feed_forward_dim=4 * size.encoder_dim,
        group_sizes=(size.layers // 2, size.layers - size.layers // 2),
        num_experts=num_experts,
        dropout=0.0,
    )
    return AsrModel(ModelConfig(encoder=encoder))


def make_batch(size: Size, *, utterances: int = 0) -> AsrBatch:
    """Random features with three tokens a second."""
    N, T, U = utterances or size.utterances, int(100 * size.seconds), int(3 * size.seconds)
    x = 3 * torch.randn(N, T, 80, generator=generator()) - 8
    y = torch.randint(3, 500, (N, U), generator=generator())
    lens = torch.full((N,), T) - torch.arange(N) % 5 * (T // 20)
    names = [str(i) for i in range(N)]
    return AsrBatch(x, lens, y, torch.full((N,), U), names, names)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flat(model: nn.Module) -> Tensor:
    """A copy of all weights."""
    return torch.cat([p.detach().flatten().cpu().clone() for p in model.parameters()])


def differ(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def other_frames(found: Tensor, expected: Tensor) -> float:
    """Share of the frames (N, T, C) that differ by more than rounding."""
    difference = (found.detach().cpu() - expected).abs().amax(dim=-1)
    return float((difference > TOLERANCE["float32"] * expected.abs().max()).float().mean())


def timed(call: Callable[[], Any], device: torch.device, *, rounds: int = 3) -> tuple[float, Any]:
    """Seconds of a call, the least of some after one that warms up, and what it gives."""
    times, result = [], call()
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        result = call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times), result


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> float:
    """MiB at the most; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0


if __name__ == "__main__":
    main()

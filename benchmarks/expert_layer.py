"""The expert feed-forward against the dense one that does the same work for each frame.

    python -m benchmarks.expert_layer

"training" is forward and backward: the update of stored weights belongs to benchmarks.sharing, where several layers
share them. What the weights alone cost, without routing, is shown by as many dense layers as there are
experts, each with its share of the frames.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.tables import Floor, Ratio, Report, Table, command_line
from benchmarks.timing import forward, take_turns
from shared_moe_conformer.config import EncoderConfig
from shared_moe_conformer.model.frames import Frames
from shared_moe_conformer.model.moe import Experts, MoeFeedForward, Router, choose_experts


class Size(NamedTuple):
    """Sizes of a measured layer and its input."""

    encoder_dim: int
    hidden: int
    num_experts: int
    num_frames: int
    forward_floor: float | None = None
    training_floor: float | None = None


class Ratios(NamedTuple):
    """Expert layers against dense ones."""

    dense_ms: float
    """Forward of the dense layer."""
    forward: Ratio
    training: Ratio
    shares: Ratio
    """Forward of several dense layers, each with its share of the frames, over that of one."""
    shares_training: Ratio


SIZES = [
    Size(256, 1024, 4, 200, 1.4, 1.4),
    Size(256, 1024, 8, 200),
    Size(256, 1024, 4, 2000, 1.10, 1.10),
    Size(256, 1024, 8, 2000, 1.15, 1.15),
    Size(256, 1024, 4, 20000, 1.0, 1.0),
    Size(256, 1024, 8, 20000, 1.0, 1.0),
    *[Size(512, 2048, num_experts, num_frames) for num_frames in (200, 2000, 20000) for num_experts in (4, 8)],
]
TYPICAL = Size(256, 1024, 8, 2000)
QUICK_SIZES = [Size(16, 32, 3, 20, 1.4, 1.4)]
SKEW_FLOOR = 1.2


def measure(quick: bool) -> Report:
    """Time against the dense layer, skewed routing against balanced, lower precision against float32."""
    torch.manual_seed(0)
    sizes, typical = (QUICK_SIZES, QUICK_SIZES[0]) if quick else (SIZES, TYPICAL)
    rows, floors = [], []
    for size in sizes:
        ratios = against_dense(size, rounds=rounds(size, quick))
        rows.append([*size[:4], *ratios])
        floors += floors_of(size, ratios)
    columns = ["C", "hidden", "experts", "frames", "dense forward ms", "forward", "training"]
    columns += ["E dense, forward", "E dense, training"]
    against = Table("Expert layer, top-1, as ratios to a dense feed-forward", columns, rows)
    skew, skew_floor = skewed(typical, quick)
    tables = [against, skew, precisions(typical, quick)]
    return Report(tables, [*floors, skew_floor])


def floors_of(size: Size, ratios: Ratios) -> list[Floor]:
    """The targets of a size."""
    return [
        Floor(f"{size.num_experts} experts, {size.num_frames:,} frames, {kind}", floor, ratio)
        for kind, floor, ratio in zip(("forward", "training"), size[4:], ratios[1:3], strict=True)
        if floor is not None
    ]


def rounds(size: Size, quick: bool) -> int:
    """More rounds where a call is short."""
    return 1 if quick else max(9, min(31, 24000 // size.num_frames))


def against_dense(size: Size, *, rounds: int) -> Ratios:
    """Forward, and forward and backward, over those of the dense layer."""
    dense, shares = torchs_dense(size), nn.ModuleList(torchs_dense(size) for _ in range(size.num_experts))
    moe = experts_of(size)
    router = Router(size.encoder_dim, size.num_experts)
    x = torch.randn(1, size.num_frames, size.encoder_dim)
    calls = {
        "dense": forward(dense, x),
        "experts": forward(moe, x, frames_of(x), router),
        "shares": forward(each_its_share, shares, x),
    }
    found = take_turns(calls, rounds=rounds)
    x = x.clone().requires_grad_()
    inputs = [x, *moe.parameters(), *router.parameters()]
    steps = {
        "dense": gradients(lambda: [dense(x)], [x, *dense.parameters()]),
        "experts": gradients(lambda: [moe(x, frames_of(x), router)[0]], inputs),
        "shares": gradients(lambda: each_its_share(shares, x), [x, *shares.parameters()]),
    }
    training = take_turns(steps, rounds=rounds)
    ratios = [times[name].over(times["dense"]) for name in ("experts", "shares") for times in (found, training)]
    return Ratios(1e3 * found["dense"].seconds, *ratios)


def frames_of(x: Tensor) -> Frames:
    """Utterances (N, T, C) without padding."""
    return Frames(torch.full((x.size(0),), x.size(1)), x.size(1), head_dim=2)


def each_its_share(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The outputs of dense layers for frames (1, M, C), which are divided among them in their order."""
    return [layer(frames) for layer, frames in zip(layers, x.tensor_split(len(layers), dim=1), strict=True)]


def experts_of(size: Size) -> MoeFeedForward:
    """An expert feed-forward, one expert for each frame."""
    dim, hidden, num_experts = size.encoder_dim, size.hidden, size.num_experts
    return MoeFeedForward(
        EncoderConfig(encoder_dim=dim, num_attention_heads=1, feed_forward_dim=hidden, num_experts=num_experts, top_k=1)
    )


def gradients(function: Callable[[], list[Tensor]], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and backward."""
    return lambda: torch.autograd.grad([y.square().mean() for y in function()], inputs)


def skewed(size: Size, quick: bool) -> tuple[Table, Floor]:
    """One expert with 90 % of the frames against all with the same number."""
    contenders = {"balanced": routed(size, None), "skewed": routed(size, 0.9)}
    ratio = take_turns(contenders, rounds=rounds(size, quick))["skewed"].ratio
    rows = [[f"{size.num_experts} experts, {size.num_frames:,} frames", ratio]]
    table = Table("One expert gets 90 % of the frames, ratio to balanced routing", ["", "training"], rows)
    return table, Floor("skewed routing against balanced, training", SKEW_FLOOR, ratio)


def routed(size: Size, share_of_first: float | None) -> Callable[[], object]:
    """Forward and backward of experts that get these shares of the frames, in random order."""
    experts = Experts(size.encoder_dim, size.hidden, size.num_experts)
    first = 1 / size.num_experts if share_of_first is None else share_of_first
    rest = (1 - first) / max(size.num_experts - 1, 1)
    counts = (torch.tensor([first, *[rest] * (size.num_experts - 1)]) * size.num_frames).long()
    counts[0] += size.num_frames - counts.sum()
    x = torch.randn(size.num_frames, size.encoder_dim, requires_grad=True)
    order, shares = torch.randperm(size.num_frames), counts.tolist()
    return gradients(lambda: [experts(x[order], shares)], [x, *experts.parameters()])


def precisions(size: Size, quick: bool) -> Table:
    """Inference in lower precision: bf16 by autocast; int8 weights by torch's dynamic quantisation."""
    torchs = torchs_dense(size)
    moe = experts_of(size).eval()
    router = Router(size.encoder_dim, size.num_experts).eval()
    x = torch.randn(1, size.num_frames, size.encoder_dim)
    contenders = {
        "experts, float32": forward(moe, x, frames_of(x), router),
        "experts, bf16 (autocast)": forward(in_bf16(moe), x, frames_of(x), router),
        "torch's dense, float32": forward(torchs, x),
        "torch's dense, bf16 (autocast)": forward(in_bf16(torchs), x),
    }
    quantised = in_int8(torchs)
    if quantised is not None:
        contenders["experts, int8 (dynamic)"] = forward(Int8Experts(moe.experts), x[0], router)
        contenders["torch's dense, int8 (dynamic)"] = forward(quantised, x)
    times = take_turns(contenders, rounds=rounds(size, quick))
    rows = [[name, 1e3 * time.seconds, time.ratio] for name, time in times.items()]
    return Table(f"Inference in lower precision, {size.num_frames:,} frames", ["", "ms", "ratio"], rows)


def torchs_dense(size: Size) -> nn.Module:
    """A feed-forward of torch's own layers."""
    hidden, output = nn.Linear(size.encoder_dim, size.hidden), nn.Linear(size.hidden, size.encoder_dim)
    return nn.Sequential(hidden, nn.SiLU(), output)


def in_bf16(module: nn.Module) -> Callable[..., object]:
    """The module under autocast."""

    def call(*inputs: object) -> object:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module(*inputs)

    return call


def in_int8(module: nn.Module) -> nn.Module | None:
    """A copy whose linear maps have int8 weights; None where torch can no longer do that."""
    warnings.simplefilter("ignore")  # deprecated, without a successor in torch itself
    try:
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    except (AttributeError, RuntimeError, NotImplementedError):
        return None


class Int8Experts:
    """Experts with int8 weights, each computing its slice of the sorted frames; the router stays as it is."""

    def __init__(self, experts: Experts) -> None:
        num_experts, encoder_dim, hidden = experts.hidden_weight.shape
        self.experts = [torchs_dense(Size(encoder_dim, hidden, num_experts, 0)) for _ in range(num_experts)]
        for e, expert in enumerate(self.experts):
            w1, b1, w2, b2 = (weight[e] for weight in experts.parameters())
            expert.load_state_dict({"0.weight": w1.t(), "0.bias": b1, "2.weight": w2.t(), "2.bias": b2})
        self.experts = [in_int8(expert) or expert for expert in self.experts]

    def __call__(self, x: Tensor, router: Router) -> Tensor:
        """Return (M, C) of frames (M, C), top-1."""
        _, expert_ids, gates = choose_experts(router(x), 1)
        order = expert_ids[:, 0].argsort(stable=True)
        counts = torch.bincount(expert_ids[:, 0], minlength=len(self.experts)).tolist()
        slices = zip(self.experts, x.index_select(0, order).split(counts), strict=True)
        out = torch.cat([expert(frames) for expert, frames in slices if len(frames)])
        return torch.empty_like(x).index_copy(0, order, out).mul_(gates)


if __name__ == "__main__":
    command_line(measure, __doc__)

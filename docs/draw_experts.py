"""Draw the pictures of docs/what_experts_do.md, and print their numbers: what a model's experts depend on.

python docs/draw_experts.py --model zoo/an4-base --recipe-dir egs/an4/ASR --split test
python docs/draw_experts.py --merged EXP_DIR --epoch 10 --avg 2
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from shared_moe_conformer.bundle import Bundle
from shared_moe_conformer.cli import run_main
from shared_moe_conformer.config import SUBSAMPLING_FACTOR, require
from shared_moe_conformer.data.batch import AsrBatch
from shared_moe_conformer.data.datamodule import AsrDataModule
from shared_moe_conformer.data.loaders import EvalLoader
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.moe import Router
from shared_moe_conformer.pretrained import load_experiment
from shared_moe_conformer.reporting.experts import information
from shared_moe_conformer.training.averaging import Selection

HERE = Path(__file__).parent
UNIT, RANDOM = "unit that is said, or pause", "routers drawn at random"
NUM_DRAWS = 5
COLOURS = ("#2f5f9e", "#d08a2e", "#4f8f5b", "#8a5fa8")
SHOWN_UNITS = 24
LOUDNESS_STEPS = 8
BLANK = 0
REACH = 3
"""Frames of 40 ms from the one in which a unit is found up to which it is taken to be said."""


class LabelledFrames(NamedTuple):
    """The M valid frames of a set, utterance by utterance, and what is known of each."""

    expert_ids: Tensor
    """Its most probable expert in each of L feed-forwards, (L, M)."""
    units: Tensor
    """The unit that is said in it, (M,); 0 in a pause."""
    loudness: Tensor
    """Mean of its features, the logarithm of energies, (M,)."""
    utterances: Tensor
    """The number of its utterance in `cut_ids`, (M,)."""
    cut_ids: list[str]


@torch.inference_mode()
def label_frames(model: AsrModel, batches: Iterable[AsrBatch]) -> LabelledFrames:
    """The experts of a set's frames beside what is said in them, which the CTC head aligns with the references.

    Args:
      model: with experts, in evaluation mode.
      batches: the set.

    Raises:
      ValueError: the model has no experts, or the set no batch.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    cut_ids: list[str] = []
    for batch in batches:
        encoder_out, lens, routing = model.encode(batch.x, batch.x_lens)
        if routing is None:
            raise ValueError("the model has no experts: --experts-in was none")
        log_probs, loudness = model.ctc_log_probs(encoder_out), F.avg_pool1d(batch.x.mean(dim=2), SUBSAMPLING_FACTOR)
        for n, ids in enumerate(routing.expert_ids[..., 0].split(lens.tolist(), dim=1)):
            length = ids.size(1)
            aligned = ctc_alignment(log_probs[n, :length], batch.y[n, : batch.y_lens[n]].tolist())
            number = torch.full((length,), len(cut_ids))
            parts.append((ids, spread(torch.tensor(aligned), REACH), loudness[n, :length], number))
            cut_ids.append(batch.cut_ids[n])
    if not parts:
        raise ValueError("the set has no batch")
    ids, units, loudnesses, utterances = (torch.cat(rows, dim=-1) for rows in zip(*parts))
    return LabelledFrames(ids, units, loudnesses, utterances, cut_ids)


def ctc_alignment(log_probs: Tensor, tokens: Sequence[int]) -> list[int]:
    """The units of T frames, blanks between them, on the likeliest path on which these tokens are said.

    Source: Graves et al. 2006, Connectionist temporal classification, section 4.1, with maxima instead of sums.

    Args:
      log_probs: of the CTC head, (T, V).
      tokens: at most as many as a path through T frames can hold.
    """
    units = [BLANK, *(unit for token in tokens for unit in (token, BLANK))]
    impossible = torch.full((2,), -torch.inf)
    skips = torch.tensor([s > 1 and units[s] not in (BLANK, units[s - 2]) for s in range(len(units))])
    emitted = log_probs[:, units]
    scores = torch.cat([emitted[0, :2], emitted.new_full((len(units),), -torch.inf)])[: len(units)]
    steps: list[Tensor] = []
    for frame in emitted[1:]:
        padded = torch.cat([impossible, scores])
        ways = torch.stack([scores, padded[1:-1], padded[:-2].masked_fill(~skips, -torch.inf)])
        best, step = ways.max(dim=0)
        scores = best + frame
        steps.append(step)
    place = len(units) - 1 - int(len(units) > 1 and scores[-2] > scores[-1])
    path = [place]
    for step in reversed(steps):
        place -= int(step[place])
        path.append(place)
    return [units[place] for place in reversed(path)]


def spread(units: Tensor, reach: int) -> Tensor:
    """The units (M,) of an alignment, and in place of a blank the nearest unit within `reach` frames, (M,)."""
    found = units.nonzero().squeeze(1)
    if len(found) == 0:
        return units
    distance = (torch.arange(len(units)).unsqueeze(1) - found).abs()
    nearest = distance.min(dim=1)
    return torch.where(nearest.values <= reach, units[found[nearest.indices]], torch.zeros_like(units))


def mutual_information(a: ArrayLike, b: ArrayLike) -> float:
    """The bits that two labels of the same things, numbers from 0, tell about each other; 0 if they are independent.

    In a finite set labels without any relation have more than 0; `explained` takes that off.
    """
    a, b = np.asarray(a), np.asarray(b)
    counts = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(counts, (a, b), 1)
    return information(counts)


def explained(experts: ArrayLike, labels: ArrayLike, *, shifts: int = 20) -> float:
    """The share of the choice of experts that labels of the frames explain: mutual information over entropy, 0 to 1.

    The mutual information with labels that are shifted in time, in a circle, is taken off: it is due to chance, and to
    neighbours being alike.
    """
    entropy = mutual_information(experts, experts)
    if entropy == 0:
        return 0.0
    offsets = np.linspace(0, np.size(labels), shifts + 2)[1:-1]
    by_chance = np.mean([mutual_information(experts, np.roll(labels, int(offset))) for offset in offsets])
    return (mutual_information(experts, labels) - float(by_chance)) / entropy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a released model with experts, all of one group")
    parser.add_argument("--recipe-dir", type=Path, default=Path("egs/an4/ASR"), help="its recipe [egs/an4/ASR]")
    parser.add_argument("--split", default="test", help="split of the prepared cuts [test]")
    parser.add_argument("--merged", type=Path, help="an experiment whose model has merged weights")
    parser.add_argument("--epoch", default="", help="its last epoch to average [the newest]")
    parser.add_argument("--avg", type=int, default=1, help="epochs to average [1]")
    args = parser.parse_args()
    run_main(lambda: _draw(args))


def _draw(args: argparse.Namespace) -> None:
    require(args.model is not None or args.merged is not None, "nothing to draw: give --model or --merged")
    if args.model is not None:
        _draw_experts(args)
    if args.merged is not None:
        _draw_gates(args.merged, Selection(epoch=args.epoch, avg=args.avg))


def _draw_experts(args: argparse.Namespace) -> None:
    """The three pictures of a model with experts."""
    bundle = Bundle.load(args.model)
    data = AsrDataModule(bundle.config, args.recipe_dir, bundle.tokenizer)
    cuts = data.cuts(args.split)
    with router_inputs(bundle.model) as inputs:
        frames = label_frames(bundle.model, EvalLoader(cuts, data.dataset))
    experts = frames.expert_ids.numpy()
    num_experts = bundle.config.model.encoder.num_experts
    speaker_of = {cut.id: cut.supervisions[0].speaker for cut in cuts}
    labels = labels_of(frames, [speaker_of[cut_id] for cut_id in frames.cut_ids])
    shares = {name: [explained(layer, values) for layer in experts] for name, values in labels.items()}
    drawn = [random_choices(torch.cat(rows), num_experts) for rows in inputs.values()]
    units = labels[UNIT]
    shares[f"{UNIT}, {RANDOM}"] = [float(np.mean([explained(choice, units) for choice in layer])) for layer in drawn]
    depth = np.repeat(np.arange(len(experts)), experts.shape[1])
    by_depth = mutual_information(experts.ravel(), depth) / mutual_information(experts.ravel(), experts.ravel())
    print(f"{experts.shape[1]} frames of {len(frames.cut_ids)} utterances, {len(set(speaker_of.values()))} speakers")
    for name, values in shares.items():
        print(f"{name:<53}", *(f"{max(value, 0):6.1%}" for value in values))
    print(f"{'depth, all layers together':<53} {by_depth:6.1%}")
    draw_explained(shares)
    draw_units(experts, frames.units.numpy(), bundle.tokenizer.pieces, num_experts)
    draw_depth(experts, num_experts, by_depth)


def labels_of(frames: LabelledFrames, speakers: Sequence[Any]) -> dict[str, np.ndarray]:
    """What may decide a frame's expert, by its name: numbers, (M,).

    Args:
      speakers: of each utterance.
    """
    loudness = frames.loudness.numpy()
    steps = np.quantile(loudness, np.linspace(0, 1, LOUDNESS_STEPS + 1)[1:-1])
    numbers = np.unique(speakers, return_inverse=True)[1]
    return {
        UNIT: frames.units.numpy(),
        f"loudness, in {LOUDNESS_STEPS} steps": np.digitize(loudness, steps),
        "speaker": numbers[frames.utterances.numpy()],
    }


@contextmanager
def router_inputs(model: AsrModel) -> Iterator[dict[Router, list[Tensor]]]:
    """The frames that each router sees meanwhile, batch by batch."""
    inputs: dict[Router, list[Tensor]] = {router: [] for router in model.encoder.routers()}
    hooks = [router.register_forward_hook(lambda router, args, _: inputs[router].append(args[0])) for router in inputs]
    yield inputs
    for hook in hooks:
        hook.remove()


def random_choices(x: Tensor, num_experts: int) -> list[np.ndarray]:
    """What routers would choose for these frames, (M, C), whose weights are drawn at random and never trained."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(NUM_DRAWS, x.size(1), num_experts, generator=generator)
    return list(((x - x.mean(dim=0)) @ weights).argmax(dim=-1).numpy())


def draw_explained(shares: dict[str, list[float]]) -> None:
    """A curve for each label: what it explains of the choice in each layer."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(shares.items(), COLOURS):
        style, colour = ("--", COLOURS[0]) if RANDOM in name else ("-", colour)
        percent = [100 * value for value in values]
        axes.plot(range(1, len(values) + 1), percent, style, marker="o", color=colour, label=name)
    axes.set_xlabel("layer")
    axes.set_ylabel("% of the choice explained")
    axes.set_xticks(range(1, len(values) + 1))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, "experts_explained.png")


def draw_units(experts: np.ndarray, units: np.ndarray, pieces: Sequence[str], num_experts: int) -> None:
    """A panel for each layer: the share of each frequent unit's frames that each expert computes.

    Units stand in the order of the expert that they have most in the last layer but one.
    """
    counts = np.bincount(units, minlength=len(pieces))
    shown = [unit for unit in np.argsort(-counts) if unit][:SHOWN_UNITS]
    shown = [0, *sorted(shown, key=lambda unit: _preference(experts[-2][units == unit], num_experts))]
    names = ["pause", *(pieces[unit].replace("\u2581", "_") for unit in shown[1:])]
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(1, len(experts), sharey=True)
    for number, (axes, layer) in enumerate(zip(panels, experts), start=1):
        table = np.array([np.bincount(layer[units == unit], minlength=num_experts) for unit in shown], dtype=float)
        image = axes.imshow(table / table.sum(axis=1, keepdims=True), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axes.set_title(f"layer {number}", fontsize=10)
        axes.set_xticks(range(num_experts), [str(e) for e in range(1, num_experts + 1)])
        axes.set_yticks(range(len(names)), names, fontsize=9)
    figure.supxlabel("expert", fontsize=10)
    figure.colorbar(image, ax=panels, label="share of the unit's frames", shrink=0.6)
    _save(figure, "experts_units.png")


def _preference(experts: np.ndarray, num_experts: int) -> tuple[int, int]:
    """The expert that computes most of these frames, and minus their number."""
    counts = np.bincount(experts, minlength=num_experts)
    return int(counts.argmax()), -int(1000 * counts.max() / counts.sum())


def draw_depth(experts: np.ndarray, num_experts: int, by_depth: float) -> None:
    """A bar for each layer, divided among the experts."""
    shares = np.array([np.bincount(layer, minlength=num_experts) / len(layer) for layer in experts])
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    layers, left = np.arange(1, len(experts) + 1), np.zeros(len(experts))
    for expert, colour in zip(range(num_experts), COLOURS):
        axes.barh(layers, 100 * shares[:, expert], left=100 * left, color=colour, label=f"expert {expert + 1}")
        for layer, share, begin in zip(layers, shares[:, expert], left):
            middle = float(100 * (begin + share / 2))
            axes.text(middle, float(layer), f"{share:.0%}", ha="center", va="center", color="white")
        left += shares[:, expert]
    axes.invert_yaxis()
    axes.set(xlabel="% of the layer's frames", ylabel="layer", yticks=layers, xlim=(0, 100))
    axes.set_title(f"Depth explains {by_depth:.1%} of the choice", fontsize=10)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, "experts_depth.png")


@torch.no_grad()
def _draw_gates(exp_dir: Path, selection: Selection) -> None:
    """The share of each stored set in each layer, a panel for each part of the block."""
    _, model = load_experiment(exp_dir, selection)
    (group,) = model.encoder.block_groups()
    require(len(group.merged_parts) > 0, f"the model of {exp_dir} has no merged weights (--merged-sets 1)")
    by_layer = [list(group.individual(layer).gates.values()) for layer in range(group.size)]
    gates = np.array([[part.numpy() for part in parts] for parts in by_layer])  # (L, P, E)
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    layers = range(1, group.size + 1)
    panels = figure.subplots(1, gates.shape[1], sharey=True, squeeze=False)[0]
    for part, (axes, name) in enumerate(zip(panels, group.merged_parts)):
        for one in range(gates.shape[2]):
            axes.plot(layers, gates[:, part, one], "o-", color=COLOURS[one], label=f"set {one + 1}")
        axes.set(title=name, xlabel="layer", xticks=layers, ylim=(-0.03, 1.03))
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3)
        print(f"{name:<16} set 1:", *(f"{share:6.3f}" for share in gates[:, part, 0]))
    panels[0].set_ylabel("share of the weights")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    _save(figure, "merged_gates.png")


def _save(figure: Figure, name: str) -> None:
    figure.savefig(HERE / name, dpi=110)
    print(f"wrote {HERE / name}")


if __name__ == "__main__":
    main()

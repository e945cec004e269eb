"""The charts of a training's course, as far as it has written what they show."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from shared_moe_conformer.reporting.history import Series, dev_epochs
from shared_moe_conformer.reporting.line_chart import Curve, line_chart
from shared_moe_conformer.reporting.markup import Markup

LOSSES = ("loss", "pruned_loss", "simple_loss", "ctc_loss")


def training_charts(history: Mapping[str, Series]) -> list[Markup | None]:
    """Losses, error rate, learning rate, gradients, throughput, memory; None for what was not written."""
    parts = {name.removesuffix("_loss"): f"dev/{name}" for name in LOSSES}
    distillation = {
        tag.split("/")[1].removesuffix("_loss"): tag for tag in history if "dev/" in tag and "distil" in tag
    }
    return [
        _steps_chart(history, "Loss per frame", {"training": "train/loss", "dev": "dev/loss"}),
        _wer_chart(history),
        _steps_chart(history, "Losses on dev", {**parts, **distillation}),
        _steps_chart(history, "Learning rate", {"learning rate": "train/learning_rate"}, from_zero=True),
        _steps_chart(
            history,
            "Gradient norm before clipping",
            {"mean": "train/mean_grad_norm", "of one update": "train/grad_norm"},
        ),
        _steps_chart(history, "Share of updates that were clipped", {"share": "train/share_clipped"}, from_zero=True),
        _steps_chart(
            history, "Hours of audio per hour", {"throughput": "speed/hours_of_audio_per_hour"}, from_zero=True
        ),
        _steps_chart(
            history,
            "Share of the time spent waiting for data",
            {"share": "speed/share_waiting_for_data"},
            from_zero=True,
        ),
        _steps_chart(
            history,
            "Largest memory, MiB",
            {"process": "speed/peak_memory_mib", "GPU": "speed/peak_gpu_memory_mib"},
            from_zero=True,
        ),
        _steps_chart(
            history,
            "Routers' losses on dev, all layers' mean",
            {"load balancing": "dev/load_balancing_loss", "z loss": "dev/router_z_loss"},
        ),
        _skipped_chart(history),
    ]


def wer_by_epoch(history: Mapping[str, Series]) -> tuple[list[int], list[float]]:
    """The epochs with a word error rate on the validation set, and the rates, in percent."""
    rates = history.get("dev/ctc_greedy_wer")
    if rates is None:
        return [], []
    epochs = dict(zip(history["dev/loss"].steps, dev_epochs(history)))
    pairs = [(epochs[step], rate) for step, rate in zip(*rates) if step in epochs]
    return [epoch for epoch, _ in pairs], [rate for _, rate in pairs]


def _steps_chart(
    history: Mapping[str, Series], title: str, tags: Mapping[str, str], *, from_zero: bool = False
) -> Markup | None:
    curves = [Curve(name, *history[tag]) for name, tag in tags.items() if tag in history]
    return line_chart(curves, title=title, x_name="updates", from_zero=from_zero) if curves else None


def _wer_chart(history: Mapping[str, Series]) -> Markup | None:
    epochs, rates = wer_by_epoch(history)
    if not rates:
        return None
    return line_chart([Curve("WER", epochs, rates)], title="WER on dev in percent, CTC greedy", x_name="epoch")


def _skipped_chart(history: Mapping[str, Series]) -> Markup | None:
    """Skipped updates so far, if there were any."""
    skipped = history.get("train/num_skipped")
    if skipped is None or not any(skipped.values):
        return None
    return line_chart(
        [Curve("skipped", skipped.steps, [*accumulate(skipped.values)])], title="Skipped updates", x_name="updates"
    )

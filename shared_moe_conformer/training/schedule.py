"""Schedules of the learning rate and of the losses' weights over a training."""

from __future__ import annotations

import math

from shared_moe_conformer.config import TrainingConfig
from shared_moe_conformer.training.metrics import LossScales
from shared_moe_conformer.training.update import TrainState

FINAL_LEARNING_RATE_FACTOR = 0.01
SMALLEST_JUMP = 0.01
"""Smallest change of the learning rate, as a share of its peak, that is told when a training is resumed."""


def learning_rate_factor(config: TrainingConfig, step: int, *, progress: float, progress_at_peak: float = 0.0) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then a fall as `lr_schedule` says.

    Batches have equal durations, so the number of steps in later epochs is unknown. The cosine and the decay of wsd
    therefore follow the share of the training that is done, in epochs, and end at 1 % with the last batch. Noam's fall
    depends on the step alone.

    Source: noam: Vaswani et al. 2017, Attention is all you need, eq. 3 (arXiv 1706.03762), divided by its peak; cosine:
    Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts (arXiv 1608.03983); wsd: Hu et al. 2024, MiniCPM (arXiv
    2404.06395), with the decay (1-sqrt) of Hägele et al. 2024, section 3 (arXiv 2405.18392).

    Args:
      config: schedule, steps of the rise, epochs.
      step: updates up to and including this one, from 1.
      progress: share of the whole training done, this update's batches included, 0 to 1.
      progress_at_peak: `progress` at the end of the rise.
    """
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.lr_schedule == "noam":
        return math.sqrt(max(config.warmup_steps, 1) / step)
    if config.lr_schedule == "wsd":
        epochs_left = round(config.num_epochs * (1 - progress), 6)  # exact at the ends of epochs
        height = 1 - math.sqrt(_from_0_to_1(1 - epochs_left / config.decay_epochs))
    else:
        fallen = (progress - progress_at_peak) / max(1 - progress_at_peak, 1e-9)
        height = (1 + math.cos(math.pi * _from_0_to_1(fallen))) / 2
    return FINAL_LEARNING_RATE_FACTOR + (1 - FINAL_LEARNING_RATE_FACTOR) * height


def reschedule(state: TrainState, old: TrainingConfig, new: TrainingConfig) -> str:
    """Adapt a resumed training to another number of epochs.

    Args:
      state: that of the checkpoint; its shares of the whole training become shares of the new whole.
      old: the config of the checkpoint.
      new: the config to go on with, which differs in `num_epochs` and `decay_epochs` at most.

    Returns:
      a jump of the learning rate, its cause and its remedy, for reading; empty if there is none.
    """
    state.progress = state.progress or (state.epoch - 1) / old.num_epochs  # checkpoints of version 0.1 lack it
    before = _factor_after(old, state)
    state.progress *= old.num_epochs / new.num_epochs
    state.progress_at_peak *= old.num_epochs / new.num_epochs
    after = _factor_after(new, state)
    if abs(after - before) < SMALLEST_JUMP:
        return ""
    changes = [
        f"{name} was {getattr(old, name)} and is {getattr(new, name)}"
        for name in ("num_epochs", "decay_epochs")
        if getattr(old, name) != getattr(new, name)
    ]
    if new.lr_schedule == "cosine":
        remedy = "a training with --lr-schedule wsd goes on without a jump from any epoch before its decay"
    else:
        epoch = old.num_epochs - old.decay_epochs
        remedy = f"to go on without a jump, give this folder's epoch-{epoch}.pt as --resume-from, and another --exp-dir"
    return f"the learning rate goes from {before:.2g} to {after:.2g} of its peak ({', '.join(changes)}); {remedy}"


def loss_scales(config: TrainingConfig, step: int | None = None) -> LossScales:
    """Weights of the losses at a step, counted from 0; None: after the warm-up.

    Source: icefall, egs/librispeech/ASR/pruned_transducer_stateless7/train.py, compute_loss.
    """
    done = 1.0 if step is None or step >= config.loss_warmup_steps else step / config.loss_warmup_steps
    return LossScales(
        simple_loss=1.0 - done * (1.0 - config.simple_loss_scale),
        pruned_loss=0.1 + 0.9 * done,
        ctc_loss=config.ctc_loss_scale,
        load_balancing_loss=config.load_balancing_loss_scale,
        router_z_loss=config.router_z_loss_scale,
        hidden_distillation_loss=config.hidden_distillation_loss_scale,
        ctc_distillation_loss=config.ctc_distillation_loss_scale,
        transducer_distillation_loss=config.transducer_distillation_loss_scale,
        cr_loss=done * config.cr_loss_scale,
    )


def _factor_after(config: TrainingConfig, state: TrainState) -> float:
    """The factor of the learning rate with which a training of this config came to its state."""
    return learning_rate_factor(config, state.step, progress=state.progress, progress_at_peak=state.progress_at_peak)


def _from_0_to_1(x: float) -> float:
    return min(max(x, 0.0), 1.0)

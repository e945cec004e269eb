"""How the learning rate and the losses' weights change over a training."""

from __future__ import annotations

import math

from shared_moe_conformer.config import LrSchedule, TrainingConfig
from shared_moe_conformer.training.metrics import LossScales

FINAL_LEARNING_RATE_FACTOR = 0.01


def learning_rate_factor(
    schedule: LrSchedule, step: int, *, warmup_steps: int, progress: float, progress_at_peak: float
) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then a fall.

    Batches have equal durations, so the number of steps in later epochs is unknown. The cosine therefore follows the
    share of the training that is done, in epochs, and ends at 1 % with the last batch. Noam's fall depends on the step
    alone.

    Source: noam: Vaswani et al. 2017, Attention is all you need, eq. 3 (arXiv 1706.03762), divided by its peak; cosine:
    Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts (arXiv 1608.03983).

    Args:
      schedule: the kind of fall.
      step: updates up to and including this one, from 1.
      warmup_steps: the first step at the peak.
      progress: share of the whole training done, this batch included, 0 to 1.
      progress_at_peak: `progress` at the peak.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "noam":
        return math.sqrt(max(warmup_steps, 1) / step)
    fallen = (progress - progress_at_peak) / max(1 - progress_at_peak, 1e-9)
    cosine = (1 + math.cos(math.pi * min(max(fallen, 0.0), 1.0))) / 2
    return FINAL_LEARNING_RATE_FACTOR + (1 - FINAL_LEARNING_RATE_FACTOR) * cosine


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
    )

"""Which parameters decay, and how the learning rate and the transducer losses' scales go over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from shared_moe_conformer.config import LrSchedule, SharedBlockLrScale, TrainingConfig, require
from shared_moe_conformer.training.metrics import LossScales
from shared_moe_conformer.training.muon import MuonAdamW

FINAL_LEARNING_RATE_FACTOR = 0.01


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW or Muon over the parameters of the model that are not frozen, with weight decay on some (`decayed_names`).

    Source: Loshchilov and Hutter 2019, Decoupled weight decay (arXiv 1711.05101); beta2: Vaswani et al. 2017,
    section 5.3 (arXiv 1706.03762).
    """
    decayed = decayed_names(model)
    by_muon = matrices_of_encoder(model, decayed) if config.optimizer == "muon" else set()
    scales = learning_rate_scales(model, config.shared_block_lr_scale)
    kinds: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds.setdefault((name in by_muon, scales[name], name in decayed), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_scale": scale * (config.muon_lr_factor if muon else 1.0),
            "muon": muon,
        }
        for (muon, scale, decays), parameters in sorted(kinds.items(), key=lambda kind: kind[0], reverse=True)
    ]
    return MuonAdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), **_fused_option())


def matrices_of_encoder(model: nn.Module, decayed: set[str]) -> set[str]:
    """Names of the linear maps' weights in the encoder, those of experts too: what Muon is for.

    Not kernels of convolutions, and neither embeddings nor what computes logits (Jordan et al. 2024).
    """
    return {
        name
        for name, parameter in model.named_parameters()
        if name.startswith("encoder.") and name in decayed and parameter.dim() in (2, 3)
    }


def learning_rate_scales(model: nn.Module, kind: SharedBlockLrScale) -> dict[str, float]:
    """Share of the learning rate for each parameter: less for those that several layers use, if the config says so.

    AdamW's updates do not depend on the size of a gradient, so that to scale the gradient instead would do nothing.

    Args:
      model: its `parameter_layers()`, where it has one, says how many layers use a parameter.
      kind: a parameter of n layers has 1 (none), 1 / sqrt(n) (inverse_sqrt) or 1 / n (inverse).
    """
    layers: dict[nn.Parameter, int] = getattr(model, "parameter_layers", dict)()
    power = {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}[kind]
    return {name: layers.get(parameter, 1) ** power for name, parameter in model.named_parameters()}


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Let these parts of the model have no gradient, and return them.

    Raises:
      ValueError: the model has no part of a name, or nothing is left to train.
    """
    parts = dict(model.named_modules())
    for name in names:
        top = ", ".join(part for part, _ in model.named_children())
        require(name in parts and name != "", f"--freeze {name}: give parts of the model ({top}), or parts of those")
        parts[name].requires_grad_(False)
    require(any(p.requires_grad for p in model.parameters()), f"--freeze {','.join(names)} leaves nothing to train")
    return [module for name in names for module in parts[name].modules()]


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that decay: matrices (an expert's too, stacked), and kernels of convolutions.

    Not biases (an expert's, stacked, have two axes too) and norms: they set a level, and small is not simpler.
    Not routers: their logits are held small by the router z loss, and decay would even out the choice of experts.
    Not embeddings: a rare token's row would only shrink.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        name
        for name, p in model.named_parameters()
        if p.dim() >= 2 and not name.endswith("bias") and "router" not in name and id(p) not in embeddings
    }


def learning_rate_factor(
    schedule: LrSchedule, step: int, *, warmup_steps: int, progress: float, progress_at_peak: float
) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then a fall.

    Batches are of equal duration, so the steps of epochs still to come are not known; the cosine follows the share of
    the training that is done, in epochs, and ends at 1 % with the last batch of the last epoch. Noam's fall needs none
    of this.

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
    """Weights of the losses at a step, from 0; without one those after the warm-up.

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


def _fused_option() -> dict[str, bool]:
    """One kernel for all parameters, where this torch has it for a CPU too (2.4)."""
    major, minor = torch.__version__.split(".")[:2]
    return {"fused": True} if (int(major), int(minor)) >= (2, 4) else {}

"""The optimizer: the parameters that Muon updates, those that decay, and the course of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared_moe_conformer.config import SharedBlockLrScale, TrainingConfig, require
from shared_moe_conformer.params import layers_of
from shared_moe_conformer.training.metrics import TrainState

FINAL_LEARNING_RATE_FACTOR = 0.01
SMALLEST_JUMP = 0.01
"""Smallest change of the learning rate, as a share of its peak, that a resumed training reports."""
MOMENTUM = 0.95
NUM_ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x^3 and x^5: five iterations bring singular values from 0.01 to 1 between 0.7 and 1.2."""
GATES_LR_FACTOR = 10.0
"""Learning rate of the gates of merged weights, as a multiple of the others': they are few, and must move far."""
SIZE_OF_ADAMW_UPDATES = 0.2
"""Usual root mean square of the entries of AdamW's updates, as a share of the learning rate."""


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW or Muon over the parameters of the model that are not frozen; `decayed_names` decay.

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
    return MuonAdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def matrices_of_encoder(model: nn.Module, decayed: set[str]) -> set[str]:
    """Names of the weights of the encoder's linear maps, experts' included, which Muon updates.

    Muon is not for convolutions' kernels, embeddings, and layers that compute logits (Jordan et al. 2024).
    """
    return {
        name
        for name, parameter in model.named_parameters()
        if name.startswith("encoder.") and name in decayed and parameter.dim() in (2, 3)
    }


def learning_rate_scales(model: nn.Module, kind: SharedBlockLrScale) -> dict[str, float]:
    """Share of the learning rate for each parameter: less for weights of several layers, if the config says so, and
    more for the gates of merged weights.

    Scaling their gradients instead would do nothing, since AdamW's updates do not depend on a gradient's size.

    Args:
      model: its encoder says how many layers use a parameter.
      kind: a parameter of n layers gets 1 (none), 1 / sqrt(n) (inverse_sqrt) or 1 / n (inverse).
    """
    layers = layers_of(model)
    power = {"none": 0.0, "inverse_sqrt": -0.5, "inverse": -1.0}[kind]
    return {
        name: layers.get(parameter, 1) ** power * (GATES_LR_FACTOR if ".gates." in name else 1)
        for name, parameter in model.named_parameters()
    }


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Turn the gradients of these parts of the model off, and return the parts.

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
    """Names of the parameters that decay: matrices, experts' stacked ones too, and convolutions' kernels.

    Biases (stacked ones have two axes) and norms do not decay: they set a level, and a small one is not simpler.
    Routers do not: the router z loss keeps their logits small, and decay would even out the choice of experts.
    Gates of merged weights do not: decay would make all layers alike.
    Embeddings do not: a rare token's row would only shrink.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        name
        for name, p in model.named_parameters()
        if p.dim() >= 2
        and not name.endswith("bias")
        and "router" not in name
        and ".gates." not in name
        and id(p) not in embeddings
    }


class MuonAdamW(torch.optim.AdamW):
    """Muon for groups with `"muon": True`, whose parameters are matrices or stacks of them; AdamW for the others.

    Muon gives all directions of a matrix's momentum the same size.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; size of the updates and weight
    decay: Liu et al. 2025, Muon is scalable for LLM training, eq. 4 (arXiv 2502.16982).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, learning_rate: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))  # AdamW reads each state's step
        state["step"] += 1
        momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
        direction = orthogonalised(grad.lerp(momentum, MOMENTUM))  # Nesterov's
        size = SIZE_OF_ADAMW_UPDATES * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - learning_rate * weight_decay).add_(direction, alpha=-learning_rate * size)


def orthogonalised(x: Tensor) -> Tensor:
    """About U V^T of matrices U S V^T, (..., A, B), by a Newton-Schulz iteration of fifth order; 0 for 0."""
    linear, cubic, quintic = COEFFICIENTS
    is_tall = x.size(-2) > x.size(-1)
    x = x.transpose(-2, -1) if is_tall else x
    x = x / x.flatten(-2).norm(dim=-1).clamp(min=1e-12)[..., None, None]
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.transpose(-2, -1)
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return x.transpose(-2, -1) if is_tall else x


def learning_rate_factor(config: TrainingConfig, step: int, *, progress: float, progress_at_peak: float = 0.0) -> float:
    """Share of the peak learning rate: a linear rise over the first steps, then a fall as `lr_schedule` says.

    Batches have equal durations, so the number of steps in later epochs is unknown. The cosine and the decay of wsd
    therefore follow the share of the training that is done, in epochs, and end at 1 % with the last batch. Noam's fall
    depends only on the step.

    Source: noam: Vaswani et al. 2017, Attention is all you need, eq. 3 (arXiv 1706.03762), divided by its peak; cosine:
    Loshchilov and Hutter 2017, SGDR, eq. 5, without restarts (arXiv 1608.03983); wsd: Hu et al. 2024, MiniCPM (arXiv
    2404.06395), with the decay (1-sqrt) of Hägele et al. 2024, section 3 (arXiv 2405.18392).

    Args:
      step: updates up to and including this one, from 1.
      progress: share of the whole training done, this update's batches included, 0 to 1.
      progress_at_peak: `progress` at the end of the rise.
    """
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.lr_schedule == "noam":
        return math.sqrt(max(config.warmup_steps, 1) / step)
    if config.lr_schedule == "wsd":
        epochs_left = round(config.length * (1 - progress), 6)  # exact at the ends of epochs
        height = 1 - math.sqrt(_from_0_to_1(1 - epochs_left / config.decay_epochs))
    else:
        fallen = (progress - progress_at_peak) / max(1 - progress_at_peak, 1e-9)
        height = (1 + math.cos(math.pi * _from_0_to_1(fallen))) / 2
    return FINAL_LEARNING_RATE_FACTOR + (1 - FINAL_LEARNING_RATE_FACTOR) * height


def reschedule(state: TrainState, old: TrainingConfig, new: TrainingConfig) -> str:
    """Adapt a resumed training to another number of epochs or steps.

    Args:
      state: that of the checkpoint; its shares of the whole training become shares of the new whole.
      old: the config of the checkpoint.
      new: the config to continue with, which differs in `num_epochs`, `num_steps` and `decay_epochs` at most.

    Returns:
      a message about a jump of the learning rate, its cause and its remedy; empty if there is none.
    """
    state.progress = state.progress or (state.epoch - 1) / old.length  # checkpoints of version 0.1 lack it
    before = _factor_after(old, state)
    state.progress *= old.length / new.length
    state.progress_at_peak *= old.length / new.length
    after = _factor_after(new, state)
    if abs(after - before) < SMALLEST_JUMP:
        return ""
    changes = [
        f"{name} was {getattr(old, name)} and is {getattr(new, name)}"
        for name in ("num_epochs", "num_steps", "decay_epochs")
        if getattr(old, name) != getattr(new, name)
    ]
    if new.lr_schedule == "cosine":
        remedy = "a training with --lr-schedule wsd continues without a jump from any epoch before its decay"
    else:
        epoch = math.floor(old.length - old.decay_epochs)  # 0: the decay began with the training
        begin = f"give this folder's epoch-{epoch}.pt as --resume-from, and" if epoch else "begin again, in"
        remedy = f"to continue without a jump, {begin} another --exp-dir"
    return f"the learning rate goes from {before:.2g} to {after:.2g} of its peak ({', '.join(changes)}); {remedy}"


def _factor_after(config: TrainingConfig, state: TrainState) -> float:
    """The learning rate's factor with which a training of this config reached its state."""
    return learning_rate_factor(config, state.step, progress=state.progress, progress_at_peak=state.progress_at_peak)


def _from_0_to_1(x: float) -> float:
    return min(max(x, 0.0), 1.0)

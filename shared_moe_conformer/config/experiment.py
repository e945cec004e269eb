"""Options of a training (schedule, losses, teacher), of a whole experiment and of a language model; their files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, TypeVar

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config.data import DataConfig, FeatureConfig
from shared_moe_conformer.config.model import ModelConfig
from shared_moe_conformer.config.tree import (
    ADDED_LATER,
    from_dict,
    require,
    require_choices,
    require_least,
    require_positive,
    to_dict,
)

C = TypeVar("C")
PrecisionName = Literal["float32", "bfloat16", "float16"]
LrSchedule = Literal["cosine", "noam", "wsd"]
OptimizerName = Literal["adamw", "muon"]
SharedBlockLrScale = Literal["none", "inverse_sqrt", "inverse"]
STEPS_PER_EPOCH = 1000
"""Updates of an epoch if only num_steps is given."""


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule, losses and their scales."""

    num_epochs: int = 30
    """Epochs to train, counted from 1."""
    steps_per_epoch: int = field(default=0, metadata=ADDED_LATER)
    """Updates in an epoch; the cuts are then read without end. 0: an epoch has each cut once, or with num_steps 1000
    updates."""
    num_steps: int = field(default=0, metadata=ADDED_LATER)
    """Updates to train instead of num_epochs; the cuts are then read without end, and every steps_per_epoch updates,
    and the last one, end with a validation and a checkpoint. 0: go by epochs."""
    optimizer: OptimizerName = field(default="adamw", metadata=ADDED_LATER)
    """muon: the encoder's matrices by Muon, the rest by AdamW; adamw: all by AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr_factor: float = field(default=3.0, metadata=ADDED_LATER)
    """Learning rate of the weights that Muon updates, as a multiple of AdamW's."""
    shared_block_lr_scale: SharedBlockLrScale = field(default="none", metadata=ADDED_LATER)
    """Learning rate of weights that n layers share, as a share of the others': 1, 1 / sqrt(n) or 1 / n."""
    precision: PrecisionName = field(default="float32", metadata=ADDED_LATER)
    """Format of matrix products in training; routers, softmaxes, losses, weights and validation stay in float32."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises to its peak."""
    lr_schedule: LrSchedule = field(default="cosine", metadata=ADDED_LATER)
    """Course of the learning rate after its peak: it falls by half a cosine to 1 % of it at the last step (cosine), as
    1 / sqrt(step) whatever the number of epochs (noam), or only in the last decay_epochs, to 1 % (wsd)."""
    decay_epochs: int = field(default=5, metadata=ADDED_LATER)
    """Last epochs, in which the learning rate falls with lr_schedule wsd; before them a training can be extended."""
    weight_decay: float = 1e-2
    """Weight decay, on matrices only: each update makes them smaller by this share of the learning rate."""
    max_grad_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    seed: int = 42
    """Seed of initialisation, sampling and dropout."""
    simple_loss_scale: float = 0.5
    """Weight of the simple (unpruned, additive) transducer loss after its warm-up."""
    loss_warmup_steps: int = 500
    """Steps over which the simple loss's weight falls from 1 and the pruned loss's rises from 0.1 to 1 (icefall)."""
    ctc_loss_scale: float = 0.3
    """Weight of the CTC loss beside the transducer's; 0: none, and then validations have no word error rate."""
    cr_loss_scale: float = field(default=0.0, metadata=ADDED_LATER)
    """Weight, after loss_warmup_steps, of the consistency of CTC posteriors between two copies of each utterance with
    masks of their own (CR-CTC; icefall: 0.02 beside RNN-T); a batch then holds twice max_duration; 0: none."""
    cr_time_mask_ratio: float = field(default=2.5, metadata=ADDED_LATER)
    """With cr_loss_scale: time masks of each copy, in number and in frames, as a multiple of those without it."""
    load_balancing_loss_scale: float = 0.01
    """Weight of the load-balancing loss, per layer, as a share of the frame-averaged losses."""
    router_z_loss_scale: float = 0.001
    """Weight of the router z loss, per layer, as a share of the frame-averaged losses."""
    init_from: str = field(default="", metadata=ADDED_LATER)
    """Trained model to begin with, an experiment's or a bundle's folder, relative to the recipe's, e.g. exp/full; it
    may share fewer weights, have no experts, or have other units; empty: begin with random weights."""
    init_epoch: int = field(default=0, metadata=ADDED_LATER)
    """Last epoch to average of an experiment's weights to begin with; 0: its last."""
    init_iter: int = field(default=0, metadata=ADDED_LATER)
    """Last update to average of them, of those with a checkpoint; 0: go by epochs."""
    init_avg: int = field(default=1, metadata=ADDED_LATER)
    """Epochs, or checkpoints of updates, over which the weights to begin with are averaged."""
    init_use_averaged_model: bool = field(default=False, metadata=ADDED_LATER)
    """Average all updates of these epochs that were summed up, not only their ends."""
    init_modules: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Parts of the model that begin with these weights, e.g. encoder,ctc_head (icefall's --init-modules); empty: all,
    or the encoder alone where most of the units are not among the trained model's."""
    init_expert_noise: float = field(default=0.1, metadata=ADDED_LATER)
    """Noise on experts that begin as a dense feed-forward, as a share of its weights' standard deviation."""
    freeze: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Parts of the model that are not trained, e.g. encoder,decoder or encoder.groups.0.block; they also compute as in
    evaluation: no dropout, and statistics that stay."""
    accumulate_batches: int = field(default=1, metadata=ADDED_LATER)
    """Batches of each process whose gradients make one update together; max_duration is that of one."""
    teacher: str = field(default="", metadata=ADDED_LATER)
    """Trained model to imitate, an experiment's or a bundle's folder, relative to the recipe's folder, e.g. exp/full;
    empty: none."""
    teacher_epoch: int = field(default=0, metadata=ADDED_LATER)
    """Last epoch to average of the teacher's weights; 0: its last."""
    teacher_iter: int = field(default=0, metadata=ADDED_LATER)
    """Last update to average of them, of those with a checkpoint; 0: go by epochs."""
    teacher_avg: int = field(default=1, metadata=ADDED_LATER)
    """Epochs, or checkpoints of updates, over which the teacher's weights are averaged."""
    teacher_use_averaged_model: bool = field(default=False, metadata=ADDED_LATER)
    """Average all updates of these epochs that were summed up, not only their ends."""
    clean_teacher: bool = field(default=False, metadata=ADDED_LATER)
    """The teacher hears utterances without masks, gains, made noises, made rooms and band limits; speeds, codecs and
    what comes from noise_manifest and room_manifest it hears as the model does."""
    hidden_distillation_loss_scale: float = field(default=0.5, metadata=ADDED_LATER)
    """Weight of the distance of the encoder's frames from the teacher's, at the ends of groups that both have, with a
    teacher; 0: their sizes may differ."""
    ctc_distillation_loss_scale: float = field(default=0.5, metadata=ADDED_LATER)
    """Weight of the divergence of the CTC posteriors from the teacher's, with a teacher."""
    transducer_distillation_loss_scale: float = field(default=0.0, metadata=ADDED_LATER)
    """Weight of the divergence of the joiner from the teacher's, where pruning keeps positions, with a teacher."""
    prune_range: int = 5
    """Tokens per frame at which the joiner is evaluated (icefall's --prune-range)."""
    lm_only_scale: float = 0.25
    """Smoothing of the simple loss towards only the decoder."""
    am_only_scale: float = 0.0
    """Smoothing of the simple loss towards only the encoder."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "learning_rate", "muon_lr_factor", "max_grad_norm")
        require_least(self, 1, "num_epochs", "decay_epochs", "accumulate_batches", "init_avg", "teacher_avg")
        scales = (f.name for f in fields(self) if f.name.endswith(("_loss_scale", "_only_scale", "_epoch", "_iter")))
        require_least(self, 0, "warmup_steps", "loss_warmup_steps", "weight_decay", "init_expert_noise", *scales)
        require_least(self, 0, "cr_time_mask_ratio", "num_steps", "steps_per_epoch")
        require_least(self, 2, "prune_range")
        require(
            self.lr_schedule != "wsd" or self.decay_epochs <= self.length,
            f"decay_epochs is {self.decay_epochs}, the training has {self.length:g} epochs: give fewer --decay-epochs",
        )
        require(
            self.cr_loss_scale == 0 or self.ctc_loss_scale > 0,
            f"cr_loss_scale is {self.cr_loss_scale} without a CTC loss: give --ctc-loss-scale too",
        )
        smoothing = self.lm_only_scale + self.am_only_scale
        require(smoothing <= 1, f"lm_only_scale and am_only_scale are {smoothing:g} together: give at most 1")
        for whose in ("init", "teacher"):
            epoch, iteration = (getattr(self, f"{whose}_{name}") for name in ("epoch", "iter"))
            require(
                not (epoch and iteration), f"{whose}_epoch is {epoch} and {whose}_iter {iteration}: give one of them"
            )

    @property
    def epoch_steps(self) -> int:
        """Updates of an epoch of cuts without end; 0: an epoch has each cut once."""
        return self.steps_per_epoch or (STEPS_PER_EPOCH if self.num_steps else 0)

    @property
    def length(self) -> float:
        """The training in epochs; of num_steps the last may be shorter than the others."""
        return self.num_steps / self.epoch_steps if self.num_steps else self.num_epochs


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment; `exp/config.json` once training has begun."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Features of the audio."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cut sets and batches."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Schedule and losses."""


def save_config(config: Config | LmConfig, path: Path) -> None:
    """Write the config as JSON, whole or not at all."""
    write_whole(path, json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """The config that `save_config` wrote; see `load_config_of`."""
    return load_config_of(Config, path)


def load_config_of(kind: type[C], path: Path) -> C:
    """The config of a class that a training wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or not this version's options.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config in {path}: train first (./train.py), or name another --exp-dir")
    try:
        values = json.loads(path.read_bytes())
        return from_dict(kind, values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


NeuralLmType = Literal["rnn", "transformer"]


@dataclass(frozen=True)
class LmModelConfig:
    """Network of a language model over tokens."""

    lm_type: NeuralLmType = "rnn"
    """rnn: LSTM; transformer: causal self-attention."""
    vocab_size: int = 500
    """Units, blank included (V); the tokenizer's."""
    embedding_dim: int = 128
    """Channels of a token's embedding, whose matrix is also the last layer's; of all layers of a transformer."""
    hidden_dim: int = 256
    """Channels of the LSTM, or of a transformer's feed-forwards."""
    num_layers: int = 2
    """Layers."""
    num_heads: int = 4
    """transformer: attention heads."""
    left_context: int = 64
    """transformer: tokens that a layer's token attends to, itself included."""
    dropout: float = 0.3
    """Share of activations that are dropped in training."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (1 is the end of a sentence)")
        require_least(self, 1, "embedding_dim", "hidden_dim", "num_layers", "num_heads")
        require_least(self, 2, "left_context")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}: give 0 or more, below 1")
        require(
            self.lm_type != "transformer" or self.embedding_dim % self.num_heads == 0,
            f"embedding_dim is {self.embedding_dim}: give a multiple of num_heads, {self.num_heads}",
        )


@dataclass(frozen=True)
class LmDataConfig:
    """Texts and batches."""

    manifest_dir: str = "data/manifests"
    """Cut sets whose texts are read, relative to the recipe's folder."""
    lang_dir: str = "data/lang_bpe_500"
    """Folder of the tokenizer and the n-grams; the trained model goes there."""
    train_split: str = "train"
    """Split whose texts are trained on, unless text is given."""
    dev_split: str = "dev"
    """Split on whose texts the perplexity is measured."""
    text: str = ""
    """File of training texts instead, one a line, written as the transcripts are; empty: the split's."""
    max_tokens: int = 500
    """Most tokens of a batch, padding included; a longer text is a batch by itself."""

    def __post_init__(self) -> None:
        require_least(self, 1, "max_tokens")


@dataclass(frozen=True)
class LmConfig:
    """Everything that defines the training of a language model; config.json of its folder."""

    model: LmModelConfig = field(default_factory=LmModelConfig)
    """The network."""
    data: LmDataConfig = field(default_factory=LmDataConfig)
    """Texts."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(num_epochs=25, learning_rate=3e-3, warmup_steps=50, max_grad_norm=1.0)
    )
    """Schedule."""

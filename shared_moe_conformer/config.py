"""The one tree of options: frozen dataclasses whose field docstrings are the help of the command-line flags.

Every field name is unique in the whole tree, so that `--num-experts 8` needs no prefix (`cli.py`).
A value that cannot be is refused here, where it enters.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

C = TypeVar("C")

ADDED_LATER = {"may_be_missing": True}
"""Metadata of a field that older files lack; its default is what was done before it was there."""

ExpertsIn = Literal["none", "first", "second", "both"]
BalanceOver = Literal["layer", "group"]
ConvNorm = Literal["batch_norm", "layer_norm"]
FeatureExtractor = Literal["lhotse", "kaldifeat"]
TransducerBackend = Literal["auto", "k2", "torch"]
PrecisionName = Literal["float32", "bfloat16", "float16"]
LrSchedule = Literal["cosine", "noam"]
OptimizerName = Literal["adamw", "muon"]
SharedBlockLrScale = Literal["none", "inverse_sqrt", "inverse"]


def require(condition: bool, message: str) -> None:
    """Raise `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class FeatureConfig:
    """How audio becomes `features` (N, T, F)."""

    sampling_rate: int = 16000
    """Rate that every recording is resampled to, in Hz."""
    num_mel_bins: int = 80
    """Mel filters per frame; a frame is 25 ms long, every 10 ms."""
    feature_extractor: FeatureExtractor = "lhotse"
    """Who computes the Kaldi-compatible filter banks; both agree to 1e-3 (kaldifeat: `make kaldifeat`)."""

    def __post_init__(self) -> None:
        require(8000 <= self.sampling_rate <= 192_000, f"sampling_rate is {self.sampling_rate} Hz: give 8000 to 192000")
        require(self.num_mel_bins >= 16, f"num_mel_bins is {self.num_mel_bins}: give 16 or more")
        require_choice("feature_extractor", self.feature_extractor, FeatureExtractor)


@dataclass(frozen=True)
class EncoderConfig:
    """The conformer, its groups of layers that share one block, and its experts.

    Source: Bai et al. 2022, Parameter-Efficient Conformers via Sharing Sparsely-Gated Experts (arXiv 2209.08326);
    the block is that of Gulati et al. 2020 (arXiv 2005.08100).
    """

    encoder_dim: int = 256
    """Channels of a frame inside the encoder (C)."""
    num_attention_heads: int = 4
    """Attention heads; encoder_dim is divided among them."""
    feed_forward_dim: int = 1024
    """Hidden channels of a feed-forward, and of each expert (H)."""
    conv_kernel_size: int = 15
    """Frames that the depthwise convolution sees; odd."""
    subsampling_channels: int = 64
    """Channels of the 2-D convolutions that reduce the frame rate four times."""
    group_sizes: tuple[int, ...] = (12,)
    """Layers of each group; the layers of a group use one block's weights. All ones: nothing is shared."""
    experts_in: ExpertsIn = "second"
    """Which of a block's two feed-forwards are experts."""
    num_experts: int = 8
    """Experts of an expert feed-forward (E)."""
    top_k: int = 1
    """Experts that compute each frame (K)."""
    individual_routers: bool = True
    """Each layer routes with a router of its own; otherwise its group's layers share one."""
    individual_norms: bool = True
    """Each layer normalises with its own scales, biases and statistics; otherwise its group's layers share them."""
    conv_norm: ConvNorm = "batch_norm"
    """Normalisation inside the convolution module."""
    router_jitter: float = 0.0
    """Router inputs are multiplied by uniform noise from 1 +- this, in training (Switch Transformers, section 2.2)."""
    low_rank_delta: int = field(default=0, metadata=ADDED_LATER)
    """Rank of what each layer adds to its block's attention and dense feed-forwards (B A x beside W x); 0: nothing."""
    balance_over: BalanceOver = field(default="layer", metadata=ADDED_LATER)
    """What shall use all experts evenly: each layer, or a group's layers together, of which each may prefer some."""
    balancing_bias_rate: float = field(default=0.0, metadata=ADDED_LATER)
    """After each update the bias by which an expert is chosen rises by this if it had too few frames, and falls if too
    many (balance without a loss; 0.001 in Wang et al. 2024); 0: no biases."""
    dropout: float = 0.1
    """Probability that a channel is dropped at the end of each module of a block, in training."""

    @property
    def num_layers(self) -> int:
        """Depth of the encoder: layers, counted once per use of a block."""
        return sum(self.group_sizes)

    def __post_init__(self) -> None:
        require(
            self.num_attention_heads >= 1 and self.encoder_dim % (2 * self.num_attention_heads) == 0,
            f"encoder_dim {self.encoder_dim} cannot be divided into {self.num_attention_heads} heads of even size",
        )
        require(self.feed_forward_dim >= 1, f"feed_forward_dim is {self.feed_forward_dim}: give 1 or more")
        require(self.subsampling_channels >= 1, f"subsampling_channels is {self.subsampling_channels}: give 1 or more")
        require(
            self.conv_kernel_size % 2 == 1 and self.conv_kernel_size > 0,
            f"conv_kernel_size is {self.conv_kernel_size}: give an odd number",
        )
        require(
            len(self.group_sizes) > 0 and all(size >= 1 for size in self.group_sizes),
            f"group_sizes is {self.group_sizes}: give one positive number of layers per group",
        )
        require_choice("experts_in", self.experts_in, ExpertsIn)
        require_choice("conv_norm", self.conv_norm, ConvNorm)
        require_choice("balance_over", self.balance_over, BalanceOver)
        require(
            1 <= self.top_k <= self.num_experts,
            f"top_k is {self.top_k} of num_experts {self.num_experts}: give 1 <= top_k <= num_experts",
        )
        require(0 <= self.router_jitter < 1, f"router_jitter is {self.router_jitter}: give 0 <= router_jitter < 1")
        require(
            0 <= self.low_rank_delta <= self.encoder_dim,
            f"low_rank_delta is {self.low_rank_delta}: give 0 to encoder_dim, {self.encoder_dim}",
        )
        require(self.balancing_bias_rate >= 0, f"balancing_bias_rate is {self.balancing_bias_rate}: give 0 or more")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}: give 0 <= dropout < 1")


@dataclass(frozen=True)
class ModelConfig:
    """Encoder, stateless decoder, joiner and CTC head."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder."""
    vocab_size: int = 500
    """Output units, blank included (V); must be the tokenizer's."""
    decoder_dim: int = 256
    """Channels of the decoder, the prediction network."""
    context_size: int = 2
    """Previous tokens that the decoder sees."""
    joiner_dim: int = 256
    """Channels in which encoder and decoder frames are added."""
    transducer_backend: TransducerBackend = "auto"
    """Who computes the transducer loss; auto: k2 on a GPU where it is installed, otherwise torch (faster on a CPU)."""

    def __post_init__(self) -> None:
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (unit 0 is blank)")
        for name in ("decoder_dim", "context_size", "joiner_dim"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
        require_choice("transducer_backend", self.transducer_backend, TransducerBackend)


@dataclass(frozen=True)
class DataConfig:
    """Cut sets and how training batches are made of them. Paths are relative to the recipe's folder."""

    corpus: str = "unknown"
    """Name of the corpus, as a released model states it."""
    language: str = "und"
    """Language of the speech, a BCP-47 code; several with commas between them."""
    licence: str = "unknown"
    """Licence of the corpus, an SPDX identifier; a model released from it states the same."""
    manifest_dir: str = "data/fbank"
    """Folder of the cut sets cuts_<split>.jsonl.gz with their features."""
    train_split: str = "train"
    """Split to train on."""
    dev_split: str = "dev"
    """Split to validate on."""
    test_splits: tuple[str, ...] = ("test",)
    """Splits that decode.py decodes."""
    lang_dir: str = "data/lang_bpe_500"
    """Folder of the tokenizer: bpe.model and tokens.txt."""
    max_duration: float = 200.0
    """Audio in a batch, in seconds."""
    num_buckets: int = 10
    """Duration buckets from which batches are drawn, so that little is padding."""
    num_workers: int = 1
    """Processes that load batches; 0: the training process itself."""
    num_time_masks: int = 2
    """Time masks of SpecAugment per utterance; 0: none."""
    max_time_mask_fraction: float = 0.15
    """Share of an utterance's frames that its time masks cover together at most."""
    num_freq_masks: int = 2
    """Frequency masks of SpecAugment per utterance; 0: none."""
    max_freq_mask_bins: int = 20
    """Widest frequency mask, in mel bins."""
    noise_manifest: str = field(default="", metadata=ADDED_LATER)
    """Cuts of noise with features, mixed into training, e.g. data/fbank/cuts_musan.jsonl.gz; empty: none."""
    noise_probability: float = field(default=0.5, metadata=ADDED_LATER)
    """Share of the utterances that get noise, where there is a noise_manifest (icefall's)."""
    noise_snr: tuple[float, float] = field(default=(10.0, 20.0), metadata=ADDED_LATER)
    """Lowest and highest ratio of speech to noise, in decibel; uniformly random between them (icefall's)."""

    def __post_init__(self) -> None:
        require(self.max_duration > 0, f"max_duration is {self.max_duration} s: give a positive number")
        require(self.num_buckets >= 1, f"num_buckets is {self.num_buckets}: give 1 or more")
        for name in ("num_workers", "num_time_masks", "num_freq_masks", "max_freq_mask_bins"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        require(
            0 <= self.max_time_mask_fraction <= 1,
            f"max_time_mask_fraction is {self.max_time_mask_fraction}: give a number from 0 to 1",
        )
        require(
            0 <= self.noise_probability <= 1,
            f"noise_probability is {self.noise_probability}: give a number from 0 to 1",
        )
        require(
            len(self.noise_snr) == 2 and self.noise_snr[0] <= self.noise_snr[1],
            f"noise_snr is {self.noise_snr}: give the lowest and the highest ratio in decibel, e.g. 10,20",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """Schedule, losses and their scales."""

    num_epochs: int = 30
    """Epochs to train, counted from 1."""
    optimizer: OptimizerName = field(default="adamw", metadata=ADDED_LATER)
    """muon: the encoder's matrices by Muon, the rest by AdamW; adamw: all by AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr_factor: float = field(default=3.0, metadata=ADDED_LATER)
    """Learning rate of what Muon updates, as a multiple of AdamW's."""
    shared_block_lr_scale: SharedBlockLrScale = field(default="none", metadata=ADDED_LATER)
    """Learning rate of weights that n layers share, as a share of the others': 1, 1 / sqrt(n) or 1 / n."""
    precision: PrecisionName = field(default="float32", metadata=ADDED_LATER)
    """Format of matrix products in training; routers, softmaxes, losses, weights and validation stay in float32."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises to its peak."""
    lr_schedule: LrSchedule = field(default="cosine", metadata=ADDED_LATER)
    """How the learning rate falls from its peak: by half a cosine to 1 % of it at the last step, or as 1 / sqrt(step),
    whatever the number of epochs (noam)."""
    weight_decay: float = 1e-2
    """AdamW's weight decay, on matrices only."""
    max_grad_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    seed: int = 42
    """Seed of initialisation, sampling and dropout."""
    simple_loss_scale: float = 0.5
    """Weight of the simple (unpruned, additive) transducer loss after its warm-up."""
    loss_warmup_steps: int = 500
    """Steps over which the simple loss's weight falls from 1 and the pruned loss's rises from 0.1 to 1 (icefall)."""
    ctc_loss_scale: float = 0.3
    """Weight of the CTC loss beside the transducer's."""
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
    hidden_distillation_loss_scale: float = field(default=0.1, metadata=ADDED_LATER)
    """Weight of the distance of the encoder's frames from the teacher's, at the ends of groups that both have, with a
    teacher; 0: their sizes may differ."""
    ctc_distillation_loss_scale: float = field(default=0.1, metadata=ADDED_LATER)
    """Weight of the divergence of the CTC posteriors from the teacher's, with a teacher."""
    transducer_distillation_loss_scale: float = field(default=0.0, metadata=ADDED_LATER)
    """Weight of the divergence of the joiner from the teacher's, where pruning keeps positions, with a teacher."""
    prune_range: int = 5
    """Tokens per frame at which the joiner is evaluated (icefall's --prune-range)."""
    lm_only_scale: float = 0.25
    """Smoothing of the simple loss towards the decoder alone."""
    am_only_scale: float = 0.0
    """Smoothing of the simple loss towards the encoder alone."""

    def __post_init__(self) -> None:
        require(self.num_epochs >= 1, f"num_epochs is {self.num_epochs}: give 1 or more")
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}: give a positive number")
        require_choice("lr_schedule", self.lr_schedule, LrSchedule)
        require(self.muon_lr_factor > 0, f"muon_lr_factor is {self.muon_lr_factor}: give a positive number")
        require_choice("optimizer", self.optimizer, OptimizerName)
        require_choice("shared_block_lr_scale", self.shared_block_lr_scale, SharedBlockLrScale)
        require_choice("precision", self.precision, PrecisionName)
        require(self.warmup_steps >= 0, f"warmup_steps is {self.warmup_steps}: give 0 or more")
        require(self.max_grad_norm > 0, f"max_grad_norm is {self.max_grad_norm}: give a positive number")
        require(self.accumulate_batches >= 1, f"accumulate_batches is {self.accumulate_batches}: give 1 or more")
        require(self.init_expert_noise >= 0, f"init_expert_noise is {self.init_expert_noise}: give 0 or more")
        for name in (
            "init_epoch",
            "init_iter",
            "teacher_epoch",
            "teacher_iter",
            "hidden_distillation_loss_scale",
            "ctc_distillation_loss_scale",
            "transducer_distillation_loss_scale",
        ):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}: give 0 or more")
        for whose in ("init", "teacher"):
            epoch, iteration, avg = (getattr(self, f"{whose}_{name}") for name in ("epoch", "iter", "avg"))
            require(avg >= 1, f"{whose}_avg is {avg}: give 1 or more")
            require(
                not (epoch and iteration), f"{whose}_epoch is {epoch} and {whose}_iter {iteration}: give one of them"
            )
        require(self.prune_range >= 2, f"prune_range is {self.prune_range}: give 2 or more")


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment; `exp/config.json` once training has begun."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """From audio to features."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Cut sets and batches."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Schedule and losses."""


def require_choice(name: str, value: str, choices: Any) -> None:
    """Refuse a value that is not one of a Literal's."""
    require(value in choices.__args__, f"{name} is {value!r}: give one of {', '.join(choices.__args__)}")


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain dictionaries, as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def options_by_name(values: dict[str, Any]) -> dict[str, Any]:
    """The options of `to_dict`'s nested dictionaries, at whatever depth, by their (unique) names."""
    options: dict[str, Any] = {}
    for name, value in values.items():
        options |= options_by_name(value) if isinstance(value, dict) else {name: value}
    return options


def told_options(config: Any) -> dict[str, Any]:
    """`to_dict` without the options that were added later and have their default."""
    options: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            options[f.name] = told_options(value)
        elif not (f.metadata.get("may_be_missing") and value == f.default):
            options[f.name] = list(value) if isinstance(value, tuple) else value
    return options


def from_dict(cls: type[C], values: dict[str, Any]) -> C:
    """The dataclass `cls` from `to_dict`'s dictionary; an option that was added later may be missing.

    Raises:
      ValueError: an unknown or a missing key, named, or a value that its class refuses.
    """
    require(isinstance(values, dict), f"{cls.__name__} is {str(values)[:80]!r}: not a JSON object")
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    added = {f.name for f in dataclasses.fields(cls) if f.metadata.get("may_be_missing")}  # type: ignore[arg-type]
    unknown, missing = sorted(set(values) - names), sorted(names - added - set(values))
    require(not unknown, f"{cls.__name__} has no option {', '.join(unknown)}: was this written by a newer version?")
    require(not missing, f"{cls.__name__} lacks the option {', '.join(missing)}: was this written by an older version?")
    types = get_type_hints(cls)
    return cls(**{name: _convert(name, types[name], value) for name, value in values.items()})


JSON_TYPES = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
"""What JSON may give for a field of a plain type; True is no number."""


def _convert(name: str, kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value)  # type: ignore[arg-type]
    fits = type(value) in JSON_TYPES.get(kind, (type(value),))
    require(fits, f"{name} is {repr(value)[:80]}: it must be {getattr(kind, '__name__', kind)}")
    return tuple(value) if isinstance(value, list) else value


def save_config(config: Config, path: Path) -> None:
    """Write the config as JSON."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """The config that `save_config` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, or not this version's options.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config in {path}: train first (./train.py), or name another --exp-dir")
    try:
        values = json.loads(path.read_text())
        return from_dict(Config, values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def replace_fields(config: C, values: dict[str, Any]) -> C:
    """A copy of a config tree in which the fields of these (unique) names, at any depth, have new values.

    Raises:
      ValueError: a name that no dataclass of the tree has.
    """
    left = dict(values)
    result = _replace(config, left)
    require(not left, f"no option is called {', '.join(sorted(left))}")
    return result


def _replace(config: C, left: dict[str, Any]) -> C:
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _replace(value, left)
        elif f.name in left:
            changes[f.name] = left.pop(f.name)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]

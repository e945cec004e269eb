"""The settings of a recipe by its hours of speech, and the named configs that recipes derive from one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from shared_moe_conformer.config import Config, options_by_name, replace_fields, require, to_dict

CHUNK_SIZES = (0, 0, 4, 8, 16, 32)
"""Chunks of streaming models, in encoder frames of 40 ms; every third batch is of whole utterances."""
LEFT_CONTEXTS = (64, 128)
"""Left contexts of streaming models, in encoder frames: 2.6 and 5.1 seconds."""


class CorpusSize(NamedTuple):
    """Options that suit corpora up to a size."""

    hours: float
    """The corpus has fewer hours of speech than this."""
    options: dict[str, Any]
    """Options of `base` that differ from the defaults."""
    small: dict[str, Any]
    """Options of `small` that differ from `base`."""
    recommended: str
    """The config that is trained where none is named."""


_MASKS = {"num_time_masks": 2, "max_time_mask_fraction": 0.1, "max_freq_mask_bins": 10}
_ON_CPUS = {"optimizer": "muon", "learning_rate": 2e-3, "muon_lr_factor": 1.25, "ctc_loss_scale": 1.0}
"""AdamW's weights and Muon's learn about equally fast; with 1e-3 and three times as much, AdamW's held the others up
(docs/training.md)."""
_ON_GPUS = {
    "encoder_dim": 256,
    "feed_forward_dim": 2048,
    "conv_kernel_size": 31,
    "subsampling_channels": 64,
    "group_sizes": (6, 6),
    "decoder_dim": 512,
    "joiner_dim": 512,
    "max_duration": 300.0,
    "num_buckets": 30,
    "num_workers": 4,
    "num_time_masks": 10,
    "max_time_mask_fraction": 0.15,
    "num_freq_masks": 2,
    "max_freq_mask_bins": 27,
    "learning_rate": 1e-3,
    "loss_warmup_steps": 2000,
}
_TINY = {"encoder_dim": 96, "feed_forward_dim": 256, "num_experts": 2, "decoder_dim": 96, "joiner_dim": 96}
_SMALL = {
    "encoder_dim": 144,
    "feed_forward_dim": 576,
    "group_sizes": (12,),
    "num_experts": 4,
    "subsampling_channels": 32,
    "decoder_dim": 256,
    "joiner_dim": 256,
}

CORPUS_SIZES = (
    CorpusSize(
        2.0,
        {
            **_ON_CPUS,
            **_MASKS,
            "encoder_dim": 128,
            "feed_forward_dim": 512,
            "subsampling_channels": 32,
            "group_sizes": (6,),
            "decoder_dim": 128,
            "joiner_dim": 128,
            "max_duration": 15.0,  # many updates in few epochs
            "num_workers": 0,  # an epoch is read in seconds; a worker would take a core from training
            "join_probability": 0.4,
            "silence_probability": 0.7,
            "num_epochs": 24,
            "warmup_steps": 300,
            "loss_warmup_steps": 1000,
        },
        _TINY,
        "merged",
    ),
    CorpusSize(
        7.0,
        {
            **_ON_CPUS,
            **_MASKS,
            "encoder_dim": 144,
            "feed_forward_dim": 576,
            "subsampling_channels": 36,
            "group_sizes": (6,),
            "decoder_dim": 144,
            "joiner_dim": 144,
            "max_duration": 30.0,
            "num_epochs": 30,
            "warmup_steps": 300,
            "loss_warmup_steps": 1000,
        },
        _TINY,
        "merged",
    ),
    CorpusSize(
        30.0,
        {
            **_ON_CPUS,
            **_MASKS,
            "max_freq_mask_bins": 15,
            "encoder_dim": 192,
            "feed_forward_dim": 768,
            "subsampling_channels": 48,
            "group_sizes": (8,),
            "num_experts": 4,
            "decoder_dim": 192,
            "joiner_dim": 192,
            "max_duration": 60.0,
            "num_epochs": 10,
            "warmup_steps": 500,
            "loss_warmup_steps": 2000,
        },
        {
            "encoder_dim": 128,
            "feed_forward_dim": 512,
            "num_experts": 3,
            "subsampling_channels": 32,
            "decoder_dim": 128,
            "joiner_dim": 128,
        },
        "base",
    ),
    CorpusSize(200.0, {**_ON_GPUS, "num_epochs": 60, "warmup_steps": 3000}, _SMALL, "base"),
    CorpusSize(math.inf, {**_ON_GPUS, "num_epochs": 30, "warmup_steps": 10000}, _SMALL, "base"),
)
"""Sizes of corpora, smallest first: asterisk and an4, speechocean762, uqm, LibriSpeech's 100 and 960 hours.

`merged` is recommended where it was measured to be better, on AN4 and asterisk (docs/results.md); on uqm it was not.
"""


CONDITIONS = {
    "loudness_norm": True,
    "conditions_after": 8,
    "made_noise_probability": 0.25,
    "made_noise_snr": (10.0, 30.0),
    "noise_alone_probability": 0.02,
    "reverb_probability": 0.1,
    "reverb_time": (0.1, 0.7),
    "band_limit_probability": 0.1,
}
"""One loudness, noises, rooms and bands for a corpus of less than `FEW_HOURS`, which has few of its own.

They begin late: a small model that begins with them learns later, and worse (egs/asterisk/ASR/recordings.md). On AN4
rooms and bands cost nothing (egs/an4/ASR/recordings.md).
"""
CODED_SHARE = 0.1
"""Share of the training cuts of such a corpus that preparation has coded (`prepare.sh --coded-share`); on AN4 it costs
nothing, either."""
FEW_HOURS = 7.0
GAINS = {"loudness_norm": False, "gain_probability": 0.5}
"""A stream's loudness is not known before its end; so a streaming model is trained at many levels instead."""
BEGINNING = "speechocean762-merged"
"""The zoo's model with which such a corpus begins: of those at one loudness, it has heard the most speech."""
BEGUN = {"warmup_steps": 200, "loss_warmup_steps": 200}
"""Options of a config that begins with trained weights, which soon align (egs/speechocean762/ASR/README.md)."""
MERGED_SETS = 2
"""Stored sets of a block in `merged`."""
OWN_OPTIONS = ("chunk_sizes", "left_contexts", "depths", "dropout")
"""Options of the encoder that a config keeps when it begins with a trained model; they are about training alone."""


def corpus_size(hours: float) -> CorpusSize:
    """The settings for a corpus with this much speech for training.

    Raises:
      ValueError: a corpus without speech.
    """
    require(hours > 0, f"a corpus of {hours} hours: give more than 0")
    return next(size for size in CORPUS_SIZES if hours < size.hours)


def recipe_configs(
    hours: float,
    *,
    corpus: str,
    language: str,
    licence: str,
    vocab_size: int,
    lang_dir: str = "",
    changes: dict[str, Any] | None = None,
    own: dict[str, dict[str, Any]] | None = None,
    recommended: str = "",
) -> dict[str, Config]:
    """The named configs of a recipe, the recommended one first; `named_sizes` says what they are.

    Args:
      hours: speech for training; it chooses the sizes of model and batches, and how long to train.
      corpus, language, licence, vocab_size: options of all configs.
      lang_dir: the units' folder; empty: that of SentencePiece units, data/lang_bpe_<vocab_size>.
      changes: the recipe's other options of all configs, by name.
      own: options of single configs, by their names, which the other configs do not have.
      recommended: the config that is trained where none is named; empty: what suits the hours.

    Raises:
      ValueError: a config or an option that does not exist, or a value that it cannot have.
    """
    size = corpus_size(hours)
    usual = {"num_attention_heads": 4, "conv_kernel_size": 15, "experts_in": "second", "num_experts": 3, "top_k": 1}
    names = {"corpus": corpus, "language": language, "licence": licence, "vocab_size": vocab_size}
    names["lang_dir"] = lang_dir or f"data/lang_bpe_{vocab_size}"
    common = replace_fields(Config(), {**usual, **size.options, **names, **(changes or {})})
    first = recommended or size.recommended
    configs = named_sizes(common, small=size.small, live="merged" if first == "merged" else "base")
    for name in (first, *(own or {})):
        require(name in configs, f"no config is called {name}: there are {', '.join(configs)}")
    configs |= {name: replace_fields(configs[name], options) for name, options in (own or {}).items()}
    return {first: configs.pop(first), **configs}


def kind_of(trained: Config) -> str:
    """The named config whose tensors a trained model has: base or merged; empty: neither."""
    encoder = trained.model.encoder
    if encoder.experts_in == "none":
        return "merged" if encoder.merged_sets == MERGED_SETS else ""
    return "base" if encoder.merged_sets < 2 else ""


def sizes_of(trained: Config, usual: dict[str, Config]) -> dict[str, Any]:
    """The options for all configs that give one of them the tensors of a trained model, to begin with all its weights.

    Args:
      trained: of the kind of one of the configs (`kind_of`).
      usual: the recipe's configs otherwise; options that are the same there are left out.
    """
    kind = kind_of(trained)
    theirs, ours = (options_by_name(to_dict(config.model)) for config in (trained, usual[kind]))
    kept = (*OWN_OPTIONS, "vocab_size", "transducer_backend")
    changed = {name: value for name, value in theirs.items() if name not in kept and value != ours[name]}
    if kind == "merged" and "feed_forward_dim" in changed:
        changed["feed_forward_dim"] = wider(changed["feed_forward_dim"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changed.items()}


def named_sizes(base: Config, *, small: dict[str, Any], live: str = "base") -> dict[str, Config]:
    """The configs full, shared, base, merged, streaming and small.

    Args:
      base: layers that share blocks with experts.
      small: differences for devices with little memory.
      live: the config that streaming is made of.

    Returns:
      full: every layer has its own weights, and no experts; shared: base without experts; base; merged: two stored sets
      of a slightly narrower block, without experts; streaming: trained on chunks of 160 ms to 1.28 s and on whole
      utterances, at many levels if base brings them to one; small.
    """
    levelled = base.model.encoder.loudness_norm
    dense = dataclasses.replace(base.model.encoder, experts_in="none", expert_blocks="")
    changes: dict[str, dict[str, Any]] = {
        "full": dataclasses.asdict(dense.unshared()),
        "shared": {"experts_in": "none"},
        "base": {},
        "merged": {
            "experts_in": "none",
            "merged_sets": MERGED_SETS,
            "feed_forward_dim": narrower(base.model.encoder.feed_forward_dim),
        },
    }
    in_chunks = {"chunk_sizes": CHUNK_SIZES, "left_contexts": LEFT_CONTEXTS} | (GAINS if levelled else {})
    changes |= {"streaming": changes[live] | in_chunks, "small": small}
    return {name: replace_fields(base, change) for name, change in changes.items()}


def narrower(feed_forward_dim: int) -> int:
    """Channels of a feed-forward in a block stored twice, so that both need about a third of six unshared layers."""
    return feed_forward_dim * 7 // 8


def wider(feed_forward_dim: int) -> int:
    """The inverse of `narrower`: the channels of `base`'s feed-forward, given those of `merged`'s."""
    return -(-feed_forward_dim * 8 // 7)

"""Options that do nothing, since another one turns off what they are about; to give them is a mistake."""

from __future__ import annotations

from collections.abc import Collection

from shared_moe_conformer.config.experiment import Config, LmConfig
from shared_moe_conformer.config.tree import options_by_name, require, to_dict

OF_EXPERTS = (
    *("expert_blocks", "num_experts", "top_k", "expert_dim", "common_expert_dim", "router_gates", "gate_scale"),
    *("expert_norm", "individual_routers", "router_jitter", "balance_over", "balancing_bias_rate"),
    *("load_balancing_loss_scale", "router_z_loss_scale", "init_expert_noise"),
)
"""Options that are about experts."""
OF_NOISES = ("made_noise_probability", "noise_alone_probability")
OF_CONDITIONS = ("gain_probability", *OF_NOISES, "reverb_probability", "band_limit_probability")
OF_WEIGHTS = ("epoch", "iter", "avg", "use_averaged_model")
OF_TEACHER = (*(f"teacher_{name}" for name in OF_WEIGHTS), "clean_teacher") + tuple(
    f"{kind}_distillation_loss_scale" for kind in ("hidden", "ctc", "transducer")
)
DEPENDENT: tuple[tuple[tuple[str, ...], tuple[object, ...], tuple[str, ...]], ...] = (
    (("experts_in",), ("none",), OF_EXPERTS),
    (("merged_sets",), (1,), ("merged_parts", "merge_gates")),
    (("chunk_sizes",), ([],), ("left_contexts",)),
    (("optimizer",), ("adamw",), ("muon_lr_factor",)),
    (("lr_schedule",), ("cosine", "noam"), ("decay_epochs",)),
    (("cr_loss_scale",), (0,), ("cr_time_mask_ratio",)),
    (("init_from",), ("",), (*(f"init_{name}" for name in OF_WEIGHTS), "init_modules", "init_expert_noise")),
    (("teacher",), ("",), OF_TEACHER),
    (("train_cuts",), ([],), ("buffer_cuts", "max_unreadable")),
    (("num_time_masks",), (0,), ("max_time_mask_fraction",)),
    (("num_freq_masks",), (0,), ("max_freq_mask_bins",)),
    (("noise_manifest",), ("",), ("noise_probability", "noise_snr")),
    (("room_manifest",), ("",), ("room_probability",)),
    (("codec_probability",), (0,), ("codecs",)),
    (("gain_probability",), (0,), ("gain_range",)),
    (OF_NOISES, (0,), ("made_noises", "made_noise_snr")),
    (("reverb_probability",), (0,), ("reverb_time",)),
    (("band_limit_probability",), (0,), ("band_limit",)),
    (OF_CONDITIONS, (0,), ("conditions_after",)),
    (("lm_type",), ("rnn",), ("num_heads", "left_context")),
)
"""Options, their values (as JSON has them) with which other options do nothing, and these."""


def refuse_idle(config: Config | LmConfig, given: Collection[str]) -> None:
    """Raise `ValueError` if options do nothing: `merged` has no experts.

    Args:
      given: names of the options that were given; nothing is idle beside one that was turned off knowingly.
    """
    values = options_by_name(to_dict(config))
    for options, off, dependents in DEPENDENT:
        idle = [_flag(name) for name in dependents if name in given]
        is_off = all(name not in given and values.get(name) in off for name in options)
        states = " and ".join(f"{name} is {'empty' if off[0] in ('', []) else values.get(name)}" for name in options)
        require(
            not (idle and is_off),
            f"{', '.join(idle)}: nothing in this config uses it, since {states}: give {_flag(options[0])} too, or "
            "another --config",
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

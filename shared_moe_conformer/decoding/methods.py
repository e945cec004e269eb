"""The decoding methods by name, and the one call that runs any of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding.beam_search import (
    modified_beam_search,
    modified_beam_search_lm_shallow_fusion,
    modified_beam_search_lodr,
)
from shared_moe_conformer.decoding.ctc import ctc_greedy_search, ctc_prefix_beam_search
from shared_moe_conformer.decoding.fast_beam_search import (
    fast_beam_search,
    fast_beam_search_nbest,
    fast_beam_search_nbest_lg,
    fast_beam_search_nbest_oracle,
)
from shared_moe_conformer.decoding.greedy import greedy_search
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.lattice import one_best
from shared_moe_conformer.decoding.options import DecodingConfig, DecodingMethod
from shared_moe_conformer.decoding.rescoring import nbest, nbest_oracle, nbest_rescoring, whole_lattice_rescoring
from shared_moe_conformer.decoding.resources import MISSING, NOTHING, Resources
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput

__all__ = [
    "METHODS",
    "DecodingConfig",
    "DecodingMethod",
    "Method",
    "decode_at_scales",
    "decode_batch",
    "used",
]


class Method(NamedTuple):
    """A search and the options of `DecodingConfig` that change its result."""

    search: Callable[..., Any]
    """Gives a hypothesis for each utterance, or one such list for each scale."""
    options: tuple[str, ...]
    """Those that the search is given."""
    uses: tuple[str, ...] = ()
    """The parts of `Resources` that the search is given, by name."""
    inputs: tuple[str, ...] = ()
    """Options that decide what these parts are."""
    engines: tuple[str, ...] = ()
    """Lattice engines of which it needs one; none: it needs no engine."""
    at_scales: bool = False
    """Whether it is given several LM scales, for all of which one search serves."""
    is_oracle: bool = False
    """Whether it looks at the transcripts, so that its error rate is a bound and no result."""


ENGINES = ("k2", "embedded")
FAST = ("beam", "max_contexts", "max_states")
NBEST = ("num_paths", "nbest_scale")
OVER_WORDS = ("hlg_scale", "lattice_engine", "ctc_topology", "search_beam", "output_beam", "max_active")
LATTICE = ("graph", *OVER_WORDS)
RESCORING = ("rescoring_ngram", "backoff", "lm_scales")

METHODS = {
    "greedy_search": Method(greedy_search, ("max_sym_per_frame",)),
    "modified_beam_search": Method(
        modified_beam_search, ("beam_size", "hotwords_score"), uses=("hotwords",), inputs=("hotwords", "hotwords_file")
    ),
    "modified_beam_search_lm_shallow_fusion": Method(
        modified_beam_search_lm_shallow_fusion,
        ("beam_size", "lm_scale", "hotwords_score"),
        uses=("token_lm", "hotwords"),
        inputs=("lm_order", "hotwords", "hotwords_file"),
    ),
    "modified_beam_search_LODR": Method(
        modified_beam_search_lodr,
        ("beam_size", "lm_scale", "lodr_scale", "hotwords_score"),
        uses=("token_lm", "low_order_lm", "hotwords"),
        inputs=("lm_order", "hotwords", "hotwords_file"),
    ),
    "fast_beam_search": Method(fast_beam_search, FAST, engines=("k2",)),
    "fast_beam_search_nbest": Method(fast_beam_search_nbest, (*FAST, *NBEST), engines=("k2",)),
    "fast_beam_search_nbest_LG": Method(
        fast_beam_search_nbest_lg,
        (*FAST, *NBEST, "ngram_lm_scale"),
        uses=("token_word_graph",),
        engines=("k2",),
    ),
    "fast_beam_search_nbest_oracle": Method(
        fast_beam_search_nbest_oracle,
        (*FAST, *NBEST),
        uses=("transcripts", "to_text"),
        engines=("k2",),
        is_oracle=True,
    ),
    "ctc_greedy_search": Method(ctc_greedy_search, ()),
    "ctc_prefix_beam_search": Method(ctc_prefix_beam_search, ("beam_size",)),
    "1best": Method(one_best, LATTICE, uses=("word_graph",), engines=ENGINES),
    "nbest": Method(nbest, (*LATTICE, "num_paths"), uses=("word_graph",), engines=ENGINES),
    "nbest_rescoring": Method(
        nbest_rescoring,
        (*OVER_WORDS, "num_paths"),
        uses=("word_graph", "rescoring_lm"),
        inputs=RESCORING,
        engines=ENGINES,
        at_scales=True,
    ),
    "whole_lattice_rescoring": Method(
        whole_lattice_rescoring,
        OVER_WORDS,
        uses=("word_graph", "rescoring_lm"),
        inputs=RESCORING,
        engines=ENGINES,
        at_scales=True,
    ),
    "nbest_oracle": Method(
        nbest_oracle,
        (*LATTICE, "num_paths"),
        uses=("word_graph", "transcripts", "to_text"),
        engines=ENGINES,
        is_oracle=True,
    ),
}


def decode_batch(
    model: AsrModel, encoder_output: EncoderOutput, config: DecodingConfig, *, resources: Resources = NOTHING
) -> list[Hypothesis]:
    """Return one hypothesis per utterance. The model is in evaluation mode, the call inside `torch.inference_mode`.

    Args:
      resources: graphs and whatever else methods use.

    Raises:
      ValueError: the method is "all", needs a lattice engine where none is installed, or a resource that is not given.
    """
    require(
        config.decoding_method in METHODS,
        f"decoding_method is {config.decoding_method!r}: give one of {', '.join(METHODS)}",
    )
    return decode_at_scales(model, encoder_output, [config], resources=resources)[0]


def decode_at_scales(
    model: AsrModel,
    encoder_output: EncoderOutput,
    configs: Sequence[DecodingConfig],
    *,
    resources: Resources = NOTHING,
) -> list[list[Hypothesis]]:
    """Return what `decode_batch` does for each of several configs that differ in nothing but the LM's scale."""
    method = METHODS[configs[0].decoding_method]
    options = {name: getattr(configs[0], name) for name in method.options}
    given = {name: getattr(resources, name) for name in method.uses}
    for name in used(configs[0]):
        require(given[name] is not None or name not in MISSING, MISSING.get(name, ""))
    search = functools.partial(
        method.search, model, encoder_output.encoder_out, encoder_output.encoder_out_lens, **options, **given
    )
    if method.at_scales:
        return search(lm_scales=[scale for config in configs for scale in config.lm_scales])
    return [search() for _ in configs]


def used(config: DecodingConfig) -> list[str]:
    """The parts of `Resources` that the method needs with these options."""
    method = METHODS[config.decoding_method]
    unused = {"word_graph"} if "graph" in method.options and config.graph == "H" else set()
    return [name for name in method.uses if name not in unused]

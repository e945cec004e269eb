"""The decoding methods by name, with their options; the call that runs any of them; their names in files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from shared_moe_conformer.config import replace_fields, require
from shared_moe_conformer.decoding import k2, lattice
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch, RescoredBeamSearch
from shared_moe_conformer.decoding.ctc import CtcGreedySearch, CtcPrefixBeamSearch
from shared_moe_conformer.decoding.greedy import GreedySearch
from shared_moe_conformer.decoding.hypothesis import Hypothesis, Search
from shared_moe_conformer.decoding.options import NOTHING, DecodingConfig, Part, Resources, given
from shared_moe_conformer.decoding.scorers import Scorer
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput


class Method(NamedTuple):
    """One row of the table: the search that options make, and the options that change its result."""

    search: Callable[[AsrModel, DecodingConfig, Resources], Search[Any]]
    """Raises ValueError where a part of the resources is missing."""
    options: tuple[str, ...]
    """Options of `DecodingConfig` that change its result, in their order in file names."""
    uses: tuple[Part, ...] = ()
    """The parts of `Resources` that it uses."""
    engines: tuple[str, ...] = ()
    """Lattice engines that can run it; empty: it needs none."""
    at_scales: bool = False
    """Whether `lm_scales` only changes the final choice, so that one search serves several scales."""
    is_oracle: bool = False
    """Whether it looks at the transcripts, so that its error rate is a bound, not a result."""


ENGINES = ("k2", "embedded")
BEAM = ("beam_size", "blank_penalty")
HOTWORDS = ("hotwords_score", "hotwords", "hotwords_file")
FAST = ("beam", "max_contexts", "max_states", "blank_penalty")
NBEST = ("num_paths", "nbest_scale")
OVER_WORDS = ("hlg_scale", "lattice_engine", "ctc_topology", "search_beam", "output_beam", "max_active")
LATTICE = ("graph", *OVER_WORDS)
RESCORING = ("rescoring_ngram", "backoff", "lm_scales")
TOKEN_LM = ("lm_type", "lm_order")
METHODS: dict[str, Method] = {
    "greedy_search": Method(
        lambda model, options, parts: GreedySearch(
            model, max_sym_per_frame=options.max_sym_per_frame, blank_penalty=options.blank_penalty
        ),
        ("max_sym_per_frame", "blank_penalty"),
    ),
    "modified_beam_search": Method(
        lambda model, options, parts: _beam_search(model, options, (parts.hotwords, options.hotwords_score)),
        (*BEAM, *HOTWORDS),
        uses=("hotwords",),
    ),
    "modified_beam_search_lm_shallow_fusion": Method(
        lambda model, options, parts: _beam_search(
            model,
            options,
            (given(parts.token_lm, "token_lm"), options.lm_scale),
            (parts.hotwords, options.hotwords_score),
        ),
        (*BEAM, "lm_scale", "hotwords_score", *TOKEN_LM, "hotwords", "hotwords_file"),
        uses=("token_lm", "hotwords"),
    ),
    "modified_beam_search_LODR": Method(
        lambda model, options, parts: _beam_search(
            model,
            options,
            (given(parts.token_lm, "token_lm"), options.lm_scale),
            (given(parts.low_order_lm, "low_order_lm"), -options.lodr_scale),
            (parts.hotwords, options.hotwords_score),
        ),
        (*BEAM, "lm_scale", "lodr_scale", "hotwords_score", *TOKEN_LM, "hotwords", "hotwords_file"),
        uses=("token_lm", "low_order_lm", "hotwords"),
    ),
    "modified_beam_search_lm_rescore": Method(
        lambda model, options, parts: _rescored(
            model, options, parts, (given(parts.token_lm, "token_lm"), options.lm_scales[0])
        ),
        (*BEAM, "lm_scales", *TOKEN_LM, *HOTWORDS),
        uses=("token_lm", "hotwords"),
        at_scales=True,
    ),
    "modified_beam_search_lm_rescore_LODR": Method(
        lambda model, options, parts: _rescored(
            model,
            options,
            parts,
            (given(parts.token_lm, "token_lm"), options.lm_scales[0]),
            (given(parts.low_order_lm, "low_order_lm"), -options.lodr_scale),
        ),
        (*BEAM, "lm_scales", "lodr_scale", *TOKEN_LM, *HOTWORDS),
        uses=("token_lm", "low_order_lm", "hotwords"),
        at_scales=True,
    ),
    "fast_beam_search": Method(k2.fast_beam_search, FAST, engines=("k2",)),
    "fast_beam_search_nbest": Method(k2.fast_beam_search_nbest, (*FAST, *NBEST), engines=("k2",)),
    "fast_beam_search_nbest_LG": Method(
        k2.fast_beam_search_nbest_lg,
        (*FAST, *NBEST, "ngram_lm_scale"),
        uses=("token_word_graph",),
        engines=("k2",),
    ),
    "fast_beam_search_nbest_oracle": Method(
        k2.fast_beam_search_nbest_oracle,
        (*FAST, *NBEST),
        uses=("transcripts", "to_text"),
        engines=("k2",),
        is_oracle=True,
    ),
    "ctc_greedy_search": Method(lambda model, options, parts: CtcGreedySearch(model), ()),
    "ctc_prefix_beam_search": Method(
        lambda model, options, parts: CtcPrefixBeamSearch(model, beam_size=options.beam_size), ("beam_size",)
    ),
    "1best": Method(lattice.one_best, LATTICE, uses=("word_graph",), engines=ENGINES),
    "nbest": Method(lattice.nbest, (*LATTICE, "num_paths"), uses=("word_graph",), engines=ENGINES),
    "nbest_rescoring": Method(
        lattice.nbest_rescoring,
        (*OVER_WORDS, "num_paths", *RESCORING),
        uses=("word_graph", "rescoring_lm"),
        engines=ENGINES,
        at_scales=True,
    ),
    "nbest_lm_rescore": Method(
        lattice.nbest_lm_rescore,
        (*LATTICE, "num_paths", *TOKEN_LM, "lm_scales"),
        uses=("word_graph", "token_lm"),
        engines=ENGINES,
        at_scales=True,
    ),
    "nbest_transducer_rescoring": Method(
        lattice.nbest_transducer_rescoring,
        (*LATTICE, "num_paths", "lm_scales"),
        uses=("word_graph",),
        engines=ENGINES,
        at_scales=True,
    ),
    "whole_lattice_rescoring": Method(
        lattice.whole_lattice_rescoring,
        (*OVER_WORDS, *RESCORING),
        uses=("word_graph", "rescoring_lm"),
        engines=ENGINES,
        at_scales=True,
    ),
    "nbest_oracle": Method(
        lattice.nbest_oracle,
        (*LATTICE, "num_paths"),
        uses=("word_graph", "transcripts", "to_text"),
        engines=ENGINES,
        is_oracle=True,
    ),
}


def _beam_search(model: AsrModel, options: DecodingConfig, *scorers: tuple[Scorer | None, float]) -> ModifiedBeamSearch:
    """The search with those scorers that are given and have a scale."""
    scaled = _scaled(model, scorers)
    return ModifiedBeamSearch(model, beam_size=options.beam_size, blank_penalty=options.blank_penalty, scorers=scaled)


def _rescored(
    model: AsrModel, options: DecodingConfig, parts: Resources, *lms: tuple[Scorer, float]
) -> RescoredBeamSearch:
    """The search whose hypotheses these language models rescore."""
    search = _beam_search(model, options, (parts.hotwords, options.hotwords_score))
    return RescoredBeamSearch(search, _scaled(model, lms))


def _scaled(model: AsrModel, scorers: Sequence[tuple[Scorer | None, float]]) -> list[Scorer]:
    """The scorers that are given and have a scale, on the model's device."""
    device = model.joiner.output.weight.device
    return [scorer.to(device).scaled(scale) for scorer, scale in scorers if scorer is not None and scale != 0]


def one_method(config: DecodingConfig) -> Method:
    """The method of a config that names a single one.

    Raises:
      ValueError: it is "all", or there is none of its name.
    """
    name = config.decoding_method
    require(name in METHODS, f"decoding_method is {name!r}: give one of {', '.join(METHODS)}")
    return METHODS[name]


def decode_batch(
    model: AsrModel, encoder_output: EncoderOutput, config: DecodingConfig, *, resources: Resources = NOTHING
) -> list[Hypothesis]:
    """Return one hypothesis per utterance. The model is in evaluation mode, the call inside `torch.inference_mode`.

    Raises:
      ValueError: the method is "all", needs a lattice engine where none is installed, or a resource that is not given.
    """
    one_method(config)
    return decode_at_scales(model, encoder_output, [config], resources=resources)[0]


def decode_at_scales(
    model: AsrModel,
    encoder_output: EncoderOutput,
    configs: Sequence[DecodingConfig],
    *,
    resources: Resources = NOTHING,
) -> list[list[Hypothesis]]:
    """Return what `decode_batch` does for each of several configs that differ only in the LM's scale.

    All finish the same state.
    """
    searches = [METHODS[config.decoding_method].search(model, config, resources) for config in configs]
    frames, lens = encoder_output.encoder_out, encoder_output.encoder_out_lens
    state = searches[0].advance(searches[0].start(len(frames)), frames, lens)
    return [search.finish(state) for search in searches]


def used(config: DecodingConfig) -> list[Part]:
    """The parts of `Resources` that the method needs with these options."""
    method = METHODS[config.decoding_method]
    unused = {"word_graph"} if "graph" in method.options and config.graph == "H" else set()
    return [name for name in method.uses if name not in unused]


OF_ENCODER = ("chunk_size", "left_context_frames")
"""Options of the encoder, which every method has."""
UNNAMED_BY_DEFAULT = ("blank_penalty", "lm_type")
"""Options that are newer than the first named results; file names leave them out at their defaults."""


def grouped(configs: Sequence[DecodingConfig]) -> list[list[DecodingConfig]]:
    """The configs in lists that share one search."""

    def search_of(config: DecodingConfig) -> DecodingConfig:
        return replace_fields(config, {"lm_scales": (0.0,)}) if METHODS[config.decoding_method].at_scales else config

    return [list(group) for _, group in itertools.groupby(configs, key=search_of)]


def settings(config: DecodingConfig) -> str:
    """The method and every option that changes its result, for file names: greedy_search-max-sym-.."""
    method = METHODS[config.decoding_method]
    left_out = set() if config.hotwords or config.hotwords_file else set(HOTWORDS)
    left_out |= {
        f.name for f in fields(config) if f.name in UNNAMED_BY_DEFAULT and getattr(config, f.name) == f.default
    }
    left_out |= set() if config.lm_type == "ngram" else {"lm_order"}
    values = {name: getattr(config, name) for name in method.options if name not in left_out}
    if config.chunk_size:
        values |= {name: getattr(config, name) for name in OF_ENCODER}
    if "hotwords" in values:
        values["hotwords"] = re.sub(r"\W+", "_", "+".join(config.hotwords))
    if "lm_scales" in values:
        values["lm_scale"] = "+".join(map(str, values.pop("lm_scales")))
    values |= {name: Path(values[name]).stem for name in ("hotwords_file", "rescoring_ngram") if name in values}
    return "-".join(
        [
            config.decoding_method,
            *(f"{name.replace('_', '-')}-{value}" for name, value in values.items() if value != ""),
        ]
    )


def label(config: DecodingConfig) -> str:
    """The method, with its graph and engine if it has them, for tables."""
    method = METHODS[config.decoding_method]
    graph = config.graph if "graph" in method.options else "HLG"
    over = f" over {graph}" if "word_graph" in method.uses else ""
    lm = f" with {config.lm_type}" if "lm_type" in method.options and config.lm_type != "ngram" else ""
    by = f" ({config.lattice_engine})" if len(method.engines) > 1 else ""
    at = f" at {'+'.join(map(str, config.lm_scales))}" if method.at_scales else ""
    return f"{config.decoding_method}{over}{lm}{by}{at}"

"""The decoding methods by name, each with its options, and the one call that runs any of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shared_moe_conformer.config import require
from shared_moe_conformer.decoding import k2, lattice
from shared_moe_conformer.decoding.beam import ModifiedBeamSearch
from shared_moe_conformer.decoding.ctc import CtcGreedySearch, CtcPrefixBeamSearch
from shared_moe_conformer.decoding.greedy import GreedySearch
from shared_moe_conformer.decoding.hypothesis import Hypothesis, Search
from shared_moe_conformer.decoding.options import DecodingConfig
from shared_moe_conformer.decoding.resources import NOTHING, Part, Resources, given
from shared_moe_conformer.decoding.scorers import PrefixScorer
from shared_moe_conformer.lattice.graphs import WordGraph
from shared_moe_conformer.lattice.search import Beams
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput


class Method(NamedTuple):
    """One row of the table: how options make a search, and which of them change its result."""

    search: Callable[[AsrModel, DecodingConfig, Resources], Search[Any]]
    """Raises ValueError where a part of the resources is missing."""
    options: tuple[str, ...]
    """Options of `DecodingConfig` that change its result, in the order in which file names carry them."""
    uses: tuple[Part, ...] = ()
    """The parts of `Resources` that it uses."""
    engines: tuple[str, ...] = ()
    """Lattice engines, one of which it needs; empty: none is needed."""
    at_scales: bool = False
    """Whether `lm_scales` decides its choice alone, so that one search serves several scales."""
    is_oracle: bool = False
    """Whether it looks at the transcripts: its error rate is then a bound, not a result."""


ENGINES = ("k2", "embedded")
BEAM = ("beam_size", "blank_penalty")
HOTWORDS = ("hotwords_score", "hotwords", "hotwords_file")
FAST = ("beam", "max_contexts", "max_states", "blank_penalty")
NBEST = ("num_paths", "nbest_scale")
OVER_WORDS = ("hlg_scale", "lattice_engine", "ctc_topology", "search_beam", "output_beam", "max_active")
LATTICE = ("graph", *OVER_WORDS)
RESCORING = ("rescoring_ngram", "backoff", "lm_scales")

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
        (*BEAM, "lm_scale", "hotwords_score", "lm_order", "hotwords", "hotwords_file"),
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
        (*BEAM, "lm_scale", "lodr_scale", "hotwords_score", "lm_order", "hotwords", "hotwords_file"),
        uses=("token_lm", "low_order_lm", "hotwords"),
    ),
    "fast_beam_search": Method(
        lambda model, options, parts: k2.fast_beam_search(_token_lattices(model, options)), FAST, engines=("k2",)
    ),
    "fast_beam_search_nbest": Method(
        lambda model, options, parts: k2.fast_beam_search_nbest(
            _token_lattices(model, options), num_paths=options.num_paths, nbest_scale=options.nbest_scale
        ),
        (*FAST, *NBEST),
        engines=("k2",),
    ),
    "fast_beam_search_nbest_LG": Method(
        lambda model, options, parts: k2.fast_beam_search_nbest(
            _token_lattices(model, options, given(parts.token_word_graph, "token_word_graph")),
            num_paths=options.num_paths,
            nbest_scale=options.nbest_scale,
        ),
        (*FAST, *NBEST, "ngram_lm_scale"),
        uses=("token_word_graph",),
        engines=("k2",),
    ),
    "fast_beam_search_nbest_oracle": Method(
        lambda model, options, parts: k2.fast_beam_search_nbest_oracle(
            _token_lattices(model, options),
            transcripts=given(parts.transcripts, "transcripts"),
            to_text=given(parts.to_text, "to_text"),
            num_paths=options.num_paths,
            nbest_scale=options.nbest_scale,
        ),
        (*FAST, *NBEST),
        uses=("transcripts", "to_text"),
        engines=("k2",),
        is_oracle=True,
    ),
    "ctc_greedy_search": Method(lambda model, options, parts: CtcGreedySearch(model), ()),
    "ctc_prefix_beam_search": Method(
        lambda model, options, parts: CtcPrefixBeamSearch(model, beam_size=options.beam_size), ("beam_size",)
    ),
    "1best": Method(
        lambda model, options, parts: lattice.one_best(_lattices(model, options, parts)),
        LATTICE,
        uses=("word_graph",),
        engines=ENGINES,
    ),
    "nbest": Method(
        lambda model, options, parts: lattice.nbest(
            _lattices(model, options, parts), num_paths=options.num_paths, output_beam=options.output_beam
        ),
        (*LATTICE, "num_paths"),
        uses=("word_graph",),
        engines=ENGINES,
    ),
    "nbest_rescoring": Method(
        lambda model, options, parts: lattice.nbest_rescoring(
            _lattices(model, options, parts),
            rescoring_lm=given(parts.rescoring_lm, "rescoring_lm"),
            lm_scale=options.lm_scales[0],
            num_paths=options.num_paths,
            output_beam=options.output_beam,
        ),
        (*OVER_WORDS, "num_paths", *RESCORING),
        uses=("word_graph", "rescoring_lm"),
        engines=ENGINES,
        at_scales=True,
    ),
    "whole_lattice_rescoring": Method(
        lambda model, options, parts: lattice.whole_lattice_rescoring(
            _lattices(model, options, parts),
            rescoring_lm=given(parts.rescoring_lm, "rescoring_lm"),
            lm_scale=options.lm_scales[0],
        ),
        (*OVER_WORDS, *RESCORING),
        uses=("word_graph", "rescoring_lm"),
        engines=ENGINES,
        at_scales=True,
    ),
    "nbest_oracle": Method(
        lambda model, options, parts: lattice.nbest_oracle(
            _lattices(model, options, parts),
            transcripts=given(parts.transcripts, "transcripts"),
            to_text=given(parts.to_text, "to_text"),
            num_paths=options.num_paths,
            output_beam=options.output_beam,
        ),
        (*LATTICE, "num_paths"),
        uses=("word_graph", "transcripts", "to_text"),
        engines=ENGINES,
        is_oracle=True,
    ),
}


def _beam_search(
    model: AsrModel, options: DecodingConfig, *scorers: tuple[PrefixScorer | None, float]
) -> ModifiedBeamSearch:
    """The search with those scorers that are there and count, at their scales."""
    device = model.joiner.output.weight.device
    scaled = [scorer.to(device).scaled(scale) for scorer, scale in scorers if scorer is not None and scale != 0]
    return ModifiedBeamSearch(model, beam_size=options.beam_size, blank_penalty=options.blank_penalty, scorers=scaled)


def _token_lattices(model: AsrModel, options: DecodingConfig, lg: WordGraph | None = None) -> k2.FindTransducerLattices:
    return k2.transducer_lattice_finder(
        model,
        lg,
        ngram_lm_scale=options.ngram_lm_scale,
        blank_penalty=options.blank_penalty,
        beam=options.beam,
        max_contexts=options.max_contexts,
        max_states=options.max_states,
    )


def _lattices(model: AsrModel, options: DecodingConfig, parts: Resources) -> lattice.FindLattices:
    if options.lattice_engine == "all":
        raise ValueError("lattice_engine is 'all': give one engine for each search, as `searches.resolved` does")
    return lattice.lattice_finder(
        model,
        word_graph=given(parts.word_graph, "word_graph") if "word_graph" in used(options) else None,
        hlg_scale=options.hlg_scale,
        lattice_engine=options.lattice_engine,
        ctc_topology=options.ctc_topology,
        beams=Beams(options.search_beam, options.output_beam, options.max_active),
    )


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
    """Return what `decode_batch` does for each of several configs that differ in nothing but the LM's scale.

    They finish one state.
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

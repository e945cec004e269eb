"""The decoding methods by name, their options, and the one call that runs any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from shared_moe_conformer.config import replace_fields, require, require_choice
from shared_moe_conformer.decoding.beam_search import modified_beam_search
from shared_moe_conformer.decoding.ctc import ctc_greedy_search, ctc_prefix_beam_search
from shared_moe_conformer.decoding.greedy import greedy_search
from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.lattice import GraphName, one_best
from shared_moe_conformer.decoding.resources import NOTHING, Resources
from shared_moe_conformer.lattice.engine import EngineName, lattice_engine
from shared_moe_conformer.lattice.graphs import CtcTopology, chosen_topology
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.model.encoder import EncoderOutput

DecodingMethod = Literal[
    "greedy_search", "modified_beam_search", "ctc_greedy_search", "ctc_prefix_beam_search", "1best", "all"
]

# k2 counts arcs in 32 bits (max_active x batch x 4 must stay below 2**31), and flat posteriors of an untrained model
# activate every state.
MAX_ACTIVE_LIMIT = 10_000


@dataclass(frozen=True)
class DecodingConfig:
    """How encoder frames become tokens."""

    decoding_method: DecodingMethod = "greedy_search"
    """The search; all: every one that can run here, and a table that compares them."""
    max_symbols_per_frame: int = 1
    """greedy_search: tokens after which it goes on to the next frame without waiting for a blank."""
    beam: int = 4
    """modified_beam_search, ctc_prefix_beam_search: hypotheses kept per utterance."""
    graph: GraphName = "H"
    """1best: H: the CTC topology alone; HLG: with the lexicon and the n-gram of the lang folder (./prepare.sh)."""
    hlg_scale: float = 1.0
    """1best over HLG: what the graph's log-probabilities are multiplied by."""
    lattice_engine: EngineName = "auto"
    """1best: who searches the graph; auto: k2 where it is installed, otherwise embedded (kaldi-decoder)."""
    ctc_topology: CtcTopology = "auto"
    """1best: the graph; standard has vocab_size squared arcs, modified 4 per unit; auto: modified from 500 units on."""
    search_beam: float = 15.0
    """1best: paths this much (nats) worse than a frame's best are dropped."""
    output_beam: float = 8.0
    """1best: paths this much (nats) worse than the utterance's best leave the lattice (k2)."""
    max_active: int = 7000
    """1best: states kept on a frame at most."""

    def __post_init__(self) -> None:
        require_choice("decoding_method", self.decoding_method, DecodingMethod)
        require_choice("lattice_engine", self.lattice_engine, EngineName)
        require_choice("ctc_topology", self.ctc_topology, CtcTopology)
        for name in ("max_symbols_per_frame", "beam"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}: give 1 or more")
        require_choice("graph", self.graph, GraphName)
        for name in ("search_beam", "output_beam", "hlg_scale"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}: give a positive number")
        require(
            2 <= self.max_active <= MAX_ACTIVE_LIMIT,
            f"max_active is {self.max_active}: give 2 to {MAX_ACTIVE_LIMIT} states",
        )


class Method(NamedTuple):
    """A search and the options of `DecodingConfig` that change its result."""

    search: Callable[..., list[Hypothesis]]
    options: tuple[str, ...]
    over_words: bool = False
    """Whether it can search a graph over words."""
    uses: tuple[str, ...] = ()
    """The parts of `Resources` that the search is given, by name."""
    is_oracle: bool = False
    """Whether it looks at the transcripts, so that its error rate is a bound and no result."""


METHODS = {
    "greedy_search": Method(greedy_search, ("max_symbols_per_frame",)),
    "modified_beam_search": Method(modified_beam_search, ("beam",)),
    "ctc_greedy_search": Method(ctc_greedy_search, ()),
    "ctc_prefix_beam_search": Method(ctc_prefix_beam_search, ("beam",)),
    "1best": Method(
        one_best,
        ("graph", "hlg_scale", "lattice_engine", "ctc_topology", "search_beam", "output_beam", "max_active"),
        over_words=True,
        uses=("word_graph",),
    ),
}


def decode_batch(
    model: AsrModel, encoder_output: EncoderOutput, config: DecodingConfig, *, resources: Resources = NOTHING
) -> list[Hypothesis]:
    """Return one hypothesis per utterance. The model is in evaluation mode, the call inside `torch.inference_mode`.

    Args:
      resources: graphs and whatever else methods use.

    Raises:
      ValueError: the method is "all", needs a lattice engine where none is installed, or a graph that is not given.
    """
    require(
        config.decoding_method in METHODS,
        f"decoding_method is {config.decoding_method!r}: give one of {', '.join(METHODS)}",
    )
    method = METHODS[config.decoding_method]
    options = _options(config, method.options) | {name: getattr(resources, name) for name in method.uses}
    return method.search(model, encoder_output.encoder_out, encoder_output.encoder_out_lens, **options)


def searches_words(config: DecodingConfig) -> bool:
    """Whether the method needs a graph over words."""
    return METHODS[config.decoding_method].over_words and config.graph == "HLG"


def resolved(config: DecodingConfig, *, vocab_size: int) -> list[DecodingConfig]:
    """One config for each method that this one asks for, without any "auto".

    Raises:
      ValueError: 1best alone is asked for and no lattice engine is installed.
    """
    names = available_methods(config) if config.decoding_method == "all" else [config.decoding_method]
    topology = chosen_topology(config.ctc_topology, vocab_size)
    return [_with_engine(replace_fields(config, {"decoding_method": name, "ctc_topology": topology})) for name in names]


def available_methods(config: DecodingConfig) -> list[str]:
    """The methods that can run here: all of them, or all but 1best where its lattice engine is not installed."""
    try:
        lattice_engine(config.lattice_engine)
    except ValueError:
        return [name for name in METHODS if name != "1best"]
    return list(METHODS)


def _with_engine(config: DecodingConfig) -> DecodingConfig:
    if config.decoding_method != "1best":
        return config
    return replace_fields(config, {"lattice_engine": lattice_engine(config.lattice_engine).name})


def settings(config: DecodingConfig) -> str:
    """The method and every option that changes its result, as file names carry them: greedy_search-max-symbols-.."""
    options = _options(config, METHODS[config.decoding_method].options)
    return "-".join([config.decoding_method, *(f"{name.replace('_', '-')}-{value}" for name, value in options.items())])


def _options(config: DecodingConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}

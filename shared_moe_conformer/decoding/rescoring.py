"""Choices among many paths of a lattice: the N best, the best by a stronger n-gram, the best that could be chosen.

The names are icefall's. Its N-best lists are drawn at random and hold a part of the best sequences; these are exact,
so that `nbest` has no use for --nbest-scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.lattice import hypothesis, search_lattices, tokens_of
from shared_moe_conformer.decoding.scoring import num_errors, words_of
from shared_moe_conformer.lattice.lattice import NO_PATH, Lattice, LatticePath
from shared_moe_conformer.lattice.n_best import n_best
from shared_moe_conformer.lattice.ngram import NgramAutomaton
from shared_moe_conformer.lattice.posteriors import best_arcs
from shared_moe_conformer.lattice.search import rescored
from shared_moe_conformer.model.asr_model import AsrModel


def nbest(
    model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, *, num_paths: int = 200, **search: Any
) -> list[Hypothesis]:
    """Return the first of the N best sequences of each utterance.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      num_paths: N.
      search: see `search_lattices`.
    """
    lattices, words = search_lattices(model, encoder_out, encoder_out_lens, **search)
    return [hypothesis(lattice, _n_best(lattice, num_paths, search)[0], words) for lattice in lattices]


def nbest_oracle(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    transcripts: Sequence[str],
    to_text: Callable[[list[int]], str],
    num_paths: int = 200,
    **search: Any,
) -> list[Hypothesis]:
    """Return that of the N best sequences which has the fewest word errors: what any choice among them can reach.

    Args:
      transcripts: what was said in each utterance.
      to_text: token ids to text.
      encoder_out, encoder_out_lens, num_paths, search: see `nbest`.
    """
    lattices, words = search_lattices(model, encoder_out, encoder_out_lens, **search)
    result = []
    for lattice, transcript in zip(lattices, transcripts, strict=True):
        paths = _n_best(lattice, num_paths, search)
        texts = [_text(path, words, to_text) for path in paths]
        errors = [num_errors(words_of(transcript), words_of(text)) for text in texts]
        result.append(hypothesis(lattice, paths[errors.index(min(errors))], words))
    return result


def _text(path: LatticePath, words: list[str] | None, to_text: Callable[[list[int]], str]) -> str:
    if words is None:
        return to_text(tokens_of(path)[0])
    return " ".join(words[label] for label in path.output_labels)


def nbest_rescoring(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    lm_scales: Sequence[float],
    rescoring_lm: NgramAutomaton,
    num_paths: int = 200,
    **search: Any,
) -> list[list[Hypothesis]]:
    """For each scale, return that of the N best sequences for which am + scale * lm is largest.

    am is the frames' log-probability on the sequence's best path, lm that of its words by the n-gram; the graph's own
    n-gram chose the N best and counts no more. Source: icefall's rescore_with_n_best_list.

    Args:
      lm_scales: scales of the n-gram's log-probability.
      rescoring_lm: the n-gram.
      encoder_out, encoder_out_lens, num_paths, search: see `nbest`.
    """
    lattices, words = search_lattices(model, encoder_out, encoder_out_lens, graph="HLG", **search)
    lists = [_n_best(lattice, num_paths, search) for lattice in lattices]
    scored = [[(path, rescoring_lm.score(path.output_labels)) for path in paths] for paths in lists]
    return [
        [hypothesis(lattice, _best(paths, scale), words) for lattice, paths in zip(lattices, scored)]
        for scale in lm_scales
    ]


def whole_lattice_rescoring(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    lm_scales: Sequence[float],
    rescoring_lm: NgramAutomaton,
    **search: Any,
) -> list[list[Hypothesis]]:
    """For each scale, return that of all paths of the lattice for which am + scale * lm is largest.

    Source: icefall's rescore_with_whole_lattice. See `nbest_rescoring`.
    """
    lattices, words = search_lattices(model, encoder_out, encoder_out_lens, graph="HLG", **search)
    by_lm = [rescored(lattice, rescoring_lm) for lattice in lattices]
    scaled = [[lattice.scaled(scale) for lattice in by_lm] for scale in lm_scales]
    return [[hypothesis(lattice, lattice.path(best_arcs(lattice)), words) for lattice in batch] for batch in scaled]


def _n_best(lattice: Lattice, num_paths: int, search: dict[str, Any]) -> list[LatticePath]:
    """The N best paths within the output beam, of which at least one is there, if only as `NO_PATH`."""
    return n_best(lattice, num_paths, beam=search.get("output_beam", float("inf"))) or [NO_PATH]


def _best(scored: list[tuple[LatticePath, float]], lm_scale: float) -> LatticePath:
    """The path with the best score, which becomes its score."""
    best, lm_score = max(scored, key=lambda pair: pair[0].am_score + lm_scale * pair[1])
    return best._replace(score=best.am_score + lm_scale * lm_score, lm_score=lm_scale * lm_score)

"""Lattices of a batch, the CTC head's posteriors intersected with a graph, and the choice among their paths.

The names of the searches are icefall's. Its N-best lists are drawn at random and hold a part of the best sequences;
these are exact, so `nbest` has no --nbest-scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shared_moe_conformer.decoding.ctc import collapse
from shared_moe_conformer.decoding.greedy import next_token_log_probs, projected_decoder_out
from shared_moe_conformer.decoding.hypothesis import BLANK_ID, Hypothesis, WholeUtteranceSearch
from shared_moe_conformer.decoding.options import DecodingConfig, Resources, given
from shared_moe_conformer.decoding.scoring import num_errors
from shared_moe_conformer.lattice.composition import rescored
from shared_moe_conformer.lattice.decoding_graph import chosen_topology, ctc_topology
from shared_moe_conformer.lattice.engine import find_lattices, lattice_engine
from shared_moe_conformer.lattice.graphs import Graph, WordGraph
from shared_moe_conformer.lattice.lattice import NO_PATH, Beams, Lattice, LatticePath
from shared_moe_conformer.lattice.paths import best_arcs, n_best, output_confidences, token_confidences
from shared_moe_conformer.loss.transducer import sequence_log_probs
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.text import words_of


class Lattices(NamedTuple):
    """The lattices of a batch."""

    of_utterances: list[Lattice]
    words: list[str] | None
    """The word of each output label; None: output labels are tokens."""


FindLattices = Callable[[Tensor, Tensor], Lattices]
"""Function from encoder frames (N, T, C) and valid frames of each utterance (N,) to lattices."""


def lattice_finder(model: AsrModel, options: DecodingConfig, word_graph: WordGraph | None) -> FindLattices:
    """A search of lattices over words; without HLG, over only the CTC topology.

    Raises:
      ValueError: HLG is one for more units than the model has, or there is no such lattice engine.
    """
    if options.lattice_engine == "all":
        raise ValueError("lattice_engine is 'all': give one engine for each search, as `searches.resolved` does")
    vocab_size = model.decoder.vocab_size
    if word_graph is None:
        modified = chosen_topology(options.ctc_topology, vocab_size) == "modified"
        graph, words = ctc_topology(vocab_size, modified=modified), None
    else:
        graph, words = _scaled(word_graph, options.hlg_scale, vocab_size), word_graph.words
    engine = lattice_engine(options.lattice_engine)
    beams = Beams(options.search_beam, options.output_beam, options.max_active)

    def find(encoder_out: Tensor, encoder_out_lens: Tensor) -> Lattices:
        log_probs = model.ctc_log_probs(encoder_out)
        return Lattices(find_lattices(engine, log_probs, encoder_out_lens, graph, beams), words)

    return find


def _scaled(word_graph: WordGraph, scale: float, vocab_size: int) -> Graph:
    units = int(word_graph.graph.ilabel.max()) + 1
    if units > vocab_size:
        raise ValueError(
            f"the HLG needs a model of {units} units or more, this one has {vocab_size}: build it for its tokens.txt"
        )
    return word_graph.graph.scaled(scale)


def _chosen_graph(options: DecodingConfig, parts: Resources) -> WordGraph | None:
    return None if options.graph == "H" else given(parts.word_graph, "word_graph")


def one_best(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[Lattices]:
    """The search for the best path through each lattice."""
    return WholeUtteranceSearch(lattice_finder(model, options, _chosen_graph(options, parts)), _best_paths)


def nbest(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[Lattices]:
    """The search for the first of the N best sequences of each utterance."""

    def choose(found: Lattices) -> list[Hypothesis]:
        lattices, words = found
        return [hypothesis(lattice, _n_best(lattice, options)[0], words) for lattice in lattices]

    return WholeUtteranceSearch(lattice_finder(model, options, _chosen_graph(options, parts)), choose)


def nbest_oracle(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[Lattices]:
    """The search for the one of the N best sequences with the fewest word errors: a bound for any choice among them."""
    transcripts, to_text = given(parts.transcripts, "transcripts"), given(parts.to_text, "to_text")

    def closest(lattice: Lattice, words: list[str] | None, transcript: str) -> LatticePath:
        paths = _n_best(lattice, options)
        return min(paths, key=lambda path: num_errors(words_of(transcript), words_of(_text(path, words, to_text))))

    def choose(found: Lattices) -> list[Hypothesis]:
        utterances = zip(found.of_utterances, transcripts, strict=True)
        return [hypothesis(lattice, closest(lattice, found.words, said), found.words) for lattice, said in utterances]

    return WholeUtteranceSearch(lattice_finder(model, options, _chosen_graph(options, parts)), choose)


class ScoredLists(NamedTuple):
    """The N best paths of each utterance, each with its log-probability by another model."""

    lattices: Lattices
    lists: list[list[tuple[LatticePath, float]]]


def nbest_rescoring(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[ScoredLists]:
    """The search for the one of the N best sequences for which am + lm_scale * lm is largest.

    am is the frames' log-probability on the sequence's best path, lm that of its words by the stronger n-gram; the
    graph's own n-gram chose the N best and counts no more. The scale is the first of `lm_scales`.

    Source: icefall's rescore_with_n_best_list.
    """
    find = lattice_finder(model, options, given(parts.word_graph, "word_graph"))
    lm = given(parts.rescoring_lm, "rescoring_lm")
    return _rescored_lists(find, lambda paths, frames: [lm.score(path.output_labels) for path in paths], options)


def nbest_lm_rescore(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[ScoredLists]:
    """The search for the one of the N best sequences for which am + lm_scale * lm is largest; see `nbest_rescoring`.

    lm is the log-probability of the tokens, their end included, by a language model over tokens.
    """
    find = lattice_finder(model, options, _chosen_graph(options, parts))
    lm = given(parts.token_lm, "token_lm").to(model.joiner.output.weight.device)
    return _rescored_lists(find, lambda paths, frames: lm.sentence_scores([tokens_of(p)[0] for p in paths]), options)


def nbest_transducer_rescoring(
    model: AsrModel, options: DecodingConfig, parts: Resources
) -> WholeUtteranceSearch[ScoredLists]:
    """The search for the one of the N best sequences for which path + lm_scale * transducer is largest.

    path is the log-probability of the sequence's best path, by the CTC head and, over HLG, the graph at its scale;
    transducer that of the tokens by decoder and joiner, all alignments together. The two parts of a model err apart.

    Source: two-pass rescoring of Sainath et al. 2019, Two-pass end-to-end speech recognition (arXiv 1908.10992), with
    CTC before the transducer, as in WeNet's rescoring.
    """
    find = lattice_finder(model, options, _chosen_graph(options, parts))

    def score(paths: list[LatticePath], frames: Tensor) -> list[float]:
        return transducer_log_probs(model, frames, [tokens_of(path)[0] for path in paths])

    return _rescored_lists(find, score, options, with_graph=True)


CONTEXTS = 64
"""Contexts of the decoder that the joiner computes together."""
CELLS = 1 << 20
"""Nodes of the transducer's lattices that are summed together: about 100 MB."""


def transducer_log_probs(model: AsrModel, frames: Tensor, sequences: Sequence[list[int]]) -> list[float]:
    """The log-probability of each token sequence, given the encoder frames (T, C) of an utterance.

    The decoder sees the last few tokens only, which sequences of a list have in common. Of the joiner's outputs only
    those on a way through a sequence are kept, and only some sequences are summed together, to bound the memory.
    """
    size, start = model.decoder.context_size, model.decoder.start_context
    contexts: dict[tuple[int, ...], int] = {}
    emitted, blanks = [], []  # arcs of each sequence: a context's number, and the token that follows
    for tokens in sequences:
        said = [*start, *tokens]
        seen = [tuple(said[u : u + size]) for u in range(len(tokens) + 1)]
        row = [contexts.setdefault(context, len(contexts)) for context in seen]
        emitted.append(list(zip(row, tokens)))
        blanks.append([(context, BLANK_ID) for context in row])
    arcs = sorted({arc for of_one in (*emitted, *blanks) for arc in of_one})
    log_probs = _log_probs_of_arcs(model, frames, torch.tensor(list(contexts)), torch.tensor(arcs))
    column = {arc: number for number, arc in enumerate(arcs)}

    def of(rows: Sequence[list[tuple[int, int]]]) -> list[Tensor]:
        return [log_probs[:, [column[arc] for arc in row]] for row in rows]

    at_once = max(1, CELLS // (max(map(len, blanks)) * (1 + len(frames))))
    some = (slice(begin, begin + at_once) for begin in range(0, len(blanks), at_once))
    return [x for s in some for x in sequence_log_probs(of(emitted[s]), of(blanks[s])).tolist()]


def _log_probs_of_arcs(model: AsrModel, frames: Tensor, contexts: Tensor, arcs: Tensor) -> Tensor:
    """Log-probabilities (T, A) of A arcs at each frame (T, C).

    Args:
      contexts: the decoder's, (number of contexts, context_size).
      arcs: the number of a context and the token or blank after it, in the order of contexts, (A, 2).
    """
    encoder_frames = model.joiner.encoder_projection(frames).unsqueeze(1)
    decoder_frames = projected_decoder_out(model, contexts.to(frames.device))
    context, token = arcs.to(frames.device).unbind(1)
    parts = []
    for first, part in zip(range(0, len(contexts), CONTEXTS), decoder_frames.split(CONTEXTS)):
        here = (context >= first) & (context < first + CONTEXTS)
        log_probs = next_token_log_probs(model, encoder_frames, part, blank_penalty=0.0)
        parts.append(log_probs[:, context[here] - first, token[here]])
    return torch.cat(parts, dim=1)


def _rescored_lists(
    find: FindLattices,
    score: Callable[[list[LatticePath], Tensor], list[float]],
    options: DecodingConfig,
    *,
    with_graph: bool = False,
) -> WholeUtteranceSearch[ScoredLists]:
    """The search whose N best paths another model scores, those of an utterance together, given its frames (T, C).

    The graph's own scores chose the N best; with_graph: they also count in the final choice.
    """
    lm_scale = options.lm_scales[0]

    def scored(encoder_out: Tensor, encoder_out_lens: Tensor) -> ScoredLists:
        found = find(encoder_out, encoder_out_lens)
        lists = [_n_best(lattice, options) for lattice in found.of_utterances]
        frames = [x[:length] for x, length in zip(encoder_out, encoder_out_lens.tolist())]
        return ScoredLists(found, [list(zip(paths, score(paths, x))) for paths, x in zip(lists, frames)])

    def best(scored_paths: list[tuple[LatticePath, float]]) -> LatticePath:
        scores = [(path.score if with_graph else path.am_score) + lm_scale * score for path, score in scored_paths]
        number = scores.index(max(scores))
        return scored_paths[number][0]._replace(score=scores[number])

    def choose(found: ScoredLists) -> list[Hypothesis]:
        (lattices, words), lists = found
        return [hypothesis(lattice, best(paths), words) for lattice, paths in zip(lattices, lists)]

    return WholeUtteranceSearch(scored, choose)


def whole_lattice_rescoring(
    model: AsrModel, options: DecodingConfig, parts: Resources
) -> WholeUtteranceSearch[Lattices]:
    """The search for the path of the lattice for which am + lm_scale * lm is largest; see `nbest_rescoring`.

    Source: icefall's rescore_with_whole_lattice.
    """
    find = lattice_finder(model, options, given(parts.word_graph, "word_graph"))
    lm, lm_scale = given(parts.rescoring_lm, "rescoring_lm"), options.lm_scales[0]

    def by_lm(encoder_out: Tensor, encoder_out_lens: Tensor) -> Lattices:
        lattices, words = find(encoder_out, encoder_out_lens)
        return Lattices([rescored(lattice, lm) for lattice in lattices], words)

    def choose(found: Lattices) -> list[Hypothesis]:
        return _best_paths(Lattices([lattice.scaled(lm_scale) for lattice in found.of_utterances], found.words))

    return WholeUtteranceSearch(by_lm, choose)


def _best_paths(found: Lattices) -> list[Hypothesis]:
    return [hypothesis(lattice, lattice.path(best_arcs(lattice)), found.words) for lattice in found.of_utterances]


def _n_best(lattice: Lattice, options: DecodingConfig) -> list[LatticePath]:
    """The N best paths within the output beam; only `NO_PATH` if there is none."""
    return n_best(lattice, options.num_paths, beam=options.output_beam) or [NO_PATH]


def _text(path: LatticePath, words: list[str] | None, to_text: Callable[[list[int]], str]) -> str:
    if words is None:
        return to_text(tokens_of(path)[0])
    return " ".join(words[label] for label in path.output_labels)


def hypothesis(lattice: Lattice, path: LatticePath, words: list[str] | None) -> Hypothesis:
    """The hypothesis of a path, as sure as the lattice is."""
    tokens, frames = tokens_of(path)
    hyp = Hypothesis(tokens, frames, path.score, confidences=token_confidences(lattice, tokens, frames))
    if words is None:
        return hyp
    return hyp._replace(
        words=[words[label] for label in path.output_labels],
        word_frames=path.output_frames,
        word_confidences=output_confidences(lattice, path.output_labels, path.output_frames),
    )


def tokens_of(path: LatticePath) -> tuple[list[int], list[int]]:
    """The tokens of a path's frame labels, and the frame of each.

    The modified topology reads a run of a token as one token or as several, at the same score, and engines break that
    tie differently. Over words the lexicon decides, and the words are the path's own.
    """
    tokens = collapse(torch.tensor([path.frame_labels], dtype=torch.int64))[0]
    frames = (tokens != BLANK_ID).nonzero().squeeze(1)
    return tokens[frames].tolist(), frames.tolist()

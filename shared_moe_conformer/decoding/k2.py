"""The transducer's searches by k2, under icefall's names: over any token sequence, or over an n-gram of words.

They differ from `modified_beam_search` in these ways: each keeps the states of a graph with a context rather than whole
hypotheses, so hypotheses with the same last tokens continue together; `fast_beam_search` returns the best alignment,
the n-best searches the output with the largest sum over alignments among those that were drawn; and no score is divided
by the number of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.decoding.greedy import next_token_log_probs, projected_decoder_out
from shared_moe_conformer.decoding.hypothesis import BLANK_ID, Hypothesis, WholeUtteranceSearch
from shared_moe_conformer.decoding.options import DecodingConfig, Resources, given
from shared_moe_conformer.decoding.scoring import num_errors
from shared_moe_conformer.lattice.engine import transducer_search
from shared_moe_conformer.lattice.graphs import Graph, WordGraph, graph_of_arcs
from shared_moe_conformer.lattice.lattice import AlignedPath
from shared_moe_conformer.model.asr_model import AsrModel
from shared_moe_conformer.text import words_of

if TYPE_CHECKING:
    from shared_moe_conformer.lattice.k2_engine import TransducerLattices


class Found(NamedTuple):
    """The lattices of a batch."""

    lattices: TransducerLattices
    words: list[str] | None
    """The word of each output label; None: output labels are tokens."""


FindTransducerLattices = Callable[[Tensor, Tensor], Found]
"""Function from encoder frames (N, T, C) and valid frames of each utterance (N,) to lattices."""


def fast_beam_search(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[Found]:
    """The search for the tokens of the best alignment.

    Source: fast_beam_search_one_best of icefall, which loses the last frame.
    """
    return WholeUtteranceSearch(
        transducer_lattice_finder(model, options),
        lambda found: [_hypothesis(path, found.words) for path in found.lattices.one_best()],
    )


def fast_beam_search_nbest(model: AsrModel, options: DecodingConfig, parts: Resources) -> WholeUtteranceSearch[Found]:
    """The search for the likeliest of the token sequences that were drawn, each one's alignments summed.

    Source: fast_beam_search_nbest of icefall, which compares each sequence's best alignment instead of the sum.
    """
    return WholeUtteranceSearch(transducer_lattice_finder(model, options), functools.partial(_likeliest, options))


def fast_beam_search_nbest_lg(
    model: AsrModel, options: DecodingConfig, parts: Resources
) -> WholeUtteranceSearch[Found]:
    """The search for the likeliest of the word sequences that were drawn, each one's alignments summed.

    Source: fast_beam_search_nbest_LG of icefall.
    """
    find = transducer_lattice_finder(model, options, given(parts.token_word_graph, "token_word_graph"))
    return WholeUtteranceSearch(find, functools.partial(_likeliest, options))


def fast_beam_search_nbest_oracle(
    model: AsrModel, options: DecodingConfig, parts: Resources
) -> WholeUtteranceSearch[Found]:
    """The search for the drawn token sequence with the fewest wrong words: a bound, no result.

    Source: fast_beam_search_nbest_oracle of icefall.
    """
    transcripts, to_text = given(parts.transcripts, "transcripts"), given(parts.to_text, "to_text")

    def choose(found: Found) -> list[Hypothesis]:
        outputs = [
            min(drawn, key=lambda tokens: num_errors(words_of(text), words_of(to_text(list(tokens)))), default=[])
            for drawn, text in zip(_drawn(found, options), transcripts, strict=True)
        ]
        return [_hypothesis(path, found.words) for path in found.lattices.aligned(outputs)]

    return WholeUtteranceSearch(transducer_lattice_finder(model, options), choose)


def _likeliest(options: DecodingConfig, found: Found) -> list[Hypothesis]:
    drawn = _drawn(found, options)
    totals = found.lattices.total_scores(drawn)
    outputs: list[Sequence[int]] = [
        of_one[int(np.argmax(scores))] if of_one else [] for of_one, scores in zip(drawn, totals, strict=True)
    ]
    return [_hypothesis(path, found.words) for path in found.lattices.aligned(outputs)]


def _drawn(found: Found, options: DecodingConfig) -> list[list[list[int]]]:
    return found.lattices.sampled_outputs(num_paths=options.num_paths, nbest_scale=options.nbest_scale)


@functools.lru_cache(maxsize=4)
def any_tokens(vocab_size: int) -> Graph:
    """The trivial graph: any sequence of tokens, each giving itself."""
    tokens = np.arange(1, vocab_size)
    nothing = np.zeros_like(tokens)
    arcs = np.stack([nothing, nothing, tokens, tokens], axis=1)
    return graph_of_arcs(arcs, np.zeros(len(tokens)), final_state=[0], final_weight=[0.0])


def transducer_lattice_finder(
    model: AsrModel, options: DecodingConfig, lg: WordGraph | None = None
) -> FindTransducerLattices:
    """A search of lattices over words by LG; without it, over any sequence of tokens.

    Raises:
      ValueError: k2 is not installed.
    """
    search = transducer_search()
    graph = any_tokens(model.decoder.vocab_size) if lg is None else lg.graph.scaled(options.ngram_lm_scale)

    def find(encoder_out: Tensor, encoder_out_lens: Tensor) -> Found:
        frames = model.joiner.encoder_projection(torch.nn.functional.pad(encoder_out, (0, 0, 0, 1)))

        def log_probs(t: int, utterances: Tensor, contexts: Tensor) -> Tensor:
            decoder_frames = projected_decoder_out(model, _with_start(contexts))
            found = next_token_log_probs(
                model, frames[utterances, t], decoder_frames, blank_penalty=options.blank_penalty
            )
            return _only_blank_in_padding(found, t < encoder_out_lens[utterances])

        lattices = search(
            log_probs,
            encoder_out_lens,
            graph,
            vocab_size=model.decoder.vocab_size,
            context_size=model.decoder.context_size,
            beam=options.beam,
            max_contexts=options.max_contexts,
            max_states=options.max_states,
        )
        return Found(lattices, None if lg is None else lg.words)

    return find


def _only_blank_in_padding(log_probs: Tensor, valid: Tensor) -> Tensor:
    """Log-probabilities (M, V) in which blank is certain wherever `valid`, (M,), is False."""
    padding = torch.full_like(log_probs[:1], -torch.inf)
    padding[:, BLANK_ID] = 0.0
    return log_probs.where(valid.unsqueeze(1), padding)


def _with_start(contexts: Tensor) -> Tensor:
    """Contexts as the decoder sees them: k2 puts zeros where no token is, the decoder has blank and nothing before it.

    See `Decoder.start_context`.
    """
    is_start = contexts.cumsum(dim=1) == 0
    before = torch.nn.functional.pad(is_start[:, :-1] & is_start[:, 1:], (0, 1))
    return contexts.masked_fill(before, -1)


def _hypothesis(aligned: AlignedPath, words: Sequence[str] | None) -> Hypothesis:
    """The tokens of a path, each as sure as the model is of it at its frame; and its words."""
    path = aligned.path
    found = [(label, frame) for frame, label in enumerate(path.frame_labels) if label > 0]
    return Hypothesis(
        tokens=[token for token, _ in found],
        frames=[frame for _, frame in found],
        score=path.score,
        words=None if words is None else [words[label] for label in path.output_labels],
        confidences=[float(np.exp(min(aligned.log_probs[frame], 0.0))) for _, frame in found],
        word_frames=None if words is None else path.output_frames,
    )

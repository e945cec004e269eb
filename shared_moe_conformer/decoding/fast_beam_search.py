"""The transducer's searches by k2, under icefall's names: over any token sequence, or over an n-gram of words.

They differ from `modified_beam_search` in these ways: each keeps the states of a graph with a context rather than whole
hypotheses, so that hypotheses with the same last tokens go on together; `fast_beam_search` returns the best alignment,
the n-best searches the output with the largest sum over alignments among those that were drawn; and no score is divided
by the number of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shared_moe_conformer.decoding.hypothesis import Hypothesis
from shared_moe_conformer.decoding.padding import only_blank_in_padding
from shared_moe_conformer.decoding.scoring import num_errors, words_of
from shared_moe_conformer.lattice.engine import transducer_search
from shared_moe_conformer.lattice.graphs import Graph, WordGraph, graph_of_arcs
from shared_moe_conformer.lattice.lattice import AlignedPath
from shared_moe_conformer.model.asr_model import AsrModel

if TYPE_CHECKING:
    from shared_moe_conformer.lattice.k2_transducer import TransducerLattices


def fast_beam_search(model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, **search: Any) -> list[Hypothesis]:
    """Return the tokens of the best alignment.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      search: see `transducer_lattices`.

    Raises:
      ValueError: k2 is not installed.

    Source: fast_beam_search_one_best of icefall, which loses the last frame.
    """
    lattices = token_lattices(model, encoder_out, encoder_out_lens, **search)
    return [_hypothesis(path) for path in lattices.one_best()]


def fast_beam_search_nbest(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    num_paths: int = 200,
    nbest_scale: float = 0.5,
    **search: Any,
) -> list[Hypothesis]:
    """Return the likeliest of the token sequences that were drawn, each one's alignments summed.

    Args:
      num_paths, nbest_scale: see `TransducerLattices.sampled_outputs`.

    Source: fast_beam_search_nbest of icefall, which takes each sequence's best alignment; the sum is its
    fast_beam_search_nbest_LG's.
    """
    lattices = token_lattices(model, encoder_out, encoder_out_lens, **search)
    outputs = _likeliest(lattices, lattices.sampled_outputs(num_paths=num_paths, nbest_scale=nbest_scale))
    return [_hypothesis(path) for path in lattices.aligned(outputs)]


def fast_beam_search_nbest_lg(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    token_word_graph: WordGraph,
    ngram_lm_scale: float = 0.01,
    num_paths: int = 200,
    nbest_scale: float = 0.5,
    **search: Any,
) -> list[Hypothesis]:
    """Return the likeliest of the word sequences that were drawn, over the lexicon and the n-gram.

    Args:
      token_word_graph: LG.
      ngram_lm_scale: what its log-probabilities are multiplied by.

    Source: fast_beam_search_nbest_LG of icefall.
    """
    graph = token_word_graph.graph.scaled(ngram_lm_scale)
    lattices = transducer_lattices(model, encoder_out, encoder_out_lens, graph, **search)
    outputs = _likeliest(lattices, lattices.sampled_outputs(num_paths=num_paths, nbest_scale=nbest_scale))
    return [_hypothesis(path, token_word_graph.words) for path in lattices.aligned(outputs)]


def fast_beam_search_nbest_oracle(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    *,
    transcripts: Sequence[str],
    to_text: Callable[[list[int]], str],
    num_paths: int = 200,
    nbest_scale: float = 0.5,
    **search: Any,
) -> list[Hypothesis]:
    """Return, of the token sequences that were drawn, the one with the fewest wrong words: a bound, no result.

    Args:
      transcripts: what was said.
      to_text: token ids to text.

    Source: fast_beam_search_nbest_oracle of icefall.
    """
    lattices = token_lattices(model, encoder_out, encoder_out_lens, **search)
    drawn = lattices.sampled_outputs(num_paths=num_paths, nbest_scale=nbest_scale)
    outputs = [
        min(of_one, key=lambda tokens: num_errors(words_of(text), words_of(to_text(list(tokens)))), default=[])
        for of_one, text in zip(drawn, transcripts, strict=True)
    ]
    return [_hypothesis(path) for path in lattices.aligned(outputs)]


@functools.lru_cache(maxsize=4)
def any_tokens(vocab_size: int) -> Graph:
    """The trivial graph: any sequence of tokens, each giving itself."""
    tokens = np.arange(1, vocab_size)
    nothing = np.zeros_like(tokens)
    arcs = np.stack([nothing, nothing, tokens, tokens], axis=1)
    return graph_of_arcs(arcs, np.zeros(len(tokens)), final_state=[0], final_weight=[0.0])


def token_lattices(model: AsrModel, encoder_out: Tensor, encoder_out_lens: Tensor, **search: Any) -> TransducerLattices:
    """The lattices over the trivial graph; see `transducer_lattices`."""
    graph = any_tokens(model.decoder.vocab_size)
    return transducer_lattices(model, encoder_out, encoder_out_lens, graph, **search)


def transducer_lattices(
    model: AsrModel,
    encoder_out: Tensor,
    encoder_out_lens: Tensor,
    graph: Graph,
    *,
    beam: float = 20.0,
    max_contexts: int = 8,
    max_states: int = 64,
) -> TransducerLattices:
    """The lattices over a graph of tokens.

    Args:
      encoder_out: encoder frames, (N, T, C).
      encoder_out_lens: valid frames of each utterance, (N,).
      graph, beam, max_contexts, max_states: see `lattice.k2_transducer.search`.

    Raises:
      ValueError: k2 is not installed.
    """
    frames = model.joiner.encoder_projection(torch.nn.functional.pad(encoder_out, (0, 0, 0, 1)))

    def next_log_probs(t: int, utterances: Tensor, contexts: Tensor) -> Tensor:
        decoder_frames = model.joiner.decoder_projection(model.decoder.step(_with_start(contexts)))
        logits = model.joiner(frames[utterances, t], decoder_frames).float()
        return only_blank_in_padding(logits.log_softmax(dim=-1), t < encoder_out_lens[utterances])

    return transducer_search()(
        next_log_probs,
        encoder_out_lens,
        graph,
        vocab_size=model.decoder.vocab_size,
        context_size=model.decoder.context_size,
        beam=beam,
        max_contexts=max_contexts,
        max_states=max_states,
    )


def _with_start(contexts: Tensor) -> Tensor:
    """Contexts whose first zeros, which k2 puts where no token is, are what the decoder sees there: blank, and before
    it nothing (`Decoder.start_context`)."""
    is_start = contexts.cumsum(dim=1) == 0
    before = torch.nn.functional.pad(is_start[:, :-1] & is_start[:, 1:], (0, 1))
    return contexts.masked_fill(before, -1)


def _likeliest(lattices: TransducerLattices, outputs: Sequence[Sequence[Sequence[int]]]) -> list[Sequence[int]]:
    totals = lattices.total_scores(outputs)
    return [of_one[int(np.argmax(scores))] if of_one else [] for of_one, scores in zip(outputs, totals, strict=True)]


def _hypothesis(aligned: AlignedPath, words: Sequence[str] | None = None) -> Hypothesis:
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

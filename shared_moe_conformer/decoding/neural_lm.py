"""Neural language models in searches: their scores of hypotheses and of sentences, and their file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import LmModelConfig, from_dict, require, to_dict
from shared_moe_conformer.decoding.scorers import of_parents
from shared_moe_conformer.language_model import SOS, LanguageModel

BLANK_ID = 0
MAX_TOKENS = 1 << 15
"""Tokens, padding included, of the sentences that are scored together."""


@dataclass(frozen=True, eq=False)
class NeuralScorer:
    """A language model as a scorer of beams: see `scorers.Scorer`.

    Its state is the log-probabilities of the next token and the network's memory, so the network computes only the
    hypotheses that a frame has made longer.
    """

    model: LanguageModel
    """In evaluation mode."""
    scale: float = 1.0
    """Factor of the log-probabilities."""

    def scaled(self, scale: float) -> NeuralScorer:
        """The scorer whose scores count this many times."""
        return replace(self, scale=scale * self.scale)

    def to(self, device: torch.device) -> NeuralScorer:
        """The scorer, its model moved to a device."""
        self.model.to(device)
        return self

    def start(self, num_utterances: int, beam_size: int) -> tuple[Tensor, ...]:
        """The state of empty hypotheses, tensors (N, K, ..)."""
        weight = self.model.output_bias
        sos = torch.full((1,), SOS, device=weight.device)
        log_probs, memory = self.model.step(sos, self.model.start(1))
        return tuple(
            part.unsqueeze(1).repeat(num_utterances, beam_size, *[1] * (part.dim() - 1))
            for part in (log_probs, *memory)
        )

    def token_scores(self, state: Sequence[Tensor]) -> Tensor:
        """Nats that each token adds, (N, K, V); blank adds none."""
        scores = self.scale * state[0]
        scores[:, :, BLANK_ID] = 0.0
        return scores

    def advanced(self, state: Sequence[Tensor], parents: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """The state of hypotheses that each continue one of these, (N, K), by one token, or blank, (N, K)."""
        longer = (tokens != BLANK_ID).nonzero(as_tuple=True)
        after = tuple(of_parents(part, parents) for part in state)
        if len(longer[0]):
            log_probs, memory = self.model.step(tokens[longer], tuple(part[longer] for part in after[1:]))
            for part, new in zip(after, (log_probs, *memory)):
                part[longer] = new
        return after

    def final_scores(self, state: Sequence[Tensor]) -> Tensor:
        """Nats that the end of the utterance adds, (N, K): none, as in icefall."""
        return torch.zeros_like(state[0][:, :, 0])

    @torch.inference_mode()
    def sentence_scores(self, sentences: Sequence[Sequence[int]]) -> list[float]:
        """Nats of each whole sentence, its end included."""
        device = self.model.output_bias.device
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]), reverse=True)
        scores = [0.0] * len(sentences)
        while order:
            count = max(1, MAX_TOKENS // (len(sentences[order[0]]) + 1))
            some, order = order[:count], order[count:]
            lens = torch.tensor([len(sentences[i]) for i in some], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(sentences[i], dtype=torch.int64) for i in some], batch_first=True
            )
            for i, nll in zip(some, self.model(padded.to(device), lens).tolist()):
                scores[i] = -self.scale * nll
        return scores


def neural_lm_path(lang_dir: Path, lm_type: str) -> Path:
    """The language model of a kind in a lang folder or a bundle."""
    return lang_dir / f"{lm_type}_lm.safetensors"


def save_neural_lm(model: LanguageModel, path: Path, pieces: Sequence[str]) -> Path:
    """Write a model with its config and the pieces of its units, and return the file."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    about = {"format": "pt", "config": json.dumps(to_dict(model.config)), "pieces": json.dumps(list(pieces))}
    write_whole(path, safetensors.torch.save(state, about))
    return path


def load_neural_lm(path: Path, pieces: Sequence[str]) -> LanguageModel:
    """The model of a file, in evaluation mode on the CPU.

    Args:
      pieces: those of the units that it must have.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is damaged, or its units are others.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no neural language model in {path}: run ./train_lm.py --lm-type {path.stem[:-3]}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = from_dict(LmModelConfig, json.loads(about["config"]))
        require(json.loads(about["pieces"]) == list(pieces), "its units are not those of tokens.txt")
        num_values = sum(value.numel() for value in state.values())
        sizes = (config.vocab_size * config.embedding_dim, config.hidden_dim * config.embedding_dim, config.num_layers)
        require(max(sizes) <= num_values, "its config is not that of its weights")
        model = LanguageModel(config)
        model.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        reason = (str(error).splitlines() or ["it has no description"])[0]
        raise ValueError(f"{path} cannot be used ({reason}): run ./train_lm.py again") from error
    return model.eval()

"""Neural language models over tokens: an LSTM and a small transformer, their scores in searches, and their file.

Both networks embed tokens, change them layer by layer, and compare the result with the embeddings of all tokens (tied
weights: Press and Wolf 2017, Using the output embedding to improve language models, arXiv 1608.05859).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.atomic import write_whole
from shared_moe_conformer.config import LmModelConfig, from_dict, require, to_dict
from shared_moe_conformer.decoding.hypothesis import BLANK_ID
from shared_moe_conformer.decoding.scorers import of_parents

SOS = EOS = 1
"""The token that begins and ends a sentence."""

State = tuple[Tensor, ...]
"""A network's memory of the tokens so far: tensors whose first axis is the sentence."""


class LanguageModel(nn.Module):
    """A causal model of token sequences; `Lstm` and `Transformer` are its layers."""

    def __init__(self, config: LmModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        nn.init.normal_(self.embedding.weight, std=config.embedding_dim**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = Lstm(config) if config.lm_type == "rnn" else Transformer(config)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """The negative log-likelihood (nats) of each sentence with its end, (N,).

        Args:
          x: tokens, (N, L), int64, without `SOS` and `EOS`; padded with anything.
          x_lens: valid tokens of each sentence, (N,), 0 to L.
        """
        inputs = F.pad(x, (1, 0), value=SOS)
        position = torch.arange(inputs.size(1), device=x.device)
        targets = F.pad(x, (0, 1)).masked_fill(position == x_lens.unsqueeze(1), EOS)
        log_probs, _ = self.log_probs(inputs, self.layers.start(x.size(0), for_steps=False))
        nll = -log_probs.gather(2, targets.unsqueeze(2)).squeeze(2)
        return nll.masked_fill(position > x_lens.unsqueeze(1), 0.0).sum(dim=1)

    def start(self, num_sentences: int) -> State:
        """The memory before `SOS`."""
        return self.layers.start(num_sentences, for_steps=True)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (N, V) of what follows one more token of each sentence, (N,), and the memory after it."""
        log_probs, state = self.log_probs(tokens.unsqueeze(1), state)
        return log_probs.squeeze(1), state

    def log_probs(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Log-probabilities (N, L, V) of what follows each of more tokens (N, L), and the memory after them."""
        embedded = self.dropout(self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim))
        x, state = self.layers(embedded, state)
        logits = F.linear(self.dropout(x), self.embedding.weight, self.output_bias)
        return logits.log_softmax(dim=-1), state


class Lstm(nn.Module):
    """Layers of LSTM, and a linear map back to the embeddings' channels.

    Source: icefall's rnn_lm, whose embedding_dim and hidden_dim are equal where weights are tied; Zaremba et al. 2014,
    Recurrent neural network regularization (arXiv 1409.2329), for the places of dropout.
    """

    def __init__(self, config: LmModelConfig) -> None:
        super().__init__()
        dropout = config.dropout if config.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.embedding_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=dropout
        )
        self.projection = nn.Linear(config.hidden_dim, config.embedding_dim)

    def start(self, num_sentences: int, *, for_steps: bool) -> State:
        """Zeros, (N, num_layers, hidden_dim) twice."""
        zeros = self.projection.weight.new_zeros(num_sentences, self.lstm.num_layers, self.lstm.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames (N, L, C) and the memory after them."""
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        x, (hidden, cell) = self.lstm(x, (hidden, cell))
        return self.projection(x), (hidden.transpose(0, 1), cell.transpose(0, 1))


class Transformer(nn.Module):
    """Pre-norm layers of causal self-attention over the last `left_context` tokens, and of feed-forward.

    Positions enter only as distances, so the memory of a stream may begin anywhere.
    """

    def __init__(self, config: LmModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.embedding_dim)
        self.num_remembered = config.left_context - 1

    def start(self, num_sentences: int, *, for_steps: bool) -> State:
        """The inputs of each layer's attention so far, (N, num_layers, W, C), of which the last (N,) are valid.

        Args:
          for_steps: make room for the memory; without it nothing is remembered, and W is 0.
        """
        width = self.num_remembered if for_steps else 0
        weight = self.norm.weight
        memory = weight.new_zeros(num_sentences, len(self.layers), width, len(weight))
        return memory, torch.zeros(num_sentences, dtype=torch.int64, device=weight.device)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames (N, L, C) and the memory after them."""
        memory, num_valid = state
        width, length = memory.size(2), x.size(1)
        after = []
        distance = _distances(width, length, x.device)
        remembered = torch.arange(width + length, device=x.device) >= width - num_valid.view(-1, 1, 1)
        visible = remembered & (distance >= 0) & (distance <= self.num_remembered)
        for layer, past in zip(self.layers, memory.unbind(1)):
            x, seen = layer(x, past, distance, visible)
            after.append(seen[:, seen.size(1) - width :])
        return self.norm(x), (torch.stack(after, dim=1), (num_valid + length).clamp(max=width))


def _distances(width: int, length: int, device: torch.device) -> Tensor:
    """Tokens from each remembered or new one back from each new one, (L, W + L); negative: it comes later."""
    position = torch.arange(width + length, device=device)
    return position[width:].unsqueeze(1) - position


class TransformerLayer(nn.Module):
    """Self-attention in which near tokens weigh more, and a feed-forward, both residual.

    Source: Press et al. 2022, Train short, test long, section 3 (ALiBi, arXiv 2108.12409); pre-norm: Xiong et al. 2020,
    On layer normalization in the transformer architecture (arXiv 2002.04745).
    """

    slopes: Tensor

    def __init__(self, config: LmModelConfig) -> None:
        super().__init__()
        dim, self.num_heads = config.embedding_dim, config.num_heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, config.hidden_dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden_dim, dim),
        )
        self.dropout = nn.Dropout(config.dropout)
        exponents = torch.arange(1, self.num_heads + 1) * (8.0 / self.num_heads)
        self.register_buffer("slopes", torch.exp2(-exponents), persistent=False)

    def forward(self, x: Tensor, past: Tensor, distance: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (N, L, C), and what the attention has seen, (N, W + L, C).

        Args:
          x: new frames, (N, L, C).
          past: what the attention saw before, (N, W, C).
          distance: (L, W + L), and where they may be attended to, (N, L, W + L).
          visible: True where a frame may be attended to, (N, L, W + L).
        """
        normed = self.attention_norm(x)
        seen = torch.cat([past, normed], dim=1)
        key, value = self.key_value(seen).chunk(2, dim=2)
        query, key, value = map(self._in_heads, (self.query(normed), key, value))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.size(3))
        scores = scores - self.slopes.view(-1, 1, 1) * distance
        weights = scores.masked_fill(~visible.unsqueeze(1), -torch.inf).softmax(dim=-1)
        x = x + self.dropout(self.output((weights @ value).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x))), seen

    def _in_heads(self, x: Tensor) -> Tensor:
        """(N, T, C) as (N, heads, T, C / heads)."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


MAX_TOKENS = 1 << 15
"""Most tokens, padding included, of sentences that are scored together."""


@dataclass(frozen=True, eq=False)
class NeuralScorer:
    """A language model as a scorer of beams: see `scorers.Scorer`.

    Its state holds the log-probabilities of the next token and the network's memory, so the network computes only
    hypotheses that a frame has made longer.
    """

    model: LanguageModel
    """In evaluation mode."""
    scale: float = 1.0
    """Factor of the log-probabilities."""

    def scaled(self, scale: float) -> NeuralScorer:
        """The scorer with its scores multiplied by a scale."""
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
        """Nats that the end of the utterance adds, (N, K): 0, as in icefall."""
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
      pieces: the pieces of the units that it must have.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is damaged, or has other units.
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

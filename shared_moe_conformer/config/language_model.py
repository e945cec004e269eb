"""Options of a neural language model over tokens: its network, its texts, its training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from shared_moe_conformer.config.experiment import TrainingConfig
from shared_moe_conformer.config.tree import require, require_choices, require_least

NeuralLmType = Literal["rnn", "transformer"]


@dataclass(frozen=True)
class LmModelConfig:
    """Network of a language model over tokens."""

    lm_type: NeuralLmType = "rnn"
    """rnn: LSTM; transformer: causal self-attention."""
    vocab_size: int = 500
    """Units, blank included (V); the tokenizer's."""
    embedding_dim: int = 128
    """Channels of a token's embedding, which is the last layer's matrix, too; of all layers of a transformer."""
    hidden_dim: int = 256
    """Channels of the LSTM, or of a transformer's feed-forwards."""
    num_layers: int = 2
    """Layers."""
    num_heads: int = 4
    """transformer: attention heads."""
    left_context: int = 64
    """transformer: tokens that a layer's token attends to, itself included."""
    dropout: float = 0.3
    """Share of activations that are dropped in training."""

    def __post_init__(self) -> None:
        require_choices(self)
        require(self.vocab_size >= 2, f"vocab_size is {self.vocab_size}: give 2 or more (1 is the end of a sentence)")
        require_least(self, 1, "embedding_dim", "hidden_dim", "num_layers", "num_heads")
        require_least(self, 2, "left_context")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}: give 0 or more, below 1")
        require(
            self.lm_type != "transformer" or self.embedding_dim % self.num_heads == 0,
            f"embedding_dim is {self.embedding_dim}: give a multiple of num_heads, {self.num_heads}",
        )


@dataclass(frozen=True)
class LmDataConfig:
    """Texts and batches."""

    manifest_dir: str = "data/manifests"
    """Cut sets whose texts are read, relative to the recipe's folder."""
    lang_dir: str = "data/lang_bpe_500"
    """Folder of the tokenizer, in which n-grams are, and into which the trained model goes."""
    train_split: str = "train"
    """Split whose texts are trained on, unless text is given."""
    dev_split: str = "dev"
    """Split on whose texts the perplexity is measured."""
    text: str = ""
    """File of training texts instead, one a line, written as the transcripts are; empty: the split's."""
    max_tokens: int = 500
    """Tokens of a batch at most, padding included; a longer text is a batch by itself."""

    def __post_init__(self) -> None:
        require_least(self, 1, "max_tokens")


@dataclass(frozen=True)
class LmConfig:
    """Everything that defines the training of a language model; config.json of its folder."""

    model: LmModelConfig = field(default_factory=LmModelConfig)
    """The network."""
    data: LmDataConfig = field(default_factory=LmDataConfig)
    """Texts."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(num_epochs=25, learning_rate=3e-3, warmup_steps=50, max_grad_norm=1.0)
    )
    """Schedule."""

"""The whole recogniser: encoder, decoder (prediction network), joiner and CTC head, and the losses of a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.config import Chunking, ModelConfig
from shared_moe_conformer.kernels.linear import Linear
from shared_moe_conformer.loss.per_frame import TeacherOutput, consistency, ctc_divergence, ctc_loss, distance_at_ends
from shared_moe_conformer.loss.pruned_transducer import TeacherJoiner, pruned_transducer_loss, transducer_functions
from shared_moe_conformer.model.encoder import Encoder, EncoderOutput


class Decoder(nn.Module):
    """Embedding of the last `context_size` tokens, mixed by a grouped convolution, then ReLU: it keeps no state.

    A negative token means "before the beginning" and counts as zeros.

    Source: Ghodsi et al. 2020, RNN-Transducer with stateless prediction network (ICASSP 2020); the grouped convolution
    is icefall's.
    """

    blank_id = 0
    channels_per_group = 4

    def __init__(self, vocab_size: int, decoder_dim: int, context_size: int) -> None:
        super().__init__()
        if decoder_dim % self.channels_per_group:
            raise ValueError(f"decoder_dim is {decoder_dim}: give a multiple of {self.channels_per_group}")
        self.vocab_size = vocab_size
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, decoder_dim)
        self.conv = nn.Conv1d(
            decoder_dim, decoder_dim, context_size, groups=decoder_dim // self.channels_per_group, bias=False
        )

    @property
    def start_context(self) -> list[int]:
        """The `context_size` tokens of an empty hypothesis: blank, and before it nothing."""
        return [-1] * (self.context_size - 1) + [self.blank_id]

    def forward(self, y: Tensor) -> Tensor:
        """Return (N, U, decoder_dim); frame u sees the tokens u - context_size + 1 to u.

        Args:
          y: tokens, (N, U), int64.
        """
        return self._mix(F.pad(y, (self.context_size - 1, 0), value=-1))

    def step(self, context: Tensor) -> Tensor:
        """Return (N, decoder_dim) for the last tokens of N hypotheses, (N, context_size), int64."""
        return self._mix(context).squeeze(1)

    def _mix(self, y: Tensor) -> Tensor:
        embedded = self.embedding(y.clamp(min=0)) * (y >= 0).unsqueeze(-1)
        return F.relu(self.conv(embedded.transpose(1, 2)).transpose(1, 2))


class Joiner(nn.Module):
    """Encoder and decoder frame projected to `joiner_dim` channels, added, tanh, then one logit per token.

    Source: Graves 2012, Sequence transduction with recurrent neural networks (arXiv 1211.3711), with the additive joint
    network of Graves et al. 2013 (arXiv 1303.5778).
    """

    def __init__(self, encoder_dim: int, decoder_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.encoder_projection = Linear(encoder_dim, joiner_dim)
        self.decoder_projection = Linear(decoder_dim, joiner_dim)
        self.output = Linear(joiner_dim, vocab_size)

    def forward(self, projected_encoder_out: Tensor, projected_decoder_out: Tensor) -> Tensor:
        """Return logits (..., V) of frames (..., J) that are already projected; leading axes broadcast."""
        return self.output(torch.tanh(projected_encoder_out + projected_decoder_out))


VOCAB_LAYERS = ("decoder.embedding", "joiner.output", "simple_am", "simple_lm", "ctc_head")
"""Layers of `AsrModel` whose weights have one row for each unit."""


class AsrLosses(NamedTuple):
    """The losses of a batch, unweighted scalars; only the trainer weighs them."""

    simple_loss: Tensor
    """Summed over utterances."""
    pruned_loss: Tensor
    """Summed over utterances."""
    ctc_loss: Tensor
    """Summed over utterances."""
    load_balancing_loss: Tensor
    """Averaged over valid frames and summed over expert feed-forwards; 0 without experts."""
    router_z_loss: Tensor
    """Averaged over valid frames and summed over expert feed-forwards; 0 without experts."""
    num_frames: Tensor
    """Valid encoder frames of the batch, by which the summed losses become comparable."""
    frames_per_expert: Tensor | None
    """Frames that each expert computed, (L, E); None without experts."""
    hidden_distillation_loss: Tensor | None = None
    """Distance from the teacher's frames, averaged over the ends of groups that both have, summed over frames; None
    without a teacher of the same size."""
    ctc_distillation_loss: Tensor | None = None
    """Divergence from the teacher's CTC posteriors, summed over frames; None without a teacher."""
    transducer_distillation_loss: Tensor | None = None
    """Divergence from the teacher's joiner, summed over frames; None without a teacher's joiner."""
    cr_loss: Tensor | None = None
    """Divergence of the CTC posteriors of each copy from those of the other, summed over frames; None of one copy."""


class AsrModel(nn.Module):
    """Conformer encoder with shared experts, stateless decoder, joiner, CTC head."""

    def __init__(self, config: ModelConfig, *, num_mel_bins: int = 80) -> None:
        super().__init__()
        self.config = config
        encoder_dim = config.encoder.encoder_dim
        self.encoder = Encoder(config.encoder, num_mel_bins=num_mel_bins)
        self.decoder = Decoder(config.vocab_size, config.decoder_dim, config.context_size)
        self.joiner = Joiner(encoder_dim, config.decoder_dim, config.joiner_dim, config.vocab_size)
        self.simple_am = Linear(encoder_dim, config.vocab_size)
        self.simple_lm = Linear(config.decoder_dim, config.vocab_size)
        self.ctc_head = Linear(encoder_dim, config.vocab_size)

    def encode(self, x: Tensor, x_lens: Tensor, chunking: Chunking | None = None) -> EncoderOutput:
        """Return encoder frames (N, T', C) of features (N, T, F); the arguments are those of `Encoder.forward`."""
        return self.encoder(x, x_lens, chunking)

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """Return log-probabilities (N, T', V) of the CTC head."""
        return F.log_softmax(self.ctc_head(encoder_out).float(), dim=-1)

    @torch.no_grad()
    def teach(self, x: Tensor, x_lens: Tensor, y: Tensor | None = None) -> TeacherOutput:
        """Return what another model should imitate; this one must be in evaluation mode.

        Args:
          x, x_lens: as in `forward`.
          y: tokens, (N, U), if the joiner should also be imitated.
        """
        (encoder_out, _, _), ends = self.encoder.forward_with_ends(x, x_lens)
        joiner = None
        if y is not None:
            decoder_frames = self.joiner.decoder_projection(self._decoder_out(y))
            joiner = TeacherJoiner(self.joiner, self.joiner.encoder_projection(encoder_out), decoder_frames)
        return TeacherOutput(encoder_out, self.ctc_log_probs(encoder_out), ends, joiner)

    def _decoder_out(self, y: Tensor) -> Tensor:
        """Decoder frames (N, U + 1, D) of tokens (N, U)."""
        return self.decoder(F.pad(y, (1, 0), value=self.decoder.blank_id))

    def forward(
        self,
        x: Tensor,
        x_lens: Tensor,
        y: Tensor,
        y_lens: Tensor,
        *,
        prune_range: int = 5,
        lm_only_scale: float = 0.25,
        am_only_scale: float = 0.0,
        teacher: TeacherOutput | None = None,
        num_copies: int = 1,
    ) -> AsrLosses:
        """Return the losses of a batch.

        Args:
          x: features, (N, T, F).
          x_lens: valid frames of each utterance, (N,).
          y: tokens, (N, U), padded with blank.
          y_lens: tokens of each utterance, (N,).
          prune_range: tokens per frame at which the joiner is evaluated.
          lm_only_scale: smoothing of the simple loss towards only the decoder.
          am_only_scale: smoothing of the simple loss towards only the encoder.
          teacher: the output to imitate.
          num_copies: 2: the second half of the batch repeats the first with other masks, and both should agree.
        """
        (encoder_out, lens, routing), ends = self.encoder.forward_with_ends(x, x_lens)
        decoder_out = self._decoder_out(y)
        transducer = pruned_transducer_loss(
            am_simple=self.simple_am(encoder_out),
            lm_simple=self.simple_lm(decoder_out),
            encoder_frames=self.joiner.encoder_projection(encoder_out),
            decoder_frames=self.joiner.decoder_projection(decoder_out),
            joiner=self.joiner,
            y=y,
            x_lens=lens,
            y_lens=y_lens,
            prune_range=prune_range,
            lm_only_scale=lm_only_scale,
            am_only_scale=am_only_scale,
            functions=transducer_functions(self.config.transducer_backend, encoder_out.device),
            teacher=None if teacher is None else teacher.joiner,
        )
        ctc_log_probs = self.ctc_log_probs(encoder_out)
        ctc = ctc_loss(ctc_log_probs, lens, y, y_lens)
        zero = encoder_out.new_zeros(())
        losses = AsrLosses(*transducer[:2], ctc, zero, zero, lens.sum(), None)
        if routing is not None:
            balancing, z_loss, frames = self.encoder.router_losses(routing)
            losses = losses._replace(
                load_balancing_loss=balancing.sum(), router_z_loss=z_loss.sum(), frames_per_expert=frames
            )
        if num_copies == 2:
            losses = losses._replace(cr_loss=consistency(ctc_log_probs, lens))
        if teacher is None:
            return losses
        same_size = encoder_out.shape == teacher.encoder_out.shape
        return losses._replace(
            hidden_distillation_loss=distance_at_ends(ends, teacher.group_ends, lens) if same_size else None,
            ctc_distillation_loss=ctc_divergence(ctc_log_probs, teacher.ctc_log_probs, lens),
            transducer_distillation_loss=None if teacher.joiner is None else transducer.distillation_loss,
        )

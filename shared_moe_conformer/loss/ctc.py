"""The CTC loss, in the form that the other losses have."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ctc_loss(log_probs: Tensor, lens: Tensor, y: Tensor, y_lens: Tensor) -> Tensor:
    """Negative log-probability of the tokens by CTC, summed over utterances; blank is 0.

    An utterance with too few frames for its tokens (one each, and one more between two equal ones) counts as 0.

    Args:
      log_probs: log-softmax, (N, T, V); half precision is computed in float32.
      lens: valid frames, (N,).
      y: tokens, (N, U).
      y_lens: valid tokens, (N,).

    Source: Graves et al. 2006, Connectionist Temporal Classification.
    """
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32)).transpose(0, 1)
    return F.ctc_loss(log_probs, y, lens, y_lens, blank=0, reduction="sum", zero_infinity=True)

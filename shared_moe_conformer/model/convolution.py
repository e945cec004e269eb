"""The convolution module of a conformer block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from shared_moe_conformer.products import Linear


class ConvolutionModule(nn.Module):
    """Pointwise convolution and GLU, depthwise convolution, normalisation and SiLU, pointwise convolution.

    The normalisation is passed in, because each layer has its own. The depthwise convolution runs as a 2-D one over
    channels-last memory, which (N, T, C) already is: on a CPU 8 to 23 times faster than `conv1d`, with equal gradients.

    Source: Gulati et al. 2020, Conformer, figure 2 (arXiv 2005.08100).
    """

    def __init__(self, encoder_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.pointwise1 = Linear(encoder_dim, 2 * encoder_dim)
        self.depthwise = nn.Conv2d(
            encoder_dim, encoder_dim, (kernel_size, 1), padding=(kernel_size // 2, 0), groups=encoder_dim
        )
        self.pointwise2 = Linear(encoder_dim, encoder_dim)

    def forward(self, x: Tensor, padding_mask: Tensor, norm: nn.Module) -> Tensor:
        """Return (N, T, C).

        Args:
          x: frames, (N, T, C).
          padding_mask: True where a frame is padding, (N, T); padding is zero to the depthwise convolution.
          norm: the calling layer's normalisation, `norm(x, padding_mask)`.
        """
        x = F.glu(self.pointwise1(x), dim=-1).masked_fill(padding_mask.unsqueeze(-1), 0.0)
        x = self.depthwise(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        return self.pointwise2(F.silu(norm(x, padding_mask)))

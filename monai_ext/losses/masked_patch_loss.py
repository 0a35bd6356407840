# SPDX-License-Identifier: Apache-2.0
"""Error of a masked autoencoder on what was hidden from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from torch import Tensor

VARIANCE_FLOOR = 1e-6


class MaskedPatchLoss(nn.Module):
    """Mean square error of each hidden patch, averaged over them (He et al. 2022, https://arxiv.org/abs/2111.06377).

    Args:
        norm_pix_loss: compare with each patch normalised by its own mean and standard deviation. It must be what the
            decoder's weights were trained with, if it has any.

    Shape:
        a list of predicted patches (B, L, P), true ones (B, L, P), and 1 where a patch was hidden, else 0 (B, L), as
        `MaskedAutoencoder` gives it; a label after it is not looked at -> a single number, in float32 at least.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> patches, hidden = torch.ones(1, 2, 4), torch.tensor([[0.0, 1.0]])
        >>> float(MaskedPatchLoss()([torch.tensor([[[9.0] * 4, [3.0] * 4]]), patches, hidden]))
        4.0
    """

    def __init__(self, norm_pix_loss: bool = False) -> None:
        super().__init__()
        self.norm_pix_loss = norm_pix_loss

    def forward(self, output: Sequence[Tensor], label: Tensor | None = None) -> Tensor:
        predicted, patches, hidden = (x if x.dtype == torch.float64 else x.float() for x in output)
        if predicted.shape != patches.shape or patches.ndim != 3 or hidden.shape != patches.shape[:2]:
            raise ValueError(
                f"predicted and true patches must be (B, L, P) and hidden (B, L), got {tuple(predicted.shape)}, "
                f"{tuple(patches.shape)} and {tuple(hidden.shape)}."
            )
        if self.norm_pix_loss:
            variance = patches.var(dim=-1, keepdim=True)
            patches = (patches - patches.mean(dim=-1, keepdim=True)) / (variance + VARIANCE_FLOOR).sqrt()
        each = (predicted - patches).square().mean(dim=-1)  # (B, L, P) -> (B, L)
        return (each * hidden).sum() / hidden.sum()

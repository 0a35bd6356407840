# SPDX-License-Identifier: Apache-2.0
"""What a masked autoencoder saw, what it made of it, and what there was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-6


class MaskedPanels:
    """Turn the output of a masked autoencoder for one image into pictures, for `SamplePictures`.

    Args:
        norm_pix_loss: whether patches are predicted normalised by their own mean and deviation; those of the true
            patches are then given back.

    Example:
        >>> patches = torch.rand(4, 12)  # of 2 x 2 pixels and 3 channels
        >>> output = {"pred": [patches, patches, torch.tensor([0.0, 1.0, 1.0, 1.0])]}
        >>> [(title, tuple(picture.shape)) for title, picture in MaskedPanels()(output).items()]
        [('seen', (3, 4, 4)), ('filled in', (3, 4, 4)), ('whole', (3, 4, 4))]
    """

    def __init__(self, norm_pix_loss: bool = False) -> None:
        self.norm_pix_loss = norm_pix_loss

    def __call__(self, output: Mapping[str, Any]) -> dict[str, Tensor]:
        predicted, patches, hidden = output["pred"]
        if self.norm_pix_loss:
            deviation = (patches.var(dim=-1, keepdim=True) + FLOOR).sqrt()
            predicted = predicted * deviation + patches.mean(dim=-1, keepdim=True)
        is_hidden = hidden[:, None] > 0
        darkest = patches.min()
        return {
            "seen": _joined(torch.where(is_hidden, darkest, patches)),
            "filled in": _joined(torch.where(is_hidden, predicted, patches)),
            "whole": _joined(patches),
        }


def _joined(patches: Tensor) -> Tensor:
    """Put patches together: (g², p² * 3), each patch's channels last -> (3, g * p, g * p)."""
    grid, side = round(patches.shape[0] ** 0.5), round((patches.shape[1] / 3) ** 0.5)
    cut = patches.unflatten(1, (side, side, 3)).unflatten(0, (grid, grid))  # (rows, columns, p, q, 3)
    return cut.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)

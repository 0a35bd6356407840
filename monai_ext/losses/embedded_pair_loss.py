# SPDX-License-Identifier: Apache-2.0
"""The registration loss of a network that gives its fields, scans and embeddings by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn as nn
from torch import Tensor

from monai_ext.losses.registration_loss import RegistrationLoss

FIELDS = ("displacement", "velocity")


class EmbeddedPairLoss(nn.Module):
    """Hand `RegistrationLoss` what a network that embeds both scans has made of them.

    The network knows the scans as it compares them and their embeddings; the data know labels and where the moving
    scan has voxels. The loss wants all of it in one target.

    Args:
        loss: what is computed; its ``terms`` are this loss's.

    Shape:
        outputs: ``displacement`` and ``velocity``, and all that the loss's target needs of scans and embeddings, as
        `anatomical_registration.network.AnatomicalRegistrationNet` gives it in training. target: the rest. -> a single
        number.

    Raises:
        ValueError: something is missing, or shapes do not fit.

    Example:
        >>> import torch
        >>> outputs = dict.fromkeys(("displacement", "velocity"), torch.zeros(1, 2, 8, 8))
        >>> outputs |= dict.fromkeys(("fixed", "moving"), torch.rand(1, 1, 8, 8))
        >>> plain = RegistrationLoss(lambda_sam=0.0, local_stride=(2, 2), global_stride=(16, 16))
        >>> loss = EmbeddedPairLoss(plain)
        >>> float(loss(outputs, {}).round(decimals=3)), sorted(loss.terms)
        (0.0, ['diffusion', 'similarity'])
    """

    def __init__(self, loss: RegistrationLoss) -> None:
        super().__init__()
        self.loss = loss

    @property
    def terms(self) -> dict[str, Tensor]:
        """Parts of the last sum, before they were weighed."""
        return self.loss.terms

    def forward(self, outputs: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        if missing := [name for name in FIELDS if name not in outputs]:
            raise ValueError(f"outputs must have {', '.join(missing)}, got {', '.join(outputs)}.")
        made = {name: value for name, value in outputs.items() if name not in FIELDS}
        return self.loss([outputs[name] for name in FIELDS], {**target, **made})

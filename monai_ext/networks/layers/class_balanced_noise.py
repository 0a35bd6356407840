# SPDX-License-Identifier: Apache-2.0
"""Noise on an embedding in training, more of it where rare classes are."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor


class ClassBalancedNoise(nn.Module):
    r"""Adds Gaussian noise to an embedding in training, the more the rarer the classes are that a pixel may have.

    After the class-balanced augmentation of H-SAM (Cheng et al. 2024, https://arxiv.org/abs/2403.18271), which varies
    the few pixels of small organs so that they count for more. The published code takes the classes from the label,
    which the network has to be given; here a prediction takes its place. With its probabilities :math:`p_c(x)` and
    their mean over the image :math:`\bar p_c`, the standard deviation at x is

    .. math:: \sigma(x) = s \cdot (\max e - \min e) \cdot \sum_c p_c(x)\, (1 - \bar p_c)

    where the range is that of the image's embedding e. Neither it nor the prediction has a gradient of this. In
    ``eval()`` the embedding is returned as it is.

    Args:
        strength: s; 0 for none.

    Shape:
        embedding (B, C, g, g), prior (B, K, g, g), logits of the classes -> (B, C, g, g)

    Raises:
        ValueError: a negative strength.

    Example:
        >>> embedding, prior = torch.rand(1, 8, 4, 4), torch.rand(1, 3, 4, 4)
        >>> torch.equal(ClassBalancedNoise().eval()(embedding, prior), embedding)
        True
    """

    def __init__(self, strength: float = 0.2) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength must be at least 0, got {strength}.")
        self.strength = strength

    def forward(self, embedding: Tensor, prior: Tensor) -> Tensor:
        if not self.training or not self.strength:
            return embedding
        with torch.no_grad():
            values = embedding.flatten(1)
            span = (values.amax(dim=1) - values.amin(dim=1))[:, None, None, None]
            noise = torch.randn_like(embedding) * (self.strength * span * rarity(prior))
        return embedding + noise


def rarity(prior: Tensor) -> Tensor:
    """How rare the classes are that each pixel may have, 0 to 1: logits (B, K, g, g) -> (B, 1, g, g)"""
    likely = prior.softmax(dim=1)
    common = likely.mean(dim=(2, 3), keepdim=True)
    return (likely * (1 - common)).sum(dim=1, keepdim=True)

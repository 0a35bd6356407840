# SPDX-License-Identifier: Apache-2.0
"""ClassBalancedNoise is there in training, where rare classes are, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.networks.layers.class_balanced_noise import ClassBalancedNoise, rarity


def one_pixel_of_sixteen() -> Tensor:
    """Logits that are certain of class 1 at one pixel and of class 0 at the other 15."""
    prior = torch.full((1, 2, 4, 4), -50.0)
    prior[:, 0], prior[0, :, 2, 3] = 50.0, torch.tensor([-50.0, 50.0])
    return prior


def test_a_pixel_is_as_rare_as_its_class() -> None:
    expected = torch.full((4, 4), 1 / 16)
    expected[2, 3] = 15 / 16
    torch.testing.assert_close(rarity(one_pixel_of_sixteen())[0, 0], expected)


def test_the_noise_has_that_share_of_the_range_of_each_image() -> None:
    torch.manual_seed(0)
    embedding = torch.rand(2, 20_000, 4, 4) * torch.tensor([1.0, 10.0]).reshape(2, 1, 1, 1)
    noise = ClassBalancedNoise(0.2)(embedding, one_pixel_of_sixteen().expand(2, -1, -1, -1)) - embedding
    expected = 0.2 * torch.tensor([1.0, 10.0]).reshape(2, 1, 1) * rarity(one_pixel_of_sixteen())[0]
    torch.testing.assert_close(noise.std(dim=1), expected, rtol=0.05, atol=0.0)
    assert (noise.mean(dim=1).abs() < expected / 20).all()


@pytest.mark.parametrize("layer", [ClassBalancedNoise(0.2).eval(), ClassBalancedNoise(0.0).train()])
def test_outside_of_training_or_without_strength_nothing_is_added(layer: ClassBalancedNoise) -> None:
    embedding = torch.rand(1, 3, 4, 4)
    assert layer(embedding, one_pixel_of_sixteen()) is embedding


def test_the_gradient_passes_as_if_there_were_no_noise() -> None:
    embedding, prior = torch.rand(1, 3, 4, 4, requires_grad=True), one_pixel_of_sixteen().requires_grad_()
    ClassBalancedNoise()(embedding, prior).sum().backward()
    assert torch.equal(embedding.grad, torch.ones(1, 3, 4, 4))
    assert prior.grad is None


def test_a_seed_decides_it() -> None:
    embedding, found = torch.rand(1, 3, 4, 4), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(ClassBalancedNoise()(embedding, one_pixel_of_sixteen()))
    assert torch.equal(*found)


def test_a_negative_strength_is_named() -> None:
    with pytest.raises(ValueError, match=r"strength must be at least 0, got -0\.1"):
        ClassBalancedNoise(-0.1)

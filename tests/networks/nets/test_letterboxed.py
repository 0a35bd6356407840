# SPDX-License-Identifier: Apache-2.0
"""A network inside sees one size, and its logits come back where they belong."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn
from monai.networks.nets import BasicUNet
from torch import Tensor

from monai_ext.networks.nets.letterboxed import Letterboxed


class Seen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        return image


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (32, 32), (64, 64), (7, 9)])
def test_the_network_sees_a_square_and_the_result_is_the_picture(size: tuple[int, int]) -> None:
    inner = Seen()
    column = torch.linspace(0, 1, size[0])[:, None].expand(size)
    picture = torch.stack([column, column.flip(0)])[None]
    found = Letterboxed(inner, image_size=32)(picture)
    assert inner.shapes == [(1, 2, 32, 32)]
    assert found.shape == picture.shape
    torch.testing.assert_close(found, picture, atol=0.05, rtol=0)


def test_a_picture_of_that_size_is_not_touched() -> None:
    picture = torch.rand(2, 1, 32, 32)
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=3, features=(4, 4, 4, 4, 4, 4)).eval()
    assert torch.equal(Letterboxed(network, image_size=32)(picture), network(picture))


def test_a_size_must_be_one() -> None:
    with pytest.raises(ValueError, match="image_size"):
        Letterboxed(nn.Identity(), image_size=0)

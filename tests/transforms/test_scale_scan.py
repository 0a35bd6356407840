# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.transforms import ScaleScand
from monai_ext.transforms.scale_scan import MODES


def scale(image: Tensor, **settings: object) -> Tensor:
    return ScaleScand(keys=["image"], **settings)({"image": image})["image"]  # type: ignore[arg-type]


def test_percentiles_of_each_channel_become_0_and_1() -> None:
    image = torch.randn(2, 20, 20, 20) * torch.tensor([1.0, 1000.0]).reshape(2, 1, 1, 1)
    scaled = scale(image, lower=10, upper=90)
    for before, after in zip(image.numpy(), scaled.numpy(), strict=True):
        low, high = np.percentile(before, [10, 90])
        np.testing.assert_allclose(after, np.clip((before - low) / (high - low), 0, 1), atol=1e-5)


def test_a_window_is_in_the_image_s_own_unit() -> None:
    image = torch.tensor([[[-1000.0, -160.0, 40.0, 240.0, 3000.0]]])
    torch.testing.assert_close(scale(image, mode="window"), torch.tensor([[[0, 0, 0.5, 1, 1]]]))


def test_z_scores_with_and_without_background() -> None:
    image = torch.zeros(1, 10, 10)
    image[0, 5:] = torch.randn(5, 10) * 3 + 7
    whole, inside = scale(image, mode="zscore"), scale(image, mode="zscore", nonzero=True)
    torch.testing.assert_close((whole.mean(), whole.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)))
    assert bool((inside[0, :5] == 0).all())
    torch.testing.assert_close(inside[0, 5:].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_unit_depends_on_the_file_not_on_the_image() -> None:
    image = torch.tensor([[[0.0, 51.0]]])
    torch.testing.assert_close(scale(image, mode="unit"), image / 255)
    torch.testing.assert_close(
        scale(MetaTensor(image, meta={"white": 65535.0}), mode="unit").as_tensor(), image / 65535
    )


def test_none_changes_nothing() -> None:
    image = torch.randn(1, 3, 3)
    assert torch.equal(scale(image, mode="none"), image)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, -5.0, 1e6])
def test_a_constant_image_stays_finite(mode: str, value: float) -> None:
    assert bool(torch.isfinite(scale(torch.full((1, 4, 4), value), mode=mode)).all())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="mode must be one of percentile"):
        ScaleScand(keys=["image"], mode="ct")
    with pytest.raises(ValueError, match="lower must be less than upper, got 5 and 1"):
        ScaleScand(keys=["image"], mode="window", lower=5, upper=1)

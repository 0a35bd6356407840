# SPDX-License-Identifier: Apache-2.0
"""What SimCLRv2's network can teach: the mean of a stage, or the projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_ext.networks.nets.simclr import SimCLR
from monai_ext.networks.nets.simclr_teacher import SimCLRTeacher, build_simclr_teacher


@pytest.mark.parametrize(("layer", "channels", "side"), [(1, 64, 16), (2, 128, 8), (3, 256, 4), (None, 512, 2)])
def test_it_says_the_mean_of_the_stage_that_is_asked_for(layer: int | None, channels: int, side: int) -> None:
    teacher = build_simclr_teacher("small", teacher_layer=layer).eval()
    image = torch.rand(2, 1, 64, 64)
    features = teacher.encoder.features(image)
    assert features.shape == (2, channels, side, side)
    assert teacher.out_channels == channels
    torch.testing.assert_close(teacher(image), features.mean(dim=(2, 3)))


def test_its_projection_is_that_of_the_network_it_was_trained_in() -> None:
    teacher = build_simclr_teacher("small", in_channels=3, teacher_feature="projection").eval()
    assert isinstance(teacher, SimCLRTeacher)
    image = torch.rand(2, 3, 32, 32)
    assert teacher.out_channels == 128
    torch.testing.assert_close(teacher(image), SimCLR(teacher.encoder, teacher.head).project(image))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"teacher_feature": "map"}, "teacher_feature must be one of pooled, projection, got 'map'"),
        ({"teacher_feature": "projection", "teacher_layer": 2}, "teacher_layer must be None or 4"),
        ({"teacher_layer": 5}, "feature_stage must be in"),
        ({"teacher": "vit_large"}, "teacher must be one of"),
    ],
)
def test_what_it_cannot_say_is_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build_simclr_teacher(**{"teacher": "small", **knobs})

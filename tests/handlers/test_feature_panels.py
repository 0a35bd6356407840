# SPDX-License-Identifier: Apache-2.0
"""Pictures of what networks say about images: maps of features in colours, and two views with a number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_ext.handlers import FeaturePanels, SamplePictures, ViewPanels


def features(seed: int = 0, channels: int = 6, grid: int = 4) -> torch.Tensor:
    return torch.randn(channels, grid, grid, generator=torch.Generator().manual_seed(seed))


def panels(student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
    return FeaturePanels()({"image": torch.rand(1, 64, 64), "pred": [student, teacher]})


def test_equal_features_have_equal_colours_and_the_cosine_one() -> None:
    given, teacher, student, cosine = panels(features(), features()).values()
    assert torch.equal(student, teacher)
    torch.testing.assert_close(cosine, torch.ones(1, 4, 4))
    assert given.shape == (1, 64, 64)


def test_colours_are_the_directions_in_which_the_teacher_varies_most() -> None:
    shape = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    shape = torch.linalg.qr(shape.flatten(1).T - shape.flatten(1).T.mean(0)).Q.T.unflatten(1, (4, 4))
    teacher = torch.zeros(6, 4, 4)
    teacher[4], teacher[1], teacher[3] = 9 * shape[0], 5 * shape[1], 2 * shape[2]  # channel 4 varies most
    shown = panels(features(), teacher)["teacher"]
    torch.testing.assert_close(shown, teacher[[4, 1, 3]], atol=1e-4, rtol=1e-4)


def test_the_cosine_is_that_of_each_patch_and_the_title_has_its_mean() -> None:
    teacher, student = features(), features()
    student[:, 0, 0] *= -1
    shown = panels(student, teacher)
    cosine = shown[f"cosine, mean {14 / 16:.2f}"][0]
    assert float(cosine[0, 0]) == pytest.approx(-1)
    torch.testing.assert_close(cosine.flatten()[1:], torch.ones(15))


@pytest.mark.parametrize(("channels", "grid"), [(2, 4), (6, 1)])
def test_fewer_directions_than_colours_leave_colours_empty(channels: int, grid: int) -> None:
    shown = panels(features(1, channels, grid), features(0, channels, grid))
    assert shown["student"].shape == (3, grid, grid)
    assert shown["student"].isfinite().all()


def test_two_views_are_told_apart_by_their_channels() -> None:
    views, projection = torch.rand(6, 8, 8), torch.tensor([3.0, 4.0])
    shown = ViewPanels()({"image": views, "pred": [projection, torch.tensor([4.0, 3.0])]})
    assert list(shown) == ["first view", "second, cosine 0.96"]
    assert torch.equal(torch.cat(list(shown.values())), views)


def test_a_page_is_drawn_of_a_batch_as_the_networks_give_it(tmp_path: Path) -> None:
    batch = {"image": torch.rand(2, 1, 64, 64), "pred": [torch.rand(2, 6, 4, 4), torch.rand(2, 6, 4, 4)]}
    evaluator = Engine(lambda engine, _: {**batch, "label": None})
    SamplePictures(tmp_path, FeaturePanels(), panel=40).attach(evaluator)
    evaluator.run([{"case": ["a", "b"]}], max_epochs=1)
    with Image.open(tmp_path / "overlays" / "epoch_0001.png") as page:
        assert np.asarray(page).shape[:2] == (2 * (40 + 24), 4 * (40 + 12))

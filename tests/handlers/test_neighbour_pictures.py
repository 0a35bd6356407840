# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours of held-out pictures: of another scan, by student and teacher, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine
from PIL import Image
from torch import Tensor

from monai_ext.handlers import NeighbourPictures
from monai_ext.handlers.neighbour_pictures import nearest


def test_neighbours_are_the_most_alike_of_other_scans() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, cases = [torch.randn(5, generator=generator) for _ in range(9)], list("aaabbbccc")
    for place, (found, cosine) in enumerate(nearest(vectors, cases)):
        others = [other for other in range(9) if cases[other] != cases[place]]
        likeness = [float(F.cosine_similarity(vectors[place], vectors[other], dim=0)) for other in others]
        assert found == others[int(np.argmax(likeness))]
        assert cosine == pytest.approx(max(likeness), abs=1e-6)


def test_of_one_scan_alone_neighbours_are_other_pictures_and_one_picture_has_itself() -> None:
    vectors = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0])]
    assert [place for place, _ in nearest(vectors, ["a"] * 3)] == [1, 0, 1]
    assert nearest(vectors[:1], ["a"])[0][0] == 0


def batches() -> list[dict[str, Any]]:
    """One picture of each of three scans: the left half, the right half, the upper half is bright."""
    image = torch.zeros(3, 1, 20, 20)
    image[0, ..., :10], image[1, ..., 10:], image[2, ..., :10, :] = 1.0, 1.0, 1.0
    return [{"image": image, "case": ["a", "b", "c"], "slice": torch.tensor([3, 4, 5])}]


def run(folder: Path, student: Tensor, teacher: Tensor, **more: Any) -> Path:
    evaluator = Engine(lambda engine, batch: {"image": batch["image"], "pred": [student, teacher], "label": None})
    NeighbourPictures(folder, panel=40, **more).attach(evaluator)
    evaluator.run(batches(), max_epochs=1)
    return folder / "overlays" / "epoch_0001.png"


@pytest.mark.parametrize(("rows", "drawn"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_page_has_a_row_for_each_of_a_few_pictures(rows: int, drawn: int, tmp_path: Path) -> None:
    one = Image.open(run(tmp_path / "one", torch.rand(3, 4), torch.rand(3, 4), rows=1)).size
    size = Image.open(run(tmp_path / "some", torch.rand(3, 4), torch.rand(3, 4), rows=rows)).size
    assert size == (one[0], drawn * one[1])


def test_a_row_shows_the_picture_the_neighbour_of_the_student_and_that_of_the_teacher(tmp_path: Path) -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])  # the first is like the second
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])  # the first is like the third
    with Image.open(run(tmp_path, student, teacher, rows=1)) as page:
        shown = np.asarray(page.convert("L"))[-46:-6]  # below the titles, above the margin
    left, right, upper = (panel[:, 6:46] for panel in np.split(shown, 3, axis=1))
    assert left[:, :18].min() > 200 > 50 > left[:, 22:].max()
    assert right[:, 22:].min() > 200 > 50 > right[:, :18].max()
    assert upper[:18].min() > 200 > 50 > upper[22:].max()


def test_the_pool_is_bounded(tmp_path: Path) -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    small = np.asarray(Image.open(run(tmp_path / "2", vectors, vectors, pool=2)))
    large = np.asarray(Image.open(run(tmp_path / "3", vectors, vectors)))
    assert small.shape[0] * 3 == large.shape[0] * 2


def test_numbers_that_draw_nothing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows must be at least 1 and pool at least 2, got 0 and 256"):
        NeighbourPictures(tmp_path, rows=0)

# SPDX-License-Identifier: Apache-2.0
"""Pictures of networks that answer with pictures: what is on the page, and what a masked autoencoder saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_ext.handlers import MaskedPanels, SamplePictures
from monai_ext.networks.nets.mae import patches_of


def batches() -> list[dict[str, Any]]:
    """Two batches of two; left half dark, right half bright."""
    image = torch.zeros(2, 1, 20, 20)
    image[..., 10:] = 1.0
    return [{"image": image, "case": ["a", "b"], "slice": torch.tensor([3, 4])} for _ in range(2)]


def run(folder: Path, **more: Any) -> Path:
    evaluator = Engine(lambda engine, batch: {"image": batch["image"], "pred": 1 - batch["image"], "label": None})
    SamplePictures(folder, panel=40, **more).attach(evaluator)
    evaluator.run(batches(), max_epochs=1)
    return folder / "overlays" / "epoch_0001.png"


@pytest.mark.parametrize(("cases", "rows"), [(1, 1), (2, 2), (3, 3), (9, 4)])
def test_each_case_is_a_row_of_what_was_given_and_made(tmp_path: Path, cases: int, rows: int) -> None:
    with Image.open(run(tmp_path, cases=cases)) as picture:
        page = np.asarray(picture.convert("L")).astype(int)
    height, width = page.shape[0] // rows, page.shape[1] // 2
    assert page.shape == (rows * height, 2 * width)
    assert height < 2 * 40
    middle = page[height - 20]  # a line through the first row's pictures
    given, made = middle[:width], middle[width:]
    assert given[width // 2 - 10] < 10 < 245 < given[width // 2 + 10]
    assert made[width // 2 - 10] > 245 > 10 > made[width // 2 + 10]


def test_no_page_is_drawn_of_what_is_no_picture(tmp_path: Path) -> None:
    evaluator = Engine(lambda engine, batch: {"image": torch.zeros(2, 5), "label": None, "pred": [batch["image"]] * 2})
    SamplePictures(tmp_path).attach(evaluator)
    evaluator.run(batches(), max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def _both(panels: MaskedPanels, pred: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pictures of both images of a batch."""
    each = [panels({"pred": list(item)}) for item in zip(*pred, strict=True)]
    return {title: torch.stack([pictures[title] for pictures in each]) for title in each[0]}


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_hidden_patches_are_dark_and_then_what_was_predicted(norm_pix_loss: bool) -> None:
    image = torch.rand(2, 3, 8, 8) + 1
    patches = patches_of(image, 4)
    normalised = (patches - patches.mean(-1, keepdim=True)) / patches.std(-1, keepdim=True)
    hidden = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    perfect = normalised if norm_pix_loss else patches
    panels = _both(MaskedPanels(norm_pix_loss), [perfect, patches, hidden])
    torch.testing.assert_close(panels["whole"], image, rtol=0, atol=0)
    torch.testing.assert_close(panels["filled in"], image, rtol=1e-4, atol=1e-4)
    assert torch.equal(panels["seen"][0, :, :4, 4:], image[0, :, :4, 4:])
    assert torch.equal(panels["seen"][0, :, :4, :4], image[0].min().expand(3, 4, 4))

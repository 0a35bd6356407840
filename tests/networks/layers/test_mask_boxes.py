# SPDX-License-Identifier: Apache-2.0
"""The box around a mask: inclusive, one for all components, and defined for nothing at all."""

from __future__ import annotations

import numpy as np
import torch

from monai_ext.networks.layers.mask_boxes import mask_boxes


def test_the_papers_toy() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 3:11, 5:21] = True
    boxes, empty = mask_boxes(mask)
    assert boxes.tolist() == [[5, 3, 20, 10]]
    assert empty.tolist() == [False]


def test_random_masks_have_the_box_that_numpy_finds() -> None:
    masks = torch.rand(40, 13, 29, generator=torch.Generator().manual_seed(0)) > 0.98
    masks[0] = False
    boxes, empty = mask_boxes(masks)
    for mask, box, nothing in zip(masks.numpy(), boxes, empty, strict=True):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [29, 13, -1, -1]
        assert box.tolist() == expected
        assert nothing == (len(rows) == 0)
    assert 0 < empty.sum() < 40


def test_corners_and_single_pixels() -> None:
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 3, 5] = True
    mask[1, 2, 4] = True
    assert mask_boxes(mask)[0].tolist() == [[0, 0, 5, 3], [4, 2, 4, 2]]


def test_shapes_do_not_depend_on_data() -> None:
    program = torch.export.export(_Boxes(), (torch.ones(2, 8, 8, dtype=torch.bool),)).module()
    assert program(torch.zeros(2, 8, 8, dtype=torch.bool))[1].tolist() == [True, True]


class _Boxes(torch.nn.Module):
    def forward(self, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return mask_boxes(masks)

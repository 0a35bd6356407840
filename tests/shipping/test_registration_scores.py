# SPDX-License-Identifier: Apache-2.0
"""Scores equal those counted voxel by voxel, through a transform and between different grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.data.point_list import PointList
from monai_ext.registration import TransformChain
from monai_ext.shipping.registration_scores import RegistrationScores

SIZE = (5, 6, 7)
BODY = torch.ones(SIZE, dtype=torch.bool)
SHIFT = torch.eye(4)
SHIFT[0, 3] = 2  # mm: one voxel of the first axis


def scan(values: Tensor) -> MetaTensor:
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])))


def random_scan(seed: int) -> Tensor:
    return torch.rand(1, *SIZE, generator=torch.Generator().manual_seed(seed))


def test_the_correlation_is_that_of_the_body_alone() -> None:
    fixed, moving = random_scan(0), random_scan(1)
    body = random_scan(2)[0] > 0.5
    found = RegistrationScores(scan(fixed), scan(moving), body)(TransformChain([]))["ncc"]
    assert found == pytest.approx(np.corrcoef(fixed[0][body], moving[0][body])[0, 1], abs=1e-4)


def test_a_transform_that_brings_scans_together_correlates() -> None:
    moving = random_scan(0)
    fixed = torch.cat([moving[:, 1:], moving[:, :1]], dim=1)  # at x what the moving one has at x + 2 mm
    body = BODY.clone()
    body[-1] = False
    scores = RegistrationScores(scan(fixed), scan(moving), body)
    assert scores(TransformChain([SHIFT]))["ncc"] == 1.0
    assert abs(float(str(scores(TransformChain([]))["ncc"]))) < 0.5


def test_a_constant_scan_has_no_correlation() -> None:
    scores = RegistrationScores(scan(torch.ones(1, *SIZE)), scan(random_scan(0)), BODY)
    assert scores(TransformChain([])) == {"ncc": None}


def test_errors_are_distances_after_the_transform() -> None:
    fixed = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    moving = torch.tensor([[2.0, 3.0, 4.0], [3.0, 2.0, 3.0]], dtype=torch.float64)
    points = PointList(("a", "b"), fixed), PointList(("a", "b"), moving)
    scores = RegistrationScores(scan(random_scan(0)), scan(random_scan(0)), BODY, points)
    assert scores(TransformChain([SHIFT]))["tre_mm"] == {"mean": 2.5, "median": 2.5, "p95": 4.75, "max": 5.0}


def test_overlaps_are_counted_for_labels_that_both_have() -> None:
    generator = torch.Generator().manual_seed(3)
    fixed, moving = (torch.randint(0, 4, (1, *SIZE), generator=generator, dtype=torch.int32) for _ in range(2))
    fixed[fixed == 3] = 40
    scores = RegistrationScores(scan(random_scan(0)), scan(random_scan(0)), BODY, labels=(scan(fixed), scan(moving)))
    warped = torch.cat([moving[:, 1:], torch.zeros_like(moving[:, :1])], dim=1)  # beyond it there is background
    expected = {
        str(label): 2
        * int(((warped == label) & (fixed == label)).sum())
        / int((warped == label).sum() + (fixed == label).sum())
        for label in (1, 2)
    }
    found = scores(TransformChain([SHIFT]))["dice"]
    assert found == pytest.approx({**expected, "mean": sum(expected.values()) / 2}, abs=1e-4)


def test_labels_without_any_in_common_have_no_overlap() -> None:
    labels = scan(torch.ones(1, *SIZE, dtype=torch.int32)), scan(torch.full((1, *SIZE), 2, dtype=torch.int32))
    scores = RegistrationScores(scan(random_scan(0)), scan(random_scan(0)), BODY, labels=labels)
    assert scores(TransformChain([]))["dice"] == {}

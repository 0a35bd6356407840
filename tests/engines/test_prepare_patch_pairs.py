# SPDX-License-Identifier: Apache-2.0
"""PreparePatchPairs hands the loss what it asks for."""

from __future__ import annotations

import torch

from monai_ext.engines import PreparePatchPairs


def test_affines_keep_their_precision_and_masks_are_optional() -> None:
    batch = {"image": torch.rand(2, 1, 4, 8, 8), "affine": torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)}
    image, target = PreparePatchPairs()({**batch, "case": ["a", "a"]}, "cpu")
    assert torch.equal(image, batch["image"])
    assert {name: x.dtype for name, x in target.items()} == {"affine": torch.float64}
    body = torch.ones(2, 1, 4, 8, 8)
    assert torch.equal(PreparePatchPairs()({**batch, "body": body})[1]["body"], body)

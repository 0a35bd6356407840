# SPDX-License-Identifier: Apache-2.0
"""MaskedPatchLoss against loops over patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.losses import MaskedPatchLoss


def example() -> list[Tensor]:
    torch.manual_seed(0)
    hidden = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    return [torch.randn(2, 3, 5), 2 + 3 * torch.rand(2, 3, 5), hidden]


def naive(predicted: Tensor, patches: Tensor, hidden: Tensor, norm_pix_loss: bool) -> float:
    errors = []
    for image, patch in hidden.nonzero().tolist():
        said, true = predicted[image, patch].tolist(), patches[image, patch].tolist()
        if norm_pix_loss:
            mean = sum(true) / len(true)
            variance = sum((x - mean) ** 2 for x in true) / (len(true) - 1)
            true = [(x - mean) / (variance + 1e-6) ** 0.5 for x in true]
        errors.append(sum((a - b) ** 2 for a, b in zip(said, true, strict=True)) / len(true))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_it_equals_the_formula_written_naively(norm_pix_loss: bool) -> None:
    expected = naive(*example(), norm_pix_loss)
    assert float(MaskedPatchLoss(norm_pix_loss)(example(), torch.rand(1))) == pytest.approx(expected, rel=1e-5)


def test_patches_that_were_seen_have_no_gradient() -> None:
    predicted, patches, hidden = example()
    predicted.requires_grad_()
    MaskedPatchLoss()([predicted, patches, hidden]).backward()
    assert predicted.grad is not None
    assert torch.equal(predicted.grad.abs().sum(dim=-1) > 0, hidden > 0)


def test_a_flat_patch_is_finite_when_normalised() -> None:
    _, patches, hidden = example()
    flat = torch.ones_like(patches)
    assert float(MaskedPatchLoss(norm_pix_loss=True)([torch.zeros_like(flat), flat, hidden])) == 0


def test_gradient_is_right_in_double_precision() -> None:
    predicted, patches, hidden = (x.double() for x in example())
    loss = MaskedPatchLoss(norm_pix_loss=True)
    assert torch.autograd.gradcheck(lambda x: loss([x, patches, hidden]), (predicted.requires_grad_(),))


def test_shapes_that_do_not_fit_are_named() -> None:
    predicted, patches, hidden = example()
    with pytest.raises(ValueError, match=r"hidden \(B, L\), got \(2, 3, 5\), \(2, 3, 5\) and \(2, 2\)"):
        MaskedPatchLoss()([predicted, patches, hidden[:, :2]])

# SPDX-License-Identifier: Apache-2.0
"""FieldWarp is MONAI's Warp, and remembers nothing."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks.warp import Warp

from monai_ext.field_warp import FieldWarp


@pytest.mark.parametrize("size", [(7, 9), (4, 5, 6), (1, 6)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding_mode", ["border", "zeros"])
def test_it_reads_what_monai_reads(size: tuple[int, ...], mode: str, padding_mode: str) -> None:
    image, field = torch.rand(2, 3, *size), 3 * torch.randn(2, len(size), *size)
    assert torch.equal(FieldWarp(mode, padding_mode)(image, field), Warp(mode, padding_mode)(image, field))


def test_a_call_in_low_precision_does_not_spoil_the_next_one() -> None:
    warp, image = FieldWarp(), torch.rand(1, 1, 1, 300)
    warp(image.bfloat16(), torch.zeros(1, 2, 1, 300, dtype=torch.bfloat16))
    torch.testing.assert_close(warp(image, torch.zeros(1, 2, 1, 300)), image, atol=1e-4, rtol=0)


def test_a_traced_warp_takes_another_size() -> None:
    traced = torch.jit.trace(FieldWarp(), (torch.rand(1, 1, 5, 6), torch.rand(1, 2, 5, 6)))
    image, field = torch.rand(2, 1, 8, 3), torch.rand(2, 2, 8, 3)
    torch.testing.assert_close(traced(image, field), FieldWarp()(image, field))

# SPDX-License-Identifier: Apache-2.0
"""EmbeddedPairLoss is RegistrationLoss of what network and data give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ext.losses import EmbeddedPairLoss, RegistrationLoss


def given() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    outputs = {"displacement": random(1, 3, 4, 16, 16), "velocity": random(1, 3, 4, 16, 16)}
    outputs |= {name: random(1, 1, 4, 16, 16) for name in ("fixed", "moving")}
    outputs |= {f"{name}_local": random(1, 4, 2, 8, 8) for name in ("fixed", "moving")}
    outputs |= {f"{name}_global": random(1, 4, 1, 1, 1) for name in ("fixed", "moving")}
    target = {f"{name}_label": (random(1, 1, 4, 16, 16) > 0.5).float() for name in ("fixed", "moving")}
    return outputs, {**target, "moving_mask": random(1, 1, 4, 16, 16) > 0.1}


def test_fields_scans_and_labels_come_to_their_places() -> None:
    outputs, target = given()
    loss = EmbeddedPairLoss(RegistrationLoss(lambda_dice=1.0, lambda_sam=0.5))
    alone = RegistrationLoss(lambda_dice=1.0, lambda_sam=0.5)
    made = {name: value for name, value in outputs.items() if name not in ("displacement", "velocity")}
    expected = alone([outputs["displacement"], outputs["velocity"]], {**made, **target})
    assert torch.equal(loss(outputs, target), expected)
    assert {n: float(v) for n, v in loss.terms.items()} == {n: float(v) for n, v in alone.terms.items()}
    assert set(loss.terms) == {"similarity", "sam_local", "sam_global", "dice", "diffusion"}


@pytest.mark.parametrize("name", ["displacement", "velocity", "fixed", "moving_local"])
def test_what_is_missing_is_named(name: str) -> None:
    outputs, target = given()
    del outputs[name]
    with pytest.raises(ValueError, match=f"must have {name}"):
        EmbeddedPairLoss(RegistrationLoss())(outputs, target)

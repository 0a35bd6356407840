# SPDX-License-Identifier: Apache-2.0
"""TrainedPart: saves what trains, and goes on only with the same frozen rest."""

from __future__ import annotations

import pytest
import torch
import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.networks.layers.trained_part import TrainedPart


def network(seed: int = 0, width: int = 2) -> nn.Sequential:
    """A frozen layer with running statistics, and one that trains."""
    torch.manual_seed(seed)
    frozen = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False).eval()
    return nn.Sequential(frozen, nn.Linear(4, width))


def test_the_trained_weights_come_back_and_nothing_else_is_kept() -> None:
    first, second = network(), network()
    nn.init.ones_(first[1].weight)
    state = TrainedPart(first).state_dict()
    assert set(state["weights"]) == {"1.weight", "1.bias"}
    TrainedPart(second).load_state_dict(state)
    assert all(torch.equal(weight, second.state_dict()[name]) for name, weight in first.state_dict().items())


@pytest.mark.parametrize("change", ["weight", "statistics"])
def test_another_frozen_rest_is_refused_before_anything_changes(change: str) -> None:
    first, second = network(), network()
    nn.init.ones_(first[1].weight)
    changed = {"weight": second[0][0].weight, "statistics": second[0][1].running_mean}[change]
    changed.data[0] += 1e-3
    before = second[1].weight.clone()
    with pytest.raises(InputError, match=r"frozen weights are others .hash .*encoder and teacher"):
        TrainedPart(second).load_state_dict(TrainedPart(first).state_dict())
    assert torch.equal(second[1].weight, before)


def test_training_does_not_change_the_hash() -> None:
    part = TrainedPart(trained := network())
    before = part.state_dict()["frozen"]
    nn.init.ones_(trained[1].weight)
    assert TrainedPart(trained).state_dict()["frozen"] == before == part.state_dict()["frozen"]


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="the checkpoint does not fit"):
        TrainedPart(network(width=3)).load_state_dict(TrainedPart(network()).state_dict())

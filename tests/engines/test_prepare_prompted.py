# SPDX-License-Identifier: Apache-2.0
"""What else a network is to be told reaches it, and nothing that is not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.engines import GuardedTrainer, PreparePrompted

ARGUMENTS = {"points": "point", "embedded": "embedded"}


def batch(**more: Any) -> dict[str, Any]:
    return {"image": torch.ones(2, 1, 4, 4), "label": torch.ones(2, 1, 4, 4), **more}


def test_only_what_the_batch_has_becomes_an_argument() -> None:
    image, label, args, kwargs = PreparePrompted(ARGUMENTS)(batch(point=torch.ones(2, 2), other=1))
    assert image.shape == label.shape == (2, 1, 4, 4)
    assert args == ()
    assert list(kwargs) == ["points"]
    assert torch.equal(kwargs["points"], torch.ones(2, 2))


@pytest.mark.parametrize("value", [True, False])
def test_truth_values_become_a_switch(value: bool) -> None:
    kwargs = PreparePrompted(ARGUMENTS)(batch(embedded=torch.tensor([value, value])))[3]
    assert kwargs == {"embedded": value}


def test_a_mixed_switch_is_refused() -> None:
    with pytest.raises(ValueError, match="embedded"):
        PreparePrompted(ARGUMENTS)(batch(embedded=torch.tensor([True, False])))


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seen: list[Any] = []

    def forward(self, image: Tensor, points: Tensor | None = None, embedded: bool = False) -> Tensor:
        self.seen.append((points, embedded))
        return image * self.scale


def test_a_trainer_hands_them_to_the_network() -> None:
    network = Recorder()
    GuardedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch(point=torch.zeros(2, 2), embedded=torch.tensor([True, True])), batch()],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=nn.MSELoss(),
        prepare_batch=PreparePrompted(ARGUMENTS),
    ).run()
    assert torch.equal(network.seen[0][0], torch.zeros(2, 2))
    assert network.seen[0][1] is True
    assert network.seen[1] == (None, False)

# SPDX-License-Identifier: Apache-2.0
"""Training starts from a foundation model or from a whole network, never from half of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import load_start


class Toy(nn.Linear):
    """Notes what it is told to load."""

    given: object = "nothing"

    def load_pretrained(self, path: object) -> None:
        self.given = path


def test_without_a_whole_network_the_network_loads_its_foundation_itself() -> None:
    assert load_start(Toy(2, 1), "sam.pt").given == "sam.pt"
    assert load_start(Toy(2, 1), None, "").given is None


def test_a_whole_network_replaces_every_weight(tmp_path: Path) -> None:
    old, new = Toy(2, 1), Toy(2, 1)
    torch.save(old.state_dict(), tmp_path / "model.pt")
    load_start(new, None, tmp_path / "model.pt")
    assert all(torch.equal(old.state_dict()[name], weight) for name, weight in new.state_dict().items())
    assert new.given == "nothing"


def test_another_network_changes_nothing(tmp_path: Path) -> None:
    network = Toy(2, 1)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    torch.save(Toy(3, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="weight is"):
        load_start(network, None, tmp_path / "model.pt")
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


def test_two_beginnings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of them"):
        load_start(Toy(2, 1), "sam.pt", tmp_path / "model.pt")

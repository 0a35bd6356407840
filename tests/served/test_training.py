# SPDX-License-Identifier: Apache-2.0
"""A running server trains every bundle from the labels that its users saved, and serves what it learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bundles.profiles import PROFILES
from tests.bundles.runs import read_json
from tests.served.sample_app import SEGMENTING, by_command
from tests.served.server import Server
from tests.served.studies import label_of
from tests.served.viewer import infer, save_label, work

SETTINGS = {"max_epochs": 1, "val_split": 0.5, "device": "cpu"}


@pytest.fixture(scope="module")
def labelled(server: Server) -> Server:
    """The server, with two labels in its store."""
    for number in range(2):
        save_label(server, f"scan{number}", label_of(number))
    return server


@pytest.mark.parametrize("name", SEGMENTING)
def test_what_was_learned_from_saved_labels_is_served_at_once(
    name: str, labelled: Server, app: Path, studies: Path, tmp_path: Path
) -> None:
    infer(labelled, name, "scan2")  # so that it keeps the network
    models, profile = app / "model" / name / "models", PROFILES[name]
    before = torch.load(models / "model.pt", weights_only=True)
    work(labelled, "train", name, json=SETTINGS)
    after = torch.load(models / "model.pt", weights_only=True)
    assert not torch.equal(after[profile.learns], before[profile.learns])
    assert all(torch.equal(after[weight], before[weight]) for weight in before if profile.frozen(weight))
    assert len(read_json(models.parent / "eval" / "history.json")["epochs"]) == 1
    expected = by_command(app, name, studies / "scan2.nii.gz", tmp_path)
    labels = infer(labelled, name, "scan2").labels
    np.testing.assert_array_equal(np.asarray(labels.dataobj), np.asarray(expected.dataobj))

# SPDX-License-Identifier: Apache-2.0
"""A running server says which study to label next, and how unsure the network is of each."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tests.served.sample_app import SEGMENTING
from tests.served.server import Server
from tests.served.studies import SCANS, label_of
from tests.served.viewer import save_label, work


def test_the_next_study_is_one_without_a_label(server: Server) -> None:
    save_label(server, "scan0", label_of(0))
    following = {server.post(f"/activelearning/{strategy}", json={}).json()["id"] for strategy in ("first", "random")}
    assert "scan0" not in following


@pytest.mark.parametrize("name", SEGMENTING)
def test_uncertainty_by_dropout_is_an_entropy_of_the_classes(server: Server, app: Path, name: str) -> None:
    changed = 1_000_000_000 + SEGMENTING.index(name)  # a study is asked again when the weights have another second
    os.utime(app / "model" / name / "models" / "model.pt", (changed, changed))
    work(server, "scoring", name, json={"device": "cpu", "simulation_size": 2})
    objects = server.get("/datastore/", params={"output": "all"}).json()["objects"]
    told = [objects[scan]["image"]["info"] for scan in SCANS[2:]]
    assert [info["epistemic_ts"] for info in told] == [changed] * len(told)
    scores = {info["epistemic_entropy"] for info in told}
    assert all(0 < score < math.log(3) for score in scores)
    assert len(scores) == len(told)

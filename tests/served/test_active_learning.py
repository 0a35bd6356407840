# SPDX-License-Identifier: Apache-2.0
"""A running server says which study to label next, and how unsure the network is of each."""

from __future__ import annotations

import math

from tests.served.server import Server
from tests.served.studies import SCANS, label_of
from tests.served.viewer import save_label, work


def test_the_next_study_is_one_without_a_label(server: Server) -> None:
    save_label(server, "scan0", label_of(0))
    following = {server.post(f"/activelearning/{strategy}", json={}).json()["id"] for strategy in ("first", "random")}
    assert "scan0" not in following


def test_uncertainty_by_dropout_is_an_entropy_of_the_classes(server: Server) -> None:
    work(server, "scoring", "sam2_unet", json={"device": "cpu", "simulation_size": 2})
    objects = server.get("/datastore/", params={"output": "all"}).json()["objects"]
    scores = {name: objects[name]["image"]["info"].get("epistemic_entropy") for name in SCANS[2:]}
    assert all(0 < score < math.log(3) for score in scores.values())
    assert len(set(scores.values())) == len(scores)

# SPDX-License-Identifier: Apache-2.0
"""A server that is killed loses no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests

from tests.served.sample_app import OFFLINE
from tests.served.server import serve
from tests.served.studies import label_of, write_studies
from tests.served.viewer import infer, save_label, saved_label


def test_labels_saved_before_a_kill_are_served_after_it(app: Path, tmp_path: Path) -> None:
    studies, conf = write_studies(tmp_path / "studies"), {"models": "samora", "skip_trainers": "true", **OFFLINE}
    with serve(app, studies, conf, tmp_path / "first.log") as first:
        before = infer(first, "samora", "scan1").labels
        save_label(first, "scan0", label_of(0), reader="B.")
        first.kill()
        with pytest.raises(requests.ConnectionError):
            first.get("/info/", timeout=5)
    with serve(app, studies, conf, tmp_path / "second.log") as second:
        np.testing.assert_array_equal(np.asarray(saved_label(second, "scan0").dataobj), np.asarray(label_of(0).dataobj))
        told = second.get("/datastore/label/info", params={"label": "scan0", "tag": "final"}).json()
        assert told["reader"] == "B."
        assert second.post("/activelearning/first", json={}).json()["id"] != "scan0"
        after = infer(second, "samora", "scan1").labels
        np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))

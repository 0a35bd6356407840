# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the second click starts the server, clicks, and tells the ratio; its size is not tested."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import harness, label_clicks


def test_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "result.json"
    words = ["label_clicks", "--quick", "--rounds", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    harness.main("label_clicks", label_clicks.__doc__ or "", label_clicks.measure, rounds=2)
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["click"] for row in rows] == list(label_clicks.SEEN)
    assert all(row["slices"] == 2 for row in rows)
    assert rows[1]["second_of_first"] > 0

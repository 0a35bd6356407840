# SPDX-License-Identifier: Apache-2.0
"""SaveMatches writes a table per pair, with the names that the points came with."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_ext.data import PointList
from monai_ext.errors import InputError
from monai_ext.handlers import SaveMatches
from monai_ext.matching import MatchedPoints

FIXED, MOVING = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]])


def matched() -> MatchedPoints:
    one, yes = torch.ones(1), torch.ones(1, dtype=torch.bool)
    return MatchedPoints(MOVING, one, one, one, one, yes, ~yes, torch.zeros(1, dtype=torch.long), ("",))


def run(folder: Path, batch: list[dict], space: str = "RAS") -> None:
    engine = Engine(lambda engine, items: [{"pred": matched()} for _ in items])
    SaveMatches(folder, space).attach(engine)
    engine.run([batch])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_pair_has_a_table_with_its_points(tmp_path: Path) -> None:
    batch = [
        {"case": "a", "points": FIXED, "point_names": ["liver"]},
        {"case": "b", "point_list": PointList(("spleen",), FIXED)},
    ]
    run(tmp_path / "matches", batch)
    (first,), (second,) = (rows(tmp_path / "matches" / f"{case}.csv") for case in ("a", "b"))
    assert (first["point"], second["point"]) == ("liver", "spleen")
    assert [float(first[f"fixed_{axis}_ras_mm"]) for axis in "xyz"] == [1.0, 2.0, 3.0]
    assert [float(second[f"moving_{axis}_ras_mm"]) for axis in "xyz"] == [4.0, 5.0, 6.0]


def test_places_are_written_in_the_space_that_is_asked_for(tmp_path: Path) -> None:
    run(tmp_path, [{"case": "a", "points": FIXED, "point_names": ["liver"]}], "LPS")
    assert float(rows(tmp_path / "a.csv")[0]["moving_x_lps_mm"]) == -4.0
    with pytest.raises(InputError, match="RAS"):
        SaveMatches(tmp_path, "XYZ")

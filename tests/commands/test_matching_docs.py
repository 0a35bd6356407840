# SPDX-License-Identifier: Apache-2.0
"""What docs/matching.md says is so: its commands run, and its tables name what is written."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from monai_ext.commands._fire import main
from monai_ext.followup.match_table import MATCH_COLUMNS
from monai_ext.followup.tracked_lesion import STATUSES
from monai_ext.report.linked_page import PAGE_BYTES
from monai_ext.report.linked_views import FIELD_MM
from tests.followup.toy_bundle import grid, places, world, write_bundle, write_points, write_scan

PAGE = (Path(__file__).parents[2] / "docs" / "matching.md").read_text(encoding="utf-8")
GRIDS = {"before": grid(-8), "now": grid(15), "later": grid(3, (5, 5, 5))}
COMMANDS = [
    re.sub(r"\\\n\s*", " ", line)
    for block in re.findall(r"```\n(python .*?)```", PAGE, re.DOTALL)
    for line in re.split(r"\n(?=python)", block.strip())
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page names."""
    found = tmp_path_factory.mktemp("docs")
    write_bundle(found / "toy")
    for name, affine in GRIDS.items():
        write_scan(found / f"{name}.nii.gz", affine)
    for name, affine in (("points", "before"), ("lesions", "before"), ("found_now", "now"), ("found_later", "later")):
        write_points(found / f"{name}.csv", world(GRIDS[affine], places(3)), diameter_mm=["9", "12", ""])
    table = re.search(r"```csv\n(fixed,.*?)```", PAGE, re.DOTALL)
    assert table is not None
    (found / "pairs.csv").write_text(table[1], encoding="utf-8")
    return found


def words_between_ticks(text: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "monai_ext"]
    assert main([*words[3:], "--bundle_root", "toy"]) == 0


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 5


def test_columns_and_fields_are_all_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main([*shlex.split(COMMANDS[-1])[3:], "--bundle_root", "toy"]) == 0
    content = json.loads((folder / "followup" / "lesions.json").read_text(encoding="utf-8"))
    with open(folder / "followup" / "lesions.csv", newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    later = content["followups"][0]
    fields = {*content, *content["how"], *content["baseline"], *later["diameters"], *later["lesions"][0]}
    plain = {name for name in columns if not re.fullmatch(r"\w+_[xyz]_ras_mm", name)}
    assert fields | plain | set(MATCH_COLUMNS) | set(STATUSES) <= words_between_ticks(PAGE)
    assert {f"followups[].{name}" for name in ("scan", "counts", "diameters", "lesions")} <= set(
        re.findall(r"`(followups\[\]\.\w+)`", PAGE)
    )


def test_sizes_are_those_of_the_page() -> None:
    assert f"{FIELD_MM:g} mm wide" in PAGE
    assert f"Pictures take {PAGE_BYTES / 1e6:g} MB at most" in PAGE

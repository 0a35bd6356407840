# SPDX-License-Identifier: Apache-2.0
"""ScanPairDataset: whatever form points come in, an item has them in RAS mm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.data import PointList, ScanPairDataset, write_points
from monai_ext.errors import InputError

FIXED = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MOVING = FIXED + 10


def item(**changes: Any) -> dict[str, Any]:
    return {"image": "moving.nii.gz", "reference": "fixed.nii.gz", "case": "a", **changes}


def table(path: Path, header: str, rows: list[str]) -> str:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def both(path: Path, first: str, second: str, further: str = "", values: tuple[str, str] = ("", "")) -> str:
    header = ["point", *(f"{prefix}_{axis}_ras_mm" for prefix in (first, second) for axis in "xyz")]
    rows = [
        ",".join([f"p{number}", *map(str, [*one.tolist(), *two.tolist()])]) + value
        for number, (one, two, value) in enumerate(zip(FIXED, MOVING, values, strict=True), start=1)
    ]
    return table(path, ",".join(header) + further, rows)


@pytest.mark.parametrize("prefixes", [("fixed", "moving"), ("baseline", "followup")])
def test_one_table_has_the_places_in_both_scans(tmp_path: Path, prefixes: tuple[str, str]) -> None:
    found = ScanPairDataset([item(points=both(tmp_path / "points.csv", *prefixes))])[0]
    assert torch.equal(found["points"].float(), FIXED)
    assert torch.equal(found["truth"].float(), MOVING)
    assert found["point_names"] == ["p1", "p2"]


def test_two_files_are_joined_by_name(tmp_path: Path) -> None:
    write_points(tmp_path / "fixed.mrk.json", PointList(("p1", "p2"), FIXED), space="LPS")
    write_points(tmp_path / "moving.csv", PointList(("p2", "p1"), MOVING.flip(0)))
    paths = {"points": str(tmp_path / "fixed.mrk.json"), "truth": str(tmp_path / "moving.csv")}
    found = ScanPairDataset([item(**paths)])[0]
    assert torch.equal(found["truth"].float(), MOVING)
    write_points(tmp_path / "moving.csv", PointList(("p1",), MOVING[:1]))
    with pytest.raises(InputError, match="'p2'"):
        ScanPairDataset([item(**paths)])[0]


def test_points_alone_have_no_truth_and_keep_their_columns(tmp_path: Path) -> None:
    path = table(tmp_path / "points.csv", "point,x_ras_mm,y_ras_mm,z_ras_mm,organ", ["p1,1,2,3,liver"])
    found = ScanPairDataset([item(points=path)])[0]
    assert "truth" not in found
    assert found["point_list"].extra["organ"] == ("liver",)


def test_radius_and_box_of_lesions_are_read(tmp_path: Path) -> None:
    corners = ",".join(f"moving_box_{end}_{axis}_ras_mm" for end in ("low", "high") for axis in "xyz")
    values = (",10,1,2,3,4,5,6", ",,,,,,,")
    path = both(tmp_path / "p.csv", "fixed", "moving", f",diameter_mm,{corners}", values)
    found = ScanPairDataset([item(points=path)])[0]
    assert found["radius"][0] == 5.0
    assert found["radius"].isnan().tolist() == [False, True]
    assert found["boxes"][0].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_both_scans_go_through_the_transform_and_single_ones_are_made_pairs() -> None:
    data = [item(), {"image": "only.nii.gz"}]
    dataset = ScanPairDataset(
        data,
        transform=lambda scan: {"image": f"read {scan['image']}"},
        simulate=lambda one: {**one, "reference": "moved " + one["image"]},
    )
    assert (dataset[0]["image"], dataset[0]["reference"]) == ("read moving.nii.gz", "read fixed.nii.gz")
    assert dataset[1]["reference"] == "moved read only.nii.gz"

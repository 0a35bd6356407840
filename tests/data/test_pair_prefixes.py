# SPDX-License-Identifier: Apache-2.0
"""A table of points tells whether it holds places of one scan or of two."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.data.pair_prefixes import pair_prefixes, read_fixed_points
from monai_ext.errors import InputError

ONE = "point,x_ras_mm,y_ras_mm,z_ras_mm\na,1,2,3\n"
BOTH = "point,{0}_x_lps_mm,{0}_y_lps_mm,{0}_z_lps_mm,{1}_x_lps_mm,{1}_y_lps_mm,{1}_z_lps_mm\na,-1,-2,3,7,8,9\n"


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "points.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("prefixes", [("fixed", "moving"), ("baseline", "followup"), ("Fixed", "Moving")])
def test_of_both_scans_the_fixed_one_s_places_are_read(
    prefixes: tuple[str, str], encoding: str, tmp_path: Path
) -> None:
    path = table(tmp_path, BOTH.format(*prefixes), encoding)
    assert pair_prefixes(path) == tuple(name.lower() for name in prefixes)
    assert read_fixed_points(path).points.tolist() == [[1.0, 2.0, 3.0]]


def test_of_one_scan_all_places_are_read(tmp_path: Path) -> None:
    path = table(tmp_path, ONE)
    assert pair_prefixes(path) is None
    assert read_fixed_points(path).points.tolist() == [[1.0, 2.0, 3.0]]


def test_what_cannot_be_read_is_told_by_the_reader(tmp_path: Path) -> None:
    assert pair_prefixes(tmp_path / "missing.csv") is None
    with pytest.raises(InputError, match=r"missing\.csv"):
        read_fixed_points(tmp_path / "missing.csv")

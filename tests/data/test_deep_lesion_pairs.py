# SPDX-License-Identifier: Apache-2.0
"""DLT's places lead to the right voxels of DeepLesion's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.data import deep_lesion_pairs
from monai_ext.errors import InputError

NAMES = ("000004_02_01_007-019.nii.gz", "000004_03_01_002-014.nii.gz")
CENTRES = ((6, 20, 3), (9, 27, 2))  # column, row, slice
SPACINGS = ((0.6, 0.6, 5.0), (0.7, 0.7, 2.5))


def scan(path: Path, centre: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    """As DeepLesion's script writes it: rows, columns, slices, and an affine that says so."""
    column, row, plane = centre
    voxels = np.zeros((40, 30, 8), np.float32)
    voxels[row, column, plane] = 100.0
    x, y, z = spacing
    nib.save(nib.Nifti1Image(voxels, np.array([[0, -y, 0, 0], [-x, 0, 0, 0], [0, 0, -z, 0], [0, 0, 0, 1.0]])), path)


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "source": NAMES[0], "target": NAMES[1],
        "source center": [*map(float, CENTRES[0])], "target center": [*map(float, CENTRES[1])],
        "source box": [4.0, 18.0, 2.0, 5.0, 5.0, 2.0], "target box": [7.0, 24.0, 1.0, 5.0, 6.0, 2.0],
        "source spacing": [*SPACINGS[0]], "target spacing": [*SPACINGS[1]],
        "source recist diameter": [9.0, 5.0], "target recist diameter": [8.0, 6.0], **changes,
    }  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, centre, spacing in zip(NAMES, CENTRES, SPACINGS, strict=True):
        scan(tmp_path / name, centre, spacing)
    (tmp_path / "test.json").write_text(json.dumps({"0001": entry()}), encoding="utf-8")
    return tmp_path


def voxel_at(path: str, world: torch.Tensor) -> np.ndarray:
    image = nib.load(path)
    index = np.linalg.solve(image.affine, [*world.tolist(), 1.0])[:3]
    np.testing.assert_allclose(index, index.round(), atol=1e-9)
    return np.asarray(image.dataobj)[tuple(index.round().astype(int))]


def test_centres_are_the_voxels_that_were_marked(data: Path) -> None:
    (item,) = deep_lesion_pairs(data, pairs=data / "test.json")
    assert voxel_at(item["reference"], item["points"][0]) == 100.0
    assert voxel_at(item["image"], item["truth"][0]) == 100.0
    assert (item["case"], item["subject"], item["point_names"]) == ("0001", "000004", ["lesion"])


def test_the_radius_is_half_of_the_longer_diameter_in_mm(data: Path) -> None:
    (item,) = deep_lesion_pairs(data, pairs=data / "test.json")
    assert item["radius"].tolist() == pytest.approx([8.0 / 2 * 0.7])


def test_the_box_is_around_its_lesion(data: Path) -> None:
    (item,) = deep_lesion_pairs(data, pairs=data / "test.json")
    low, high = item["boxes"][0]
    assert ((low <= item["truth"][0]) & (item["truth"][0] <= high)).all()
    assert sorted((high - low).tolist()) == pytest.approx(sorted([5 * 0.7, 6 * 0.7, 2 * 2.5]))


def test_a_list_of_pairs_is_read_like_a_dictionary(data: Path) -> None:
    (data / "train.json").write_text(json.dumps([entry(), entry()]), encoding="utf-8")
    assert [item["case"] for item in deep_lesion_pairs(data, pairs=data / "train.json")] == ["0001", "0002"]


def test_missing_scans_and_other_lists_are_named(data: Path) -> None:
    (data / "other.json").write_text(json.dumps({"test": []}), encoding="utf-8")
    with pytest.raises(InputError, match="source center"):
        deep_lesion_pairs(data, pairs=data / "other.json")
    (data / NAMES[1]).unlink()
    with pytest.raises(InputError, match=r"1 of the 2 scans.*000004_03_01.*DL_save_nifti"):
        deep_lesion_pairs(data, pairs=data / "test.json")

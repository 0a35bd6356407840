# SPDX-License-Identifier: Apache-2.0
"""Scans look the same however their file is oriented."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.report.scans import VolumeScan, read_scan

RAS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = (-10, 20, 30)
ORIENTATIONS = [
    list(zip(axes, flips, strict=True)) for axes in permutations(range(3)) for flips in product((1, -1), repeat=3)
]


def reoriented(orientation: list[tuple[int, int]]) -> nib.Nifti1Image:
    return nib.Nifti1Image(RAS, AFFINE).as_reoriented(np.asarray(orientation))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_all_48_orientations_look_the_same(plane: str, orientation: list[tuple[int, int]]) -> None:
    image = reoriented(orientation)
    scan, plain = VolumeScan(np.asarray(image.dataobj), image.affine), VolumeScan(RAS, AFFINE)
    np.testing.assert_array_equal(scan.frame(plane, 2), plain.frame(plane, 2))
    assert scan.size_mm(plane) == pytest.approx(plain.size_mm(plane))
    assert scan.caption(plane, 2).split(", ")[1] == plain.caption(plane, 2).split(", ")[1]


def test_slices_are_shown_as_radiologists_do() -> None:
    scan = VolumeScan(RAS, AFFINE)
    assert scan.frame("axial", 0)[0, 0] == RAS[3, 4, 0]  # right and front are at the top left
    assert scan.frame("coronal", 0)[0, 0] == RAS[3, 0, 5]  # right and head
    assert scan.frame("sagittal", 0)[0, 0] == RAS[0, 4, 5]  # front and head
    assert [scan.edges(plane) for plane in ("axial", "coronal", "sagittal")] == ["RLAP", "RLSI", "APSI"]
    assert scan.size_mm("axial") == (4.0, 10.0)


def test_caption_counts_as_the_file_does() -> None:
    flipped = reoriented([(0, 1), (1, 1), (2, -1)])
    assert VolumeScan(RAS, AFFINE).caption("axial", 1) == "slice 2 of 6, z = 33.0 mm"
    assert VolumeScan(np.asarray(flipped.dataobj), flipped.affine).caption("axial", 1) == "slice 5 of 6, z = 33.0 mm"


def test_nrrd_looks_as_nifti_does(tmp_path: Path) -> None:
    nib.save(reoriented([(1, -1), (0, 1), (2, -1)]), tmp_path / "scan.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(tmp_path / "scan.nii.gz"), tmp_path / "scan.nrrd")
    nifti, nrrd = read_scan(tmp_path / "scan.nii.gz"), read_scan(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(nrrd.frame("coronal", 1), nifti.frame("coronal", 1))
    assert nrrd.caption("coronal", 1) == nifti.caption("coronal", 1)


def test_first_channel_of_a_4d_file_is_shown(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([RAS, RAS * 0], axis=-1), AFFINE), tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").frame("axial", 0).max() == RAS[..., 0].max()


def test_single_slice_is_flat_and_has_no_caption(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(RAS[:, :1], AFFINE), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    assert scan.flat
    assert scan.count("axial") == 1
    assert scan.frame("axial", 0).shape == (6, 4)
    assert scan.caption("axial", 0) == ""


def test_picture_keeps_label_indices_of_a_palette(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 5]], np.uint8)
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([value for value in range(256) for _ in range(3)])
    picture.save(tmp_path / "label.png")
    np.testing.assert_array_equal(read_scan(tmp_path / "label.png").frame("axial", 0), labels)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.png", "scan.nrrd"])
def test_broken_file_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        read_scan(tmp_path / name)


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file not found"):
        read_scan(tmp_path / "scan.nii.gz")

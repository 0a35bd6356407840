# SPDX-License-Identifier: Apache-2.0
"""Whatever bytes a file holds, the doctor names it and goes on."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from monai_ext.doctor.examine import examine
from monai_ext.doctor.finding import Finding
from monai_ext.doctor.folder import find_cases

from .conftest import AFFINE, add_case, an_image, write_nifti

BROKEN = {"zero_byte", "truncated", "corrupt_header"}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".png", ".jpg", ".bmp", ".tif")


def findings_of(root: Path) -> list[Finding]:
    return examine(find_cases(root)).findings


def a_file(path: Path) -> bytes:
    """Write a real scan in the format that the name says and return its bytes."""
    if path.name.endswith((".nii", ".nii.gz")):
        write_nifti(path, an_image(0))
    elif path.suffix in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(an_image(0)), str(path), useCompression=True)
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [0, 1, 7, 131, 5000])
def test_random_bytes_are_named(tmp_path: Path, ending: str, size: int) -> None:
    (tmp_path / f"noise{ending}").write_bytes(np.random.default_rng(size).bytes(size))
    (one,) = findings_of(tmp_path)
    assert one.code in BROKEN
    assert one.file == f"noise{ending}"


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif"])
def test_a_file_cut_at_any_of_twenty_places_is_named(tmp_path: Path, ending: str) -> None:
    content = a_file(tmp_path / f"whole{ending}")
    for cut in np.linspace(0, len(content) - 1, 20).astype(int):
        (tmp_path / f"cut_{cut}{ending}").write_bytes(content[:cut])
    findings = findings_of(tmp_path)
    assert {one.code for one in findings} <= BROKEN
    assert len({one.file for one in findings}) == 20
    assert all(one.file.startswith("cut_") for one in findings)


def test_flipped_header_bytes_never_raise(tmp_path: Path) -> None:
    write_nifti(tmp_path / "base.nii", an_image(0))
    content = (tmp_path / "base.nii").read_bytes()
    (tmp_path / "base.nii").unlink()
    random = np.random.default_rng(0)
    for number in range(120):
        broken = bytearray(content)
        for place in random.integers(0, 352, 6):
            broken[place] = random.integers(256)
        (tmp_path / f"{number:03}.nii").write_bytes(broken)
    assert all(one.what for one in findings_of(tmp_path))


def test_a_damaged_gzip_stream_is_named(tmp_path: Path) -> None:
    content = bytearray(a_file(tmp_path / "a.nii.gz"))
    content[len(content) // 2] ^= 255
    (tmp_path / "a.nii.gz").write_bytes(content)
    (one,) = findings_of(tmp_path)
    assert one.code in ("truncated", "corrupt_header")


def test_a_plain_file_named_gz_is_told_how_to_be_renamed(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", an_image(0))
    (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    (one,) = findings_of(tmp_path)
    assert (one.code, "rename it to end in .nii" in one.remedy) == ("corrupt_header", True)


def test_a_header_that_promises_terabytes_is_not_given_memory(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_sform(AFFINE, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    text = "ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nDimSize = 30000 30000 30000\n"
    (tmp_path / "huge.mha").write_bytes(
        (text + "ElementType = MET_SHORT\nElementDataFile = LOCAL\n").encode() + bytes(9)
    )
    assert {one.file for one in findings_of(tmp_path)} == {"huge.nii.gz", "huge.mha"}


def test_random_bytes_as_data_list_are_named_and_the_folders_still_examined(tmp_path: Path) -> None:
    add_case(tmp_path, "a", 0)
    (tmp_path / "labels/a.nii.gz").write_bytes(b"")
    (tmp_path / "datalist.json").write_bytes(np.random.default_rng(0).bytes(300))
    assert [one.code for one in findings_of(tmp_path)] == ["bad_datalist", "zero_byte"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b'{"training": 3}',
        b'{"training": {"image": "a"}}',
        b'{"training": [1, null, {}, {"image": []}, {"image": 3}, {"image": ["a", 1]}]}',
        b'{"training": [{"image": "a.nii.gz", "label": 3}]}',
        b'{"training": [{"image": "a.nii.gz"}], "labels": "two"}',
        b'{"training": [{"image": "a.nii.gz"}], "labels": {"x": NaN, "y": [1]}}',
        b'{"training": [{"image": "a\\u0000b.nii.gz"}], "labels": 3}',
        b"[" * 100000,
        ('{"labels": [[]], "training": [{"image": "' + "a" * 5000 + '.nii.gz"}]}').encode(),
        '{"training": "\u00e9"}'.encode("utf-16"),
    ],
)
def test_a_data_list_of_another_form_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "datalist.json").write_bytes(content)
    assert {one.code for one in findings_of(tmp_path)} & {"bad_datalist", "missing_file"}


def test_good_items_beside_bad_ones_are_examined(tmp_path: Path) -> None:
    item = add_case(tmp_path, "a", 0)
    (tmp_path / "images/a.nii.gz").write_bytes(b"")
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [3, item]}), encoding="utf-8")
    assert [one.code for one in findings_of(tmp_path)] == ["bad_datalist", "zero_byte"]


def test_a_folder_named_like_a_scan_or_a_link_in_circles_is_no_crash(tmp_path: Path) -> None:
    add_case(tmp_path, "a", 0)
    (tmp_path / "images/b.nii.gz").mkdir()
    (tmp_path / "labels/circle").symlink_to(tmp_path)
    (tmp_path / "images/gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    findings = findings_of(tmp_path)
    assert {one.file for one in findings} == {"images/gone.nii.gz"}

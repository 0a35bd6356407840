# SPDX-License-Identifier: Apache-2.0
"""No header that a client writes makes the server read one of its own files, or more than it can hold."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from monai_ext.errors import InputError
from monai_ext.label.sent_scan import check_sent_scan

META = """ObjectType = Image
NDims = 2
DimSize = 2 2
ElementType = MET_UCHAR
"""
NRRD = """NRRD0004
type: uint8
dimension: 2
sizes: 2 2
encoding: raw
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the server."""
    (tmp_path / "users").write_bytes(b"ada:")
    return tmp_path / "users"


def sent(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_bytes(content.encode())
    return folder / name


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz", ".nii", ".png"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_with_its_voxels_passes(suffix: str, compressed: bool, tmp_path: Path) -> None:
    size = (8, 8) if suffix == ".png" else (8, 8, 3)
    image = SimpleITK.GetImageFromArray(np.random.default_rng(0).integers(0, 255, size).astype(np.uint8))
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"), compressed)
    check_sent_scan("file", tmp_path / f"scan{suffix}")


def test_these_headers_do_reach_other_files(secret: Path, tmp_path: Path) -> None:
    for name, content in (("x.mha", f"{META}ElementDataFile = {secret}\n"), ("x.nrrd", f"{NRRD}data file: {secret}\n")):
        image = SimpleITK.ReadImage(str(sent(tmp_path, name, content)))
        assert SimpleITK.GetArrayFromImage(image).tobytes() == secret.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.mha", META + "ElementDataFile = {secret}\n"),
        ("x.mha", META + "ElementDataFile : {secret}\nElementDataFile = LOCAL\n"),
        ("x.mha", META + "elementdatafile = LOCAL\nElementDataFile = {secret}\n"),
        ("x.mha", META + "Comment = ElementDataFile = LOCAL\nElementDataFile = {secret}\n"),
        ("x.mha", META + "Comment = a\rElementDataFile = LOCAL\nElementDataFile = {secret}\n"),
        ("x.mha", META + "\tElementDataFile = LIST\n{secret}\n"),
        ("x.mha", META),
        ("x.dcm", META + "ElementDataFile = {secret}\n"),
        ("x.nrrd", NRRD + "data file: {secret}\n"),
        ("x.nrrd", NRRD + "DataFile:{secret}\n\n"),
        ("x.nrrd", NRRD.replace("\n", "\r\n") + "data file: LIST\r\n{secret}\r\n"),
        ("x.nrrd", NRRD),
        ("x.mha", NRRD + "data file: {secret}\n\n"),
    ],
)
def test_a_header_that_names_another_file_is_refused(name: str, content: str, secret: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^file: the header says that the voxels lie in another file"):
        check_sent_scan("file", sent(tmp_path, name, content.replace("{secret}", str(secret))))


@pytest.mark.parametrize("name", ["x.mhd", "x.nhdr", "x.npy", "x.py", "x", "X.MHD"])
def test_what_is_no_scan_by_its_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^image: must be a scan"):
        check_sent_scan("image", sent(tmp_path, name, META + "ElementDataFile = LOCAL\n"))


def nifti(size: int) -> str:
    """A file that says it has a cube of so many voxels, and has none."""
    header = nib.Nifti1Header()
    header.set_data_shape((size, size, size))
    return header.binaryblock.decode("latin-1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.nii", nifti(20_000).encode("latin-1")),
        ("x.nii.gz", gzip.compress(nifti(20_000).encode("latin-1"))),
        ("x.mha", f"{META.replace('2 2', '90000 90000')}ElementDataFile = LOCAL\n".encode()),
        ("x.nrrd", f"{NRRD.replace('2 2', '90000 90000')}\n".encode()),
    ],
    ids=["nii", "nii.gz", "mha", "nrrd"],  # the compressed one has the time in it
)
def test_more_voxels_than_fit_are_refused_by_the_header(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^file: may have 1000000000 voxels, got [29]0000 x "):
        check_sent_scan("file", tmp_path / name)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd"])
def test_what_is_no_scan_inside_is_refused_without_its_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^label: cannot be read as a scan") as caught:
        check_sent_scan("label", sent(tmp_path, name, "nothing"))
    assert str(tmp_path) not in str(caught.value)


def test_a_folder_is_a_series_for_its_reader_to_judge(tmp_path: Path) -> None:
    check_sent_scan("image", tmp_path)

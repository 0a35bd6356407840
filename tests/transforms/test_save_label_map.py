# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Orientationd, SaveImaged
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.transforms import LoadScand, SaveLabelMapd


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.rand(4, 5, 6).astype(np.float32), np.diag([-1.0, 1, 2, 1])), path)
    return path


def item(path: Path, **more: object) -> dict:
    image = LoadScand(keys=["image"])({"image": str(path)})["image"]
    return {"pred": (image > 0.5).to(torch.uint8), **more}


def save(data: dict, output_dir: Path, **settings: str) -> Path:
    return Path(SaveLabelMapd(keys=["pred"], output_dir=output_dir, **settings)(data)["pred"].meta["saved_to"])


def test_names(scan: Path, tmp_path: Path) -> None:
    assert save(item(scan), tmp_path / "new" / "out") == tmp_path / "new" / "out" / "scan.nii.gz"
    assert save(item(scan, case="x.1"), tmp_path, output_postfix="seg") == tmp_path / "x.1_seg.nii.gz"
    assert save(item(scan, name="y"), tmp_path, case_key="name").name == "y.nii.gz"


def test_the_scan_is_never_overwritten(scan: Path, tmp_path: Path) -> None:
    before = scan.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        with pytest.raises(InputError, match=r"scan.nii.gz: the result would replace the scan"):
            save(item(scan), folder)
    assert scan.read_bytes() == before


def test_nothing_is_left_by_a_failure(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save(item(scan), tmp_path / "out").read_bytes()

    def full(image: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match="no space"):
        save(item(scan), tmp_path / "out")
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [good]


def test_a_label_map_that_was_not_turned_back_is_refused(scan: Path, tmp_path: Path) -> None:
    turned = Orientationd(keys=["pred"], axcodes="RAS", labels=None)(item(scan))
    with pytest.raises(ValueError, match="orientation; Invertd"):
        save(turned, tmp_path / "out")
    data = item(scan)
    data["pred"] = data["pred"][:, 1:]
    with pytest.raises(ValueError, match=r"shape \(1, 4, 5, 6\) is wanted"):
        save(data, tmp_path / "out")
    with pytest.raises(ValueError, match="read the scan by LoadScand"):
        save({"pred": torch.zeros(1, 2, 2)}, tmp_path / "out")


def test_only_whole_numbers_are_written(scan: Path, tmp_path: Path) -> None:
    data = item(scan)
    data["pred"] = data["pred"].float() * 0.5
    with pytest.raises(ValueError, match="whole numbers"):
        save(data, tmp_path / "out")


def test_scaling_of_the_scan_is_not_taken_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.random.randint(0, 100, (4, 5, 6)).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.01, -3)
    image.header["cal_max"] = 50
    nib.save(image, tmp_path / "scan.nii")
    data = item(tmp_path / "scan.nii")
    labels = nib.load(save(data, tmp_path / "out"))
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 1}
    assert labels.header["cal_max"] == 0


def test_a_picture_s_classes_are_grey_values(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 7, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    data = item(tmp_path / "photo.jpg")
    classes = torch.randint(0, 13, (7, 5))
    data["pred"] = data["pred"][:1]
    data["pred"][0] = classes
    saved = Image.open(save(data, tmp_path))
    assert (saved.mode, saved.size) == ("L", (7, 5))
    np.testing.assert_array_equal(np.asarray(saved).T, classes)


def test_monai_label_knows_what_to_drop() -> None:
    assert issubclass(SaveLabelMapd, SaveImaged)

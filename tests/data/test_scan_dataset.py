# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader
from monai.transforms import Compose

from monai_ext.data import ScanDataset
from monai_ext.errors import InputError, message_of
from monai_ext.transforms import LoadScand


@pytest.mark.parametrize("workers", [0, 1])
def test_the_user_s_error_comes_through_transforms_and_workers(tmp_path: Path, workers: int) -> None:
    dataset = ScanDataset([{"image": str(tmp_path / "a.nii")}], Compose([LoadScand(keys=["image"])]))
    with pytest.raises(InputError) as error:
        list(DataLoader(dataset, num_workers=workers))
    assert message_of(error.value) == f"{tmp_path / 'a.nii'}: no such file; mend its path in the data list."


def test_other_errors_keep_their_kind() -> None:
    with pytest.raises(RuntimeError, match="applying transform"):
        ScanDataset([{"image": 3}], Compose([lambda item: item["label"]]))[0]


def test_whole_scans(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), dtype=np.float32), np.eye(4)), tmp_path / "a.nii")
    dataset = ScanDataset([{"image": str(tmp_path / "a.nii"), "case": "a"}], Compose([LoadScand(keys=["image"])]))
    (batch,) = DataLoader(dataset)
    assert batch["image"].shape == (1, 1, 3, 4, 5)
    assert batch["case"] == ["a"]

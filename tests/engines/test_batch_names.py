# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate

from monai_ext.engines.batch_names import describe_batch


def item(number: int) -> dict[str, object]:
    image = MetaTensor(torch.zeros(1, 2, 2), meta={"filename_or_obj": f"/data/scan{number}.nii.gz"})
    return {"image": image, "case": f"p{number}", "slice": 10 * number}


def test_files_and_slices_of_a_collated_batch() -> None:
    batch = list_data_collate([item(1), item(2)])
    assert describe_batch(batch) == "/data/scan1.nii.gz (slice 10), /data/scan2.nii.gz (slice 20)"


def test_one_file() -> None:
    assert describe_batch(item(1)) == "/data/scan1.nii.gz (slice 10)"


def test_long_batches_are_cut() -> None:
    text = describe_batch({"case": [f"p{n}" for n in range(12)]})
    assert text.endswith("p7 and 4 more")


@pytest.mark.parametrize("batch", [(torch.zeros(1),), {"image": torch.zeros(1)}, None])
def test_batches_without_names(batch: object) -> None:
    assert describe_batch(batch) == "a batch without names"

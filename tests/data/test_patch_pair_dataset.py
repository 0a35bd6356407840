# SPDX-License-Identifier: Apache-2.0
"""PatchPairDataset: every pair is a function of seed, epoch and index, from memory or from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import RandGaussianNoised

from monai_ext.data import PatchPairDataset, load_scan_list
from monai_ext.errors import InputError
from monai_ext.transforms import LoadScand, RandOverlapPatchPaird


def reading() -> LoadScand:
    return LoadScand(keys=["image", "body"], allow_missing_keys=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        voxels = generator.random((14, 30, 26)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 1.0, 1.0, 1.0])), tmp_path / "images" / f"{name}.nii.gz")
    return tmp_path


def pairs(**settings: Any) -> RandOverlapPatchPaird:
    return RandOverlapPatchPaird(**{"keys": ["image"], "patch_size": (4, 8, 8), "base_spacing": 1.5, **settings})


def dataset(folder: Path, **settings: Any) -> PatchPairDataset:
    data = load_scan_list(folder, "training", val_fraction=0.0)
    noise = RandGaussianNoised(keys=["image"], prob=1.0, std=0.1)
    return PatchPairDataset(
        data, reading(), **{"pairs": pairs(), "transform": [noise], "pairs_per_scan": 3, **settings}
    )


def batches(data: PatchPairDataset, workers: int) -> list[dict[str, Any]]:
    loader = DataLoader(data, batch_size=2, num_workers=workers)
    return [batch for epoch in (1, 2) for batch in (data.set_epoch(epoch), *loader)[1:]]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["case"] == other["case"] and all(torch.equal(one[k], other[k]) for k in ("image", "affine", "body"))


def test_neither_workers_nor_the_place_of_scans_change_a_run(folder: Path) -> None:
    expected = batches(dataset(folder), workers=0)
    for other in (batches(dataset(folder), workers=2), batches(dataset(folder, cache_dir=folder / "cache"), workers=1)):
        assert len(other) == len(expected) == 10
        assert [b["case"] for b in expected] == [b["case"] for b in other]
        for one, two in zip(expected, other, strict=True):
            torch.testing.assert_close(one["image"], two["image"], atol=1e-3, rtol=0)  # half precision on both sides
            assert torch.equal(one["affine"], two["affine"])


def test_epochs_and_seeds_draw_anew_and_come_back(folder: Path) -> None:
    data, other = dataset(folder), dataset(folder, seed=1)
    data.set_epoch(1)
    first = data[4]
    assert all(same(one, two) for one, two in zip(first, data[-5], strict=True))
    assert not same(first[0], other[4][0])
    data.set_epoch(2)
    assert not same(first[0], data[4][0])
    data.set_epoch(1)
    assert same(first[1], data[4][1])


def test_a_batch_holds_pairs_one_after_the_other(folder: Path) -> None:
    batch = batches(dataset(folder, pairs=pairs(overlap_prob=1.0)), workers=0)[1]
    assert batch["image"].shape == (4, 1, 4, 8, 8)
    assert batch["case"] == ["a", "a", "b", "b"]
    assert (batch["affine"].dtype, batch["affine"].shape) == (torch.float64, (4, 4, 4))
    centres = batch["affine"][:, :3, :3] @ torch.tensor([1.5, 3.5, 3.5]).double() + batch["affine"][:, :3, 3]
    assert (centres[0] - centres[1]).norm() < 12 * 1.2 * 1.5  # patches of a pair overlap


def test_a_patch_is_cut_out_of_the_scan_that_it_names(folder: Path) -> None:
    data = dataset(folder, transform=None, pairs=pairs(scale=(1.0, 1.0), base_spacing=2.0), cache_dir=folder / "cache")
    patch = data[8][0]
    scan = nib.load(folder / "images" / f"{patch['case']}.nii.gz")
    index = torch.tensor([1.0, 3.0, 5.0, 1.0], dtype=torch.float64)
    voxel = np.linalg.solve(scan.affine, (patch["affine"] @ index).numpy())[:3]
    low = np.floor(voxel).astype(int)
    corners = [low + np.array(step) for step in np.ndindex(2, 2, 2)]
    weights = [np.prod(1 - np.abs(voxel - corner)) for corner in corners]
    values = [np.asarray(scan.dataobj)[tuple(corner)] for corner in corners]
    assert float(patch["image"][0, 1, 3, 5]) == pytest.approx(float(np.dot(weights, values)), abs=1e-3)


def test_a_stored_scan_is_read_once_and_again_when_its_file_changes(folder: Path) -> None:
    first = dataset(folder, cache_dir=folder / "cache")
    stamps = {path.name: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()}
    dataset(folder, cache_dir=folder / "cache")
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "cache").iterdir()} == stamps
    changed = folder / "images" / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.full((14, 30, 26), 0.5, np.float32), np.diag([2.0, 1.0, 1.0, 1.0])), changed)
    again = dataset(folder, cache_dir=folder / "cache", transform=None)
    assert float(again[0][0]["image"].std()) < 1e-6 < float(first[0][0]["image"].std())


def test_a_mask_of_the_data_list_says_where_the_body_is(folder: Path) -> None:
    mask = np.zeros((14, 30, 26), np.uint8)
    mask[:, :15] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([2.0, 1.0, 1.0, 1.0])), folder / "body.nii.gz")
    item = {"image": str(folder / "images" / "a.nii.gz"), "body": str(folder / "body.nii.gz"), "case": "a"}
    data = PatchPairDataset([item], reading(), pairs(body_key="body"), pairs_per_scan=4, cache_dir=folder / "cache")
    for patch in (patch for index in range(4) for patch in data[index]):
        rows = (patch["affine"] @ torch.stack([torch.tensor([0.0, row, 0.0, 1.0]) for row in range(8)], 1).double())[1]
        inside = patch["body"][0, 0, :, 0]
        assert inside[(rows > 0) & (rows < 14)].all()
        assert not inside[rows > 15].any()


def test_what_a_user_can_mend_is_one_line(folder: Path) -> None:
    (folder / "images" / "b.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.nii\.gz"):
        dataset(folder)
    with pytest.raises(InputError, match="pairs_per_scan"):
        PatchPairDataset([{"image": "a"}], reading(), pairs(), pairs_per_scan=0)
    with pytest.raises(InputError, match="dataset_dir"):
        PatchPairDataset([], reading(), pairs())

# SPDX-License-Identifier: Apache-2.0
"""A click or box on a voxel of the file hits this voxel, whatever way the file's axes run, and the record arrives."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import DataLoader, decollate_batch
from monai.transforms import Compose, Invertd, Orientationd
from PIL import Image
from scipy.spatial.transform import Rotation

from monai_ext.data import ScanDataset
from monai_ext.inferers import PromptedSliceInferer
from monai_ext.transforms import (
    CheckScand,
    FlattenPictured,
    KeepPromptsd,
    LoadScand,
    PrepareLabeld,
    PromptFromRequestd,
    SaveLabelMapd,
    SavePromptsd,
    TrueBoxd,
)
from tests.inferers.prompted_toy import PromptedToy, slices_of

ORIENTATIONS = list(product(permutations(range(3)), product([1, -1], repeat=3)))
PLANES = ["axial", "coronal", "sagittal"]
SHAPE = (4, 6, 5)
CASES = [(order, flips, PLANES[number % 3]) for number, (order, flips) in enumerate(ORIENTATIONS)]


def preprocessing(keys: tuple[str, ...] = ("image",)) -> Compose:
    return Compose([
        LoadScand(keys=keys),
        CheckScand(keys=["image"]),
        Orientationd(keys=keys, axcodes="RAS", labels=None),
        PrepareLabeld(keys=["label"], num_classes=1),
        PromptFromRequestd(keys=["image"]),
        TrueBoxd(keys=["label"]),
    ])  # fmt: skip


def postprocessing(before: Compose, folder: Path) -> Compose:
    return Compose([
        KeepPromptsd(keys=["pred"]),
        Invertd(keys=["pred"], transform=before, orig_keys=["image"], nearest_interp=True),
        SaveLabelMapd(keys=["pred"], output_dir=folder),
        SavePromptsd(keys=["pred"], output_dir=folder),
        FlattenPictured(keys=["pred"]),
    ])  # fmt: skip


def segment(items: list[dict[str, Any]], keys: tuple[str, ...], folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Run items in one batch, as an evaluator does; return them decollated and brought back to their files' grids."""
    before = preprocessing(keys)
    batch = next(iter(DataLoader(ScanDataset(items, before), batch_size=len(items))))
    batch["pred"] = PromptedSliceInferer(**settings)(batch["image"], PromptedToy())
    return [postprocessing(before, folder)(item) for item in decollate_batch(batch)]


def save(values: np.ndarray, path: Path, order: tuple[int, ...], flips: tuple[int, ...], turned: bool = False) -> Path:
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[list(order), range(3)] = np.array(flips) * [0.7, 1.3, 3.1]
    turn = Rotation.from_euler("xyz", [21, -14, 33], degrees=True).as_matrix() if turned else np.eye(3)
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = 10, -20, 30
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize(
    ("order", "flips", "plane", "turned"),
    [*[(*case, False) for case in CASES], *[(*case, True) for case in CASES[::7]]],
)
def test_a_click_hits_its_voxel_in_every_orientation(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], plane: str, turned: bool
) -> None:
    scan = save(np.zeros(SHAPE, np.float32), tmp_path / "scan.nii.gz", order, flips, turned)
    clicks = [[3, 0, 1], [1, 5, 4], [0, 2, 3]]
    item = {"image": str(scan), "foreground": clicks, "background": [[2, 2, 2]]}
    pred = segment([item], ("image",), tmp_path / "out", plane=plane)[0]["pred"]
    assert sorted(pred[0].nonzero().tolist()) == sorted(clicks)


@pytest.mark.parametrize(("order", "flips", "plane"), CASES[::4])
def test_a_box_holds_its_voxels(tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], plane: str) -> None:
    scan = save(np.zeros(SHAPE, np.float32), tmp_path / "scan.nii.gz", order, flips)
    pred = segment([{"image": str(scan), "roi": [2, 1, 5, 3, 0, 2]}], ("image",), tmp_path / "out", plane=plane)[0]
    expected = torch.zeros(SHAPE, dtype=torch.uint8)
    expected[1:3, 3:6, 0:3] = 1
    assert torch.equal(pred["pred"].as_tensor()[0], expected)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::9])
@pytest.mark.parametrize("plane", PLANES)
def test_one_slice_of_the_file_is_asked_for_or_a_plane_across_it(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], plane: str
) -> None:
    scan = save(np.zeros(SHAPE, np.float32), tmp_path / "scan.nii.gz", order, flips)
    item = {"image": str(scan), "box": [1, 2, 2, 4], "slice": 3}
    result = segment([item], ("image",), tmp_path / "out", plane=plane)[0]
    expected = torch.zeros(SHAPE, dtype=torch.uint8)
    expected[1:3, 2:5, 3] = 1
    assert torch.equal(result["pred"].as_tensor()[0], expected)
    along = order[2] == {"sagittal": 0, "coronal": 1, "axial": 2}[plane]
    count = SHAPE[order.index({"sagittal": 0, "coronal": 1, "axial": 2}[plane])]
    assert len(result["result"]["prompts"]["slices"]) == (1 if along else count)


@pytest.mark.parametrize(("order", "flips", "plane"), CASES[::5])
def test_true_boxes_cover_the_label_tightly(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...], plane: str
) -> None:
    values = np.zeros(SHAPE, np.float32)
    values[1:3, 2:5, 1:4] = 1
    scan = save(np.zeros(SHAPE, np.float32), tmp_path / "scan.nii.gz", order, flips)
    label = save(values, tmp_path / "label.nii.gz", order, flips)
    items = [{"image": str(scan), "label": str(label)}]
    pred = segment(items, ("image", "label"), tmp_path / "out", plane=plane, prompt_source="truth")[0]["pred"]
    np.testing.assert_array_equal(pred[0].numpy(), values)


def test_a_batch_keeps_its_images_prompts_apart(tmp_path: Path) -> None:
    values = np.random.rand(3, *SHAPE).astype(np.float32)
    paths = [str(save(one, tmp_path / f"{i}.nii.gz", (0, 1, 2), (1, 1, 1))) for i, one in enumerate(values)]
    asked: list[dict[str, Any]] = [{"foreground": [[1, 1, 1]]}, {}, {"foreground": [], "roi": [0, 1, 0, 1, 2, 4]}]
    items = [
        {"image": path, "case": f"c{i}", **request} for i, (path, request) in enumerate(zip(paths, asked, strict=True))
    ]
    results = segment(items, ("image",), tmp_path / "together")
    for number, (item, result) in enumerate(zip(items, results, strict=True)):
        alone = segment([item], ("image",), tmp_path / "alone")[0]
        assert torch.equal(result["pred"], alone["pred"])
        assert result["pred"].meta["prompts"] == alone["pred"].meta["prompts"]
        assert result["result"]["prompts"]["slices"] == slices_of(alone["pred"])
        saved = json.loads((tmp_path / "together" / f"c{number}_prompts.json").read_text(encoding="utf-8"))
        assert saved == {"case": f"c{number}", **result["result"]["prompts"]}
        assert list(saved) == ["case", "plane", "prompt_source", "slices"]
    prompts = [[entry["prompt"] for entry in slices_of(result["pred"])] for result in results]
    assert prompts == [["self", "points", "self", "self", "self"], ["self"] * 5, ["self", "self", "box", "box", "box"]]


def test_a_picture_of_a_file(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "photo.png")
    for request, expected in (
        ({"foreground": [[7, 2]]}, [[7, 2]]),
        ({"points": [[7, 2, 0], [1, 1, 0]], "point_labels": [1, 0]}, [[7, 2]]),
        ({"box": [8, 5, 7, 5]}, [[7, 5], [8, 5]]),
        ({"roi": [7, 8, 5, 5, 0, 0]}, [[7, 5], [8, 5]]),
    ):
        result = segment([{"image": str(tmp_path / "photo.png"), **request}], ("image",), tmp_path / "out")[0]
        assert result["pred"].nonzero().tolist() == expected
    saved = json.loads((tmp_path / "out" / "photo_prompts.json").read_text(encoding="utf-8"))
    assert saved["slices"] == [{"index": 0, "prompt": "box", "box": [7, 5, 8, 5]}]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_click_in_an_itk_file_counts_columns_rows_and_slices(tmp_path: Path, suffix: str) -> None:
    scan = SimpleITK.Image([5, 6, 4], SimpleITK.sitkFloat32)
    scan.SetSpacing([0.7, 1.3, 3.1])
    scan.SetDirection(Rotation.from_euler("xyz", [160, 10, -80], degrees=True).as_matrix().flatten().tolist())
    SimpleITK.WriteImage(scan, str(tmp_path / f"scan{suffix}"))
    item = {"image": str(tmp_path / f"scan{suffix}"), "foreground": [[4, 1, 2]]}
    assert segment([item], ("image",), tmp_path / "out")[0]["pred"][0].nonzero().tolist() == [[4, 1, 2]]
    labels = SimpleITK.ReadImage(str(tmp_path / "out" / "scan.nii.gz"))
    assert labels[4, 1, 2] == 1


def test_a_click_in_a_dicom_series_counts_columns_rows_and_slices(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    for index in range(4):
        piece = SimpleITK.Image([5, 6, 1], SimpleITK.sitkInt16)
        tags = {"0008|0060": "MR", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0020|0013": str(index)}
        tags |= {"0020|0032": f"-10.0\\20.0\\{2.5 * index}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in {**tags, "0008|0018": f"1.2.3.4.{index + 1}"}.items():
            piece.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / "series" / f"{index}.dcm"))
        writer.Execute(piece)
    item = {"image": str(tmp_path / "series"), "foreground": [[4, 1, 3]]}
    assert segment([item], ("image",), tmp_path / "out")[0]["pred"][0].nonzero().tolist() == [[4, 1, 3]]
    labels = SimpleITK.ReadImage(str(tmp_path / "out" / "series.nii.gz"))
    assert labels[4, 1, 3] == 1


def test_a_flat_file_has_no_place_in_space(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((6, 9), np.float32), np.diag([-2.0, -3.0, 1.0, 1.0])), tmp_path / "flat.nii.gz")
    item = {"image": str(tmp_path / "flat.nii.gz"), "foreground": [[5, 7]]}
    assert segment([item], ("image",), tmp_path / "out")[0]["pred"].nonzero().tolist() == [[5, 7]]

# SPDX-License-Identifier: Apache-2.0
"""Reading, turning, segmenting, turning back and writing: the result lies on the source, voxel by voxel."""

from __future__ import annotations

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
from monai_ext.inferers import SliceWiseInferer
from monai_ext.transforms import CheckScand, LoadScand, SaveLabelMapd, ScaleScand

ORIENTATIONS = list(product(permutations(range(3)), product([1, -1], repeat=3)))
SPACING = np.array([0.7, 1.3, 3.1])


def segment(path: Path, output_dir: Path, mode: str = "none", channels: int | None = None, **inferer: Any) -> Path:
    """Threshold at 0.5, by the transforms of an inference config, through a loader as an evaluator does."""
    before = Compose([
        LoadScand(keys=["image"]),
        CheckScand(keys=["image"], in_channels=channels),
        Orientationd(keys=["image"], axcodes="RAS", labels=None),
        ScaleScand(keys=["image"], mode=mode),
    ])  # fmt: skip
    after = Compose([
        Invertd(keys=["pred"], transform=before, orig_keys=["image"], nearest_interp=True),
        SaveLabelMapd(keys=["pred"], output_dir=output_dir, output_postfix="seg"),
    ])  # fmt: skip
    batch = next(iter(DataLoader(ScanDataset([{"image": str(path), "case": "one"}], before), batch_size=1)))
    own = batch["image"].shape[1] * inferer.get("slice_context", 0)  # behind the channels of the slices below
    batch["pred"] = SliceWiseInferer(**inferer)(batch["image"], lambda slices: slices[:, own : own + 1] - 0.5)
    return Path(after(decollate_batch(batch)[0])["pred"].meta["saved_to"])


def affine_of(order: tuple[int, ...], flips: tuple[int, ...], rotation: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[list(order), range(3)] = np.array(flips) * SPACING
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ affine[:3, :3]
    affine[:3, 3] = 10, -20, 30
    return affine


def save(values: np.ndarray, affine: np.ndarray, path: Path) -> nib.Nifti1Image:
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    nib.save(image, path)
    return nib.load(path)


def check(result: Path, source: nib.Nifti1Image, values: np.ndarray) -> None:
    labels = nib.load(result)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), (values > 0.5).astype(np.uint8))
    np.testing.assert_array_equal(labels.affine, source.affine)
    assert labels.get_data_dtype() == np.uint8
    for form in ("qform_code", "sform_code", "xyzt_units"):
        assert labels.header[form] == source.header[form]
    np.testing.assert_array_equal(labels.header.get_qform(), source.header.get_qform())
    np.testing.assert_array_equal(labels.header.get_zooms(), source.header.get_zooms())


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_axis_order_and_flip(tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]) -> None:
    values = np.random.rand(4, 6, 5).astype(np.float32)
    source = save(values, affine_of(order, flips), tmp_path / "scan.nii.gz")
    result = segment(tmp_path / "scan.nii.gz", tmp_path / "out", plane="coronal", batch_size=2)
    assert result == tmp_path / "out" / "one_seg.nii.gz"
    check(result, source, values)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[5::11])
def test_oblique_scans_in_every_plane(tmp_path: Path, plane: str, order: tuple, flips: tuple) -> None:
    values = np.random.rand(4, 6, 5).astype(np.float32)
    rotation = Rotation.from_euler("xyz", [21, -14, 33], degrees=True).as_matrix()
    source = save(values, affine_of(order, flips, rotation), tmp_path / "scan.nii")
    check(segment(tmp_path / "scan.nii", tmp_path, plane=plane, slice_context=1), source, values)


def test_a_file_without_any_position(tmp_path: Path) -> None:
    values = np.random.rand(4, 6, 5).astype(np.float32)
    nib.save(nib.Nifti1Image(values, None), tmp_path / "scan.nii.gz")
    check(segment(tmp_path / "scan.nii.gz", tmp_path), nib.load(tmp_path / "scan.nii.gz"), values)


def test_several_modalities_in_one_file(tmp_path: Path) -> None:
    values = np.random.rand(4, 6, 5, 4).astype(np.float32)
    source = save(values, affine_of((2, 0, 1), (1, -1, 1)), tmp_path / "scan.nii.gz")
    labels = nib.load(segment(tmp_path / "scan.nii.gz", tmp_path, channels=4))
    np.testing.assert_array_equal(np.asarray(labels.dataobj), values[..., 0] > 0.5)
    np.testing.assert_array_equal(labels.affine, source.affine)


def test_nifti_2_and_a_flat_nifti(tmp_path: Path) -> None:
    values = np.random.rand(4, 6, 5).astype(np.float32)
    nib.save(nib.Nifti2Image(values, affine_of((1, 0, 2), (1, 1, -1))), tmp_path / "two.nii.gz")
    assert isinstance(nib.load(segment(tmp_path / "two.nii.gz", tmp_path)), nib.Nifti2Image)
    flat = save(values[:, :, 0], affine_of((1, 2, 0), (1, 1, -1)), tmp_path / "flat.nii.gz")
    check(segment(tmp_path / "flat.nii.gz", tmp_path), flat, values[:, :, 0])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_land_in_the_same_place_in_the_world(tmp_path: Path, suffix: str) -> None:
    values = np.random.rand(5, 6, 4).astype(np.float32)  # (z, y, x)
    scan = SimpleITK.GetImageFromArray(values)
    scan.SetSpacing(SPACING.tolist())
    scan.SetOrigin([3.0, -4.0, 5.0])
    scan.SetDirection(Rotation.from_euler("xyz", [160, 10, -80], degrees=True).as_matrix().flatten().tolist())
    SimpleITK.WriteImage(scan, str(tmp_path / f"scan{suffix}"))
    labels = SimpleITK.ReadImage(str(segment(tmp_path / f"scan{suffix}", tmp_path)))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels), values > 0.5)
    for method in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(labels, method)(), getattr(scan, method)(), atol=1e-5)


def write_series(folder: Path, values: np.ndarray, uid: str = "1.2.3.4") -> None:
    """Write (z, y, x) 16-bit values as a DICOM series, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, plane in enumerate(values):
        piece = SimpleITK.GetImageFromArray(plane[None].astype(np.int16))
        piece.SetSpacing([0.8, 0.9, 2.5])
        position = f"-10.0\\20.0\\{2.5 * index}"
        tags = {"0008|0060": "MR", "0020|000e": uid, "0020|000d": "1.2.3", "0020|0013": str(index)}
        tags |= {"0020|0032": position, "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"{uid}.{index + 1}"}
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}-{index}.dcm"))
        writer.Execute(piece)


def test_a_folder_of_dicom_files(tmp_path: Path) -> None:
    values = np.random.randint(0, 2, (4, 6, 5))
    write_series(tmp_path / "series", values)
    labels = SimpleITK.ReadImage(str(segment(tmp_path / "series", tmp_path / "out")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels), values)
    np.testing.assert_allclose(labels.GetSpacing(), [0.8, 0.9, 2.5], atol=1e-5)
    np.testing.assert_allclose(labels.GetOrigin(), [-10, 20, 0], atol=1e-5)


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (64, 33)])
@pytest.mark.parametrize(("suffix", "channels"), [(".png", 1), (".png", 3), (".png", 4), (".tif", 3), (".bmp", 1)])
def test_pictures_keep_their_pixels(tmp_path: Path, size: tuple[int, int], suffix: str, channels: int) -> None:
    values = np.random.randint(0, 256, (*size, channels), dtype=np.uint8)  # rows first, as in the file
    Image.fromarray(values.squeeze(-1) if channels == 1 else values).save(tmp_path / f"photo{suffix}")
    result = segment(tmp_path / f"photo{suffix}", tmp_path, mode="unit")
    assert result.name == "one_seg.png"
    np.testing.assert_array_equal(np.asarray(Image.open(result)), values[..., 0] > 127.5)


def test_a_jpeg_keeps_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(np.random.randint(0, 256, (9, 13, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    seen = np.asarray(Image.open(tmp_path / "photo.jpg"))[..., 0] / np.float32(255)
    labels = np.asarray(Image.open(segment(tmp_path / "photo.jpg", tmp_path, mode="unit")))
    np.testing.assert_array_equal(labels, seen > 0.5)


def test_the_network_sees_a_picture_as_it_lies_in_the_file(tmp_path: Path) -> None:
    values = np.random.randint(0, 256, (6, 4, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    image = LoadScand(keys=["image"])({"image": str(tmp_path / "photo.png")})["image"]
    seen = []
    SliceWiseInferer()(image[None], lambda slices: seen.append(slices) or slices)
    np.testing.assert_array_equal(seen[0][0].permute(1, 2, 0).numpy(), values)
    assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64))

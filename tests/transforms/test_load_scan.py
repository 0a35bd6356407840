# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_ext.errors import InputError, find_input_error
from monai_ext.scan_files import is_raster, stem_of
from monai_ext.transforms import LoadScand

SHAPE = (20, 21, 22)


def load(path: Path | list[Path]) -> MetaTensor:
    paths = [str(p) for p in path] if isinstance(path, list) else str(path)
    return LoadScand(keys=["image"])({"image": paths})["image"]


def nifti(path: Path, shape: tuple[int, ...] = SHAPE, affine: np.ndarray | None = None) -> np.ndarray:
    values = np.random.rand(*shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([1, 2, 3, 1]) if affine is None else affine), path)
    return values


def test_a_volume_and_what_is_remembered_of_it(tmp_path: Path) -> None:
    values = nifti(tmp_path / "a.nii.gz")
    image = load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image[0].numpy(), values)
    assert image.dtype == torch.float32
    assert image.meta["filename_or_obj"] == str(tmp_path / "a.nii.gz")
    assert tuple(image.meta["source_shape"]) == SHAPE
    assert torch.equal(image.meta["source_affine"], torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64)))


def test_it_is_a_load_image_for_those_who_look_for_one(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    loader = LoadScand(keys=["image"])
    assert isinstance(loader, LoadImaged)
    loader._loader.image_only = False  # as MONAI Label does
    item = loader({"image": str(tmp_path / "a.nii.gz")})
    assert tuple(item["image_meta_dict"]["spatial_shape"]) == SHAPE
    assert item["image"].shape == (1, *SHAPE)


def test_modalities_are_stacked_in_order(tmp_path: Path) -> None:
    values = [nifti(tmp_path / f"{i}.nii.gz") for i in range(3)]
    np.testing.assert_array_equal(load([tmp_path / f"{i}.nii.gz" for i in range(3)]).numpy(), values)


@pytest.mark.parametrize("affine", [np.diag([1, 2, 3, 1]), np.diag([5, 2, 3, 1])])
def test_modalities_that_do_not_fit_are_refused(tmp_path: Path, affine: np.ndarray) -> None:
    nifti(tmp_path / "a.nii.gz")
    nifti(tmp_path / "b.nii.gz", shape=SHAPE if affine[0, 0] == 5 else (20, 21, 23), affine=affine)
    with pytest.raises(InputError, match=r"a.nii.gz, .*b.nii.gz: cannot be read"):
        load([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"])


def test_a_missing_file_and_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b.nii.gz: no such file"):
        load(tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match=r"a.nii.gz: the data list gives no 'label'"):
        LoadScand(keys=["label"])({"image": "a.nii.gz"})
    assert LoadScand(keys=["label"], allow_missing_keys=True)({"image": "a.nii.gz"}) == {"image": "a.nii.gz"}


def picture(path: Path) -> None:
    Image.fromarray(np.random.randint(0, 256, (64, 65, 3), dtype=np.uint8)).save(path)


def itk_volume(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.random.rand(*SHAPE).astype(np.float32)), str(path))


WRITERS = {
    ".nii.gz": nifti, ".nii": nifti, ".nrrd": itk_volume, ".mha": itk_volume,
    ".png": picture, ".jpg": picture, ".tif": picture, ".bmp": picture,
}  # fmt: skip


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kept", [0, 7, 0.6])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"scan{suffix}"
    WRITERS[suffix](path)
    load(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else len(content) * kept)])
    with pytest.raises(InputError, match=rf"scan\{suffix}: (the file is empty|cannot be read)") as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".png", ".mha", ".xyz"])
def test_a_file_of_something_else_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(gzip.compress(b"hello" * 100) if suffix == ".nii.gz" else b"hello" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


def test_the_reason_survives_a_chain_of_transforms(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        Compose([LoadScand(keys=["image"])])({"image": str(tmp_path / "a.nii")})
    assert "no such file" in str(find_input_error(error.value))


@pytest.mark.parametrize(
    ("mode", "channels", "white"),
    [("L", 1, 255), ("RGB", 3, 255), ("RGBA", 3, 255), ("LA", 1, 255), ("CMYK", 3, 255), ("1", 1, 255), ("P", 1, 255)],
)
def test_modes_of_pictures(tmp_path: Path, mode: str, channels: int, white: float) -> None:
    source = Image.fromarray(np.random.randint(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    source.save(path)
    image = load(path)
    assert image.shape == (channels, 7, 5)
    assert image.meta["white"] == white
    assert bool(image.meta["palette"]) == (mode == "P")


def test_sixteen_bits_are_read_and_known(tmp_path: Path) -> None:
    values = np.random.randint(0, 65536, (5, 7), dtype=np.uint16)
    for suffix in (".png", ".tif"):
        Image.fromarray(values).save(tmp_path / f"a{suffix}")
        image = load(tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(image[0].numpy().T, values)
        assert image.meta["white"] == 65535


def test_several_pages_or_series_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.zeros((4, 5), dtype=np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"a.tif: 3 pages"):
        load(tmp_path / "a.tif")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none: 0 DICOM series in the folder, wanted 1"):
        load(tmp_path / "none")


def test_two_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.3.4", "1.2.3.5"):
        piece = SimpleITK.GetImageFromArray(np.zeros((1, 4, 5), dtype=np.int16))
        for tag, value in {"0020|000e": uid, "0020|000d": "1.2.3", "0008|0018": f"{uid}.1", "0008|0060": "MR"}.items():
            piece.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{uid}.dcm"))
        writer.Execute(piece)
    with pytest.raises(InputError, match="2 DICOM series"):
        load(tmp_path)


def test_five_axes_are_refused(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz", shape=(4, 4, 4, 2, 3))
    with pytest.raises(InputError, match=r"a\.nii\.gz: 4 axes besides the channels"):
        load(tmp_path / "a.nii.gz")


def test_names_of_files() -> None:
    assert [stem_of(name) for name in ("a/b.nii.gz", "b.NII", "c.d.png", "folder")] == ["b", "b", "c.d", "folder"]
    assert is_raster("a.PNG")
    assert not is_raster("a.nii.gz")

# SPDX-License-Identifier: Apache-2.0
"""A folder with healthy cases and one case of each kind of broken data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (12, 14, 10)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1]])
SHEARED = AFFINE @ np.array([[1, 0.05, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def an_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def a_label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:8, 3:9, 2:8] = 1
    label[5:8, 5:9, 4:8] = 2
    return label


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 0)
    nib.save(image, path)


@dataclass(frozen=True)
class Seeded:
    """The folder, and (code, file) of everything that is wrong in it."""

    root: Path
    expected: frozenset[tuple[str, str]]


def write_datalist(root: Path, sections: dict[str, list[dict[str, str]]]) -> None:
    content = {"name": "seeded", "labels": {"0": "background", "1": "organ", "2": "lesion"}, **sections}
    (root / "datalist.json").write_text(json.dumps(content), encoding="utf-8")


def add_case(root: Path, name: str, seed: int) -> dict[str, str]:
    write_nifti(root / f"images/{name}.nii.gz", an_image(seed))
    write_nifti(root / f"labels/{name}.nii.gz", a_label())
    return {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", "subject": name}


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """Three good cases with a data list."""
    root = tmp_path / "healthy"
    items = [add_case(root, name, seed) for seed, name in enumerate(("good1", "good2", "good3"))]
    write_datalist(root, {"training": items[:1], "validation": items[1:2], "test": items[2:]})
    return root


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    """Two good cases and the twelve kinds."""
    root = tmp_path / "seeded"
    training = [add_case(root, name, seed) for seed, name in enumerate(("good", *BREAKERS))]
    for name, (breaker, _) in BREAKERS.items():
        breaker(root / f"images/{name}.nii.gz", root / f"labels/{name}.nii.gz")
    shared = add_case(root, "leaky_test", 91)
    training.append({**add_case(root, "leaky_train", 90), "subject": "leaky_test"})
    add_case(root, "lonely", 92)
    (root / "labels/lonely.nii.gz").unlink()
    write_datalist(root, {"training": training, "validation": [add_case(root, "good_too", 93)], "test": [shared]})
    expected = {(code, file) for _, found in BREAKERS.values() for code, file in found}
    expected |= {("duplicate_subject", "images/leaky_train.nii.gz"), ("unpaired_file", "images/lonely.nii.gz")}
    return Seeded(root, frozenset(expected))


def _truncate(image: Path, label: Path) -> None:
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def _make_nan(image: Path, label: Path) -> None:
    array = an_image(50)
    array[0, 0, :5], array[1, 1, 1] = np.nan, np.inf
    write_nifti(image, array)


def _move_label(image: Path, label: Path) -> None:
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    finer[:3, 3] += AFFINE[:3, :3] @ np.full(3, -0.25)  # the same block of space in half the voxels
    write_nifti(label, np.kron(a_label(), np.ones((2, 2, 2), np.uint8)), finer)


def _shear(image: Path, label: Path) -> None:
    write_nifti(image, an_image(51), SHEARED)
    write_nifti(label, a_label(), SHEARED)


def _conflict(image: Path, label: Path) -> None:
    nifti = nib.Nifti1Image(an_image(52), AFFINE)
    other = AFFINE.copy()
    other[:3, 3] += (3, 4, 0)
    nifti.set_sform(AFFINE, 1)
    nifti.set_qform(other, 1)
    nib.save(nifti, image)


def _empty(image: Path, label: Path) -> None:
    write_nifti(label, np.zeros(SHAPE, np.uint8))


def _out_of_range(image: Path, label: Path) -> None:
    array = a_label()
    array[0, 0, :4] = 7
    write_nifti(label, array)


def _singleton(image: Path, label: Path) -> None:
    write_nifti(image, an_image(53)[..., None])


def _series(image: Path, label: Path) -> None:
    write_nifti(image, np.stack([an_image(54), an_image(55)], axis=-1))


def _float_label(image: Path, label: Path) -> None:
    write_nifti(label, a_label().astype(np.float64))


def _rgb(image: Path, label: Path) -> None:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    write_nifti(image, np.zeros(SHAPE, dtype))


def _zero_bytes(image: Path, label: Path) -> None:
    label.write_bytes(b"")


Breaker = Callable[[Path, Path], None]
BREAKERS: dict[str, tuple[Breaker, list[tuple[str, str]]]] = {
    "truncated": (_truncate, [("truncated", "images/truncated.nii.gz")]),
    "nan": (_make_nan, [("nan_voxels", "images/nan.nii.gz")]),
    "moved": (_move_label, [("grid_mismatch", "labels/moved.nii.gz")]),
    "sheared": (
        _shear,
        [("non_orthonormal", "images/sheared.nii.gz"), ("non_orthonormal", "labels/sheared.nii.gz")],
    ),
    "conflict": (_conflict, [("qform_sform_conflict", "images/conflict.nii.gz")]),
    "empty": (_empty, [("empty_label", "labels/empty.nii.gz")]),
    "range": (_out_of_range, [("label_out_of_range", "labels/range.nii.gz")]),
    "singleton": (_singleton, [("four_dimensional", "images/singleton.nii.gz")]),
    "series": (_series, [("four_dimensional", "images/series.nii.gz")]),
    "float": (_float_label, [("wrong_dtype", "labels/float.nii.gz")]),
    "rgb": (_rgb, [("wrong_dtype", "images/rgb.nii.gz")]),
    "zero": (_zero_bytes, [("zero_byte", "labels/zero.nii.gz")]),
}


def unpack(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())

# SPDX-License-Identifier: Apache-2.0
"""The pairs of lesions of DLT in the scans of DeepLesion, the benchmark of lesion tracking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from monai_ext.data._sections import existing, some
from monai_ext.data.lymph_node_scans import lymph_node_scans
from monai_ext.errors import InputError

NEEDED = (
    "source", "target", "source center", "target center", "target box", "target spacing", "target recist diameter",
)  # fmt: skip
Array = NDArray[np.float64]


def deep_lesion_pairs(
    dataset_dir: str | Path,
    section: str = "test",
    pairs: str | Path | None = None,
    val_fraction: float = 0.05,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the pairs of Deep Lesion Tracker (Cai et al. 2021, https://arxiv.org/abs/2012.04872) for matching.

    ``pairs`` is ``test.json`` (or ``valid.json``) of https://github.com/JimmyCai91/DLT, ``dataset_dir`` the folder of
    ``000004_02_01_007-019.nii.gz`` and so on, which DeepLesion's own script ``DL_save_nifti.py`` writes. Centres and
    boxes are in voxels of DeepLesion's slices, (column, row, slice); the script stores them as (row, column, slice),
    with an affine that says so. Diameters are in pixels, whatever the file's description says, and the radius is half
    of the longer one, as in the published evaluation.

    Without ``pairs``, when training on NIH's lymph node scans, the scans of `lymph_node_scans` that validate are
    returned.

    Args:
        dataset_dir: see above.
        section: of the lymph node scans; with ``pairs`` it does not matter.
        pairs: the list of pairs.
        val_fraction: as in `lymph_node_scans`.
        seed: as in `lymph_node_scans`.

    Returns:
        Items as `load_pair_list` gives them, with places in place of files: ``points`` and ``truth`` (1, 3) RAS mm,
        ``radius`` (1,) in mm and ``boxes`` (1, 2, 3) RAS mm.

    Raises:
        InputError: a file is missing, or the list is another one.

    Example:
        >>> deep_lesion_pairs("/data/Images_nifti", pairs="/data/DLT/data/test.json")[0]["case"]  # doctest: +SKIP
        '0001'
    """
    if pairs is None:
        return lymph_node_scans(dataset_dir, section, val_fraction, seed)
    root, file = existing(dataset_dir), existing(pairs)
    entries = _entries(file)
    names = sorted({str(entry[key]) for entry in entries.values() for key in ("source", "target")})
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{root}: {len(missing)} of the {len(names)} scans of {file.name} are missing: {some(missing)}; write them "
            "by DeepLesion's DL_save_nifti.py."
        )
    affines = {name: _affine_of(root / name) for name in names}
    return [_item(name, entry, root, affines) for name, entry in entries.items()]


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not a JSON file ({error}); fetch DLT's data again.") from error
    if isinstance(content, list):
        content = {f"{number:04d}": entry for number, entry in enumerate(content, start=1)}
    known = isinstance(content, dict) and content and all(isinstance(entry, dict) for entry in content.values())
    lacking = [key for key in NEEDED if not known or any(key not in entry for entry in content.values())]
    if lacking:
        raise InputError(f"{file}: no list of DLT's pairs, which have {', '.join(map(repr, lacking))}; name test.json.")
    return content


def _affine_of(path: Path) -> Array:
    try:
        affine = np.asarray(nib.load(path).affine, dtype=np.float64)  # type: ignore[attr-defined]
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({error}); write it by DL_save_nifti.py again.") from error
    return affine[:, [1, 0, 2, 3]]  # from (column, row, slice)


def _item(name: str, entry: dict[str, Any], root: Path, affines: dict[str, Array]) -> dict[str, Any]:
    fixed, moving = affines[entry["source"]], affines[entry["target"]]
    box = np.asarray(entry["target box"], dtype=np.float64)
    corners = _to_world(moving, np.stack([box[:3], box[:3] + box[3:]]))
    radius = max(entry["target recist diameter"]) / 2 * float(entry["target spacing"][0])
    return {
        "image": str(root / entry["target"]),
        "reference": str(root / entry["source"]),
        "points": torch.from_numpy(_to_world(fixed, np.asarray([entry["source center"]], dtype=np.float64))),
        "truth": torch.from_numpy(_to_world(moving, np.asarray([entry["target center"]], dtype=np.float64))),
        "point_names": ["lesion"],
        "radius": torch.tensor([radius], dtype=torch.float64),
        "boxes": torch.from_numpy(np.stack([corners.min(axis=0), corners.max(axis=0)])[None]),
        "case": str(name),
        "subject": str(entry["source"]).split("_", 1)[0],
        "site": "",
    }


def _to_world(affine: Array, places: Array) -> Array:
    return places @ affine[:3, :3].T + affine[:3, 3]

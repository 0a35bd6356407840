# SPDX-License-Identifier: Apache-2.0
"""Small data sets, made up, in the folders that recipes are meant for."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

POLYPS = ("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir")
LAYOUTS = {
    "polyps": ("TrainDataset", "TestDataset/{}", POLYPS),
    "camouflage": ("TrainDataset", "TestDataset/{}", ("CAMO", "CHAMELEON", "COD10K", "NC4K")),
    "salient": ("DUTS-TR", "{}", ("DUTS-TE", "DUT-OMRON", "HKU-IS", "PASCAL-S", "ECSSD")),
}  # fmt: skip


def pictures(folder: Path, names: tuple[str, str], count: int, empty: int = 0) -> None:
    """Noise with a bright disc in it, and the disc as a mask of 0 and 255; the first ``empty`` have none."""
    generator = np.random.default_rng(count)
    for name in names:
        (folder / name).mkdir(parents=True)
    for number in range(count):
        rows, columns = np.mgrid[:30, :40]
        disc = (rows - 14) ** 2 + (columns - 12 - 3 * number) ** 2 < 49
        mask = np.where(disc & (number >= empty), 255, 0).astype(np.uint8)
        pixels = generator.integers(0, 120, (30, 40, 3)) + mask[..., None] // 2
        Image.fromarray(pixels.astype(np.uint8)).save(folder / names[0] / f"{number}.jpg")
        Image.fromarray(mask).save(folder / names[1] / f"{number}.png")


def split_of(task: str, root: Path) -> Path:
    """Write a tiny data set in the folders in which the task's is distributed."""
    training, test, sets = LAYOUTS[task]
    names = {"polyps": ("image", "masks"), "camouflage": ("Imgs", "GT"), "salient": ("DUTS-TR-Image", "DUTS-TR-Mask")}
    pictures(root / training, names[task], 6)
    for name in sets:
        pair = ("images", "masks") if task == "polyps" else ("Imgs", "GT")
        pictures(root / test.format(name), pair, 2, empty=1 if name == sets[0] else 0)
    return root


def volumes(folder: Path, modalities: int, values: tuple[int, ...]) -> Path:
    """Three subjects: a box for each label value in noise, zero around it, as skull-stripped scans have it."""
    generator, listed = np.random.default_rng(0), {}
    folder.mkdir()
    for section in ("training", "validation", "test"):
        label = np.zeros((20, 24, 6), np.uint8)
        for number, value in enumerate(values[1:]):
            label[4:16, 4 + 5 * number : 8 + 5 * number, 1:5] = value
        inside = np.zeros(label.shape)
        inside[2:18, 2:22] = 1
        paths = [f"{section}_{number}.nii.gz" for number in range(modalities)]
        for number, path in enumerate(paths):
            voxels = inside * (300 + 40 * number + 60.0 * label + generator.normal(0, 20, label.shape))
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([-1.0, 1, 2, 1])), folder / path)
        nib.save(nib.Nifti1Image(label, np.diag([-1.0, 1, 2, 1])), folder / f"{section}_label.nii.gz")
        image = paths if modalities > 1 else paths[0]
        listed[section] = [{"image": image, "label": f"{section}_label.nii.gz", "subject": section}]
    (folder / "datalist.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder

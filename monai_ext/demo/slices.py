# SPDX-License-Identifier: Apache-2.0
"""Axial slices as pictures: paired 8-bit PNG files of images and class indices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_ext.demo.datalist import Item, make_datalist, slab_subject
from monai_ext.demo.grid import VoxelGrid
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.demo.slabs import SLABS


def write_slices(folder: DemoFolder, image: NDArray[np.uint8], label: NDArray[np.uint8], grid: VoxelGrid) -> None:
    """Write ``slices/images``, ``slices/labels`` and ``slices/datalist.json``.

    Args:
        folder: where to.
        image: (X, Y, Z) grey values.
        label: (X, Y, Z) class indices.
        grid: of both.
    """
    items: dict[str, list[Item]] = {}
    for slab in SLABS:
        chosen = slab.slices(grid)
        items[slab.part] = [_write_slice(folder, image, label, k, slab.part) for k in range(chosen.start, chosen.stop)]
    description = (
        "Axial slices of the MNI152 T1 average as 8-bit PNG; the number in a file name is the slice of "
        "brain/image.nii.gz, anterior is up and the subject's left is on the left."
    )
    folder.write_json("slices/datalist.json", make_datalist("MNI152 tissue slices", description, items, "../"))


def as_picture(volume: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
    """Return an axial slice (X, Y) as rows and columns: anterior up, the subject's left on the left."""
    return np.ascontiguousarray(volume[:, ::-1, index].T)


def _write_slice(folder: DemoFolder, image: NDArray[np.uint8], label: NDArray[np.uint8], index: int, part: str) -> Item:
    item = {"image": f"images/axial_{index:03d}.png", "label": f"labels/axial_{index:03d}.png"}
    folder.write_png(f"slices/{item['image']}", as_picture(image, index))
    folder.write_png(f"slices/{item['label']}", as_picture(label, index))
    return {**item, "subject": slab_subject(part)}

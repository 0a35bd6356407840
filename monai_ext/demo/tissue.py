# SPDX-License-Identifier: Apache-2.0
"""Brain tissue against everything else: the labels of the brain and its slabs for methods that find one object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_ext.demo.datalist import Item, make_datalist
from monai_ext.demo.grid import VoxelGrid
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.demo.slabs import SLABS

DATALIST = "datalist_tissue.json"
TISSUE_NAMES = ("background", "brain tissue")

_GREY, _WHITE = 2, 3
_RULE = "1 (brain tissue) where label.nii.gz has 2 (grey matter) or 3 (white matter), else 0."


def write_tissue(
    folder: DemoFolder, label: NDArray[np.uint8], grid: VoxelGrid, slab_items: dict[str, list[Item]]
) -> None:
    """Write ``brain/tissue.nii.gz``, a ``*_tissue.nii.gz`` beside each slab, and ``datalist_tissue.json``.

    Args:
        folder: where to.
        label: (X, Y, Z) class indices of the whole brain.
        grid: its grid.
        slab_items: per part the items of ``datalist.json``; their images are used again.
    """
    tissue = brain_tissue(label)
    folder.write_nifti("brain/tissue.nii.gz", tissue, grid)
    items: dict[str, list[Item]] = {}
    for slab in SLABS:
        box, name = slab.box(grid), f"slabs/{slab.part}_tissue.nii.gz"
        folder.write_nifti(name, tissue[box], grid.crop(box))
        items[slab.part] = [{**item, "label": name} for item in slab_items[slab.part]]
    description = "The slabs of datalist.json with one object to find: brain tissue, which is grey and white matter."
    content = make_datalist("MNI152 brain tissue", description, items, class_names=TISSUE_NAMES, label_rule=_RULE)
    folder.write_json(DATALIST, content)


def brain_tissue(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where the label is grey or white matter, else 0.

    Example:
        >>> brain_tissue(np.arange(4, dtype=np.uint8))
        array([0, 0, 1, 1], dtype=uint8)
    """
    return ((label == _GREY) | (label == _WHITE)).astype(np.uint8)

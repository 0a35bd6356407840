# SPDX-License-Identifier: Apache-2.0
"""What docs/demo_data.md says about the demo data is so."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ext.demo.mni_brain import load_brain
from monai_ext.demo.sites import SITES
from monai_ext.demo.slabs import SLABS

PAGE = (Path(__file__).parents[2] / "docs" / "demo_data.md").read_text(encoding="utf-8")


def rows(first_cell: str) -> list[list[str]]:
    """Return the cells of all table rows that begin with this cell."""
    found = re.findall(rf"^\| {re.escape(first_cell)} \|(.*)\|$", PAGE, flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def test_the_table_of_sites_holds_their_numbers() -> None:
    for site in SITES:
        voxel = " x ".join(f"{size:g}" for size in site.spacing)
        numbers = [f"{site.bias:g}", str(site.bias_degree), f"{site.noise:g}", str(site.scale)]
        assert rows(site.name) == [[voxel, *numbers, site.description]]


def test_the_table_of_parts_holds_their_slices_and_voxels() -> None:
    brain = load_brain()
    label, heights = brain.label(), brain.grid.centres(2)
    for slab in SLABS:
        chosen = slab.slices(brain.grid)
        first, last = chosen.start, chosen.stop - 1
        counts = np.bincount(label[:, :, chosen].ravel(), minlength=4)[1:]
        slices = f"{first} to {last} ({last - first + 1})"
        centres = f"{heights[first]:g} to {heights[last]:g}"
        assert rows(slab.part) == [[slices, centres, *map(str, counts)]]
    assert rows("whole brain")[0][2:] == [str(count) for count in np.bincount(label.ravel())[1:]]


def test_the_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert nib.load(Path(str(names["folder"])) / "slabs" / "test_image.nii.gz").shape == (48, 48, 4)


def test_the_dice_of_a_table_of_grey_values_is_as_stated() -> None:
    brain = load_brain()
    image, label = np.rint(brain.t1 * 255).astype(np.uint8), brain.label()
    boxes = {slab.part: slab.box(brain.grid) for slab in SLABS}
    training, test = boxes["training"], boxes["test"]
    counts = [np.bincount(image[training][label[training] == value], minlength=256) for value in range(4)]
    predicted = np.argmax(counts, axis=0)[image[test]]
    dice = []
    for value in (2, 3):
        found, true = predicted == value, label[test] == value
        dice.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    assert f"{dice[0]:.2f} (grey) and {dice[1]:.2f} (white)" in PAGE

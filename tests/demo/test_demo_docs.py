# SPDX-License-Identifier: Apache-2.0
"""What docs/demo_data.md says about the demo data is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from monai_ext.demo import write_demo_data
from monai_ext.demo.affine_pairs import PAIRS
from monai_ext.demo.mni_brain import load_brain
from monai_ext.demo.sites import SITES
from monai_ext.demo.slabs import SLABS
from monai_ext.demo.tissue import brain_tissue

Box = tuple[slice, slice, slice]

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


def test_the_table_of_pairs_holds_their_numbers() -> None:
    for recipe in PAIRS:
        turn, size = f"{recipe.degrees:g} degrees", f"{recipe.size - 1:+.0%}".replace("%", " %")
        voxel = " x ".join(f"{size:g}" for size in recipe.spacing)
        numbers = [f"{recipe.gamma:g}", f"{recipe.noise:g}", str(recipe.scale)]
        assert rows(recipe.name)[0][:-1] == [turn, size, voxel, *numbers]


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
    image, label, training, test = slabs()
    counts = [np.bincount(image[training][label[training] == value], minlength=256) for value in range(4)]
    predicted = np.argmax(counts, axis=0)[image[test]]
    grey, white = (dice(predicted == value, label[test] == value) for value in (2, 3))
    assert f"{grey:.2f} (grey) and {white:.2f} (white)" in PAGE


def test_what_brain_tissue_gets_without_a_network_is_as_stated() -> None:
    image, label, training, test = slabs()
    tissue = brain_tissue(label)
    counts = [np.bincount(image[training][tissue[training] == value], minlength=256) for value in range(2)]
    by_table = dice(np.argmax(counts, axis=0)[image[test]] == 1, tissue[test] == 1)
    whole_brain = dice(image[test] > 0, tissue[test] == 1)
    boxes = np.zeros(tissue[test].shape, dtype=bool)
    for index in range(boxes.shape[2]):
        x, y = np.nonzero(tissue[test][:, :, index])
        boxes[x.min() : x.max() + 1, y.min() : y.max() + 1, index] = True
    text = " ".join(PAGE.split())
    assert f"{by_table:.2f} for brain tissue" in text
    assert f"gives {whole_brain:.2f} there" in text
    assert f"filled, {dice(boxes, tissue[test] == 1):.2f}" in text


def test_the_number_of_files_is_as_stated(tmp_path: Path) -> None:
    write_demo_data(tmp_path, resolution=4)  # only the slices depend on the resolution: a picture and a label each
    files = json.loads((tmp_path / "demo_data.json").read_text(encoding="utf-8"))["files"]
    more_slices = number_of_slices(1) - number_of_slices(4)
    assert f"writes {len(files) + 2 * more_slices} files" in PAGE


def number_of_slices(resolution: int) -> int:
    grid = load_brain(resolution).grid
    return sum(slab.slices(grid).stop - slab.slices(grid).start for slab in SLABS)


def slabs() -> tuple[NDArray, NDArray, Box, Box]:
    """Grey values and labels of the brain, and the boxes of the training and of the test slab."""
    brain = load_brain()
    training, test = (slab.box(brain.grid) for slab in SLABS if slab.part in ("training", "test"))
    return np.rint(brain.t1 * 255).astype(np.uint8), brain.label(), training, test


def dice(found: NDArray, true: NDArray) -> float:
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())

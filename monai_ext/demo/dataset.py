# SPDX-License-Identifier: Apache-2.0
"""All of the demo data, at full size for people and tiny for tests."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from monai_ext import __version__
from monai_ext.demo.datalist import LICENCE_FILE, Item, make_datalist, slab_subject
from monai_ext.demo.followup_pair import FollowupPair, describe_map, make_followup_pair
from monai_ext.demo.grid import VoxelGrid
from monai_ext.demo.mni_brain import CLASS_NAMES, LABEL_RULE, BrainMaps, load_brain, source_record
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.demo.pair_files import write_pairs
from monai_ext.demo.point_pairs import points_as_csv
from monai_ext.demo.preview import Preview
from monai_ext.demo.sites import SITES, SimulatedSite, simulate_site
from monai_ext.demo.slabs import SLABS
from monai_ext.demo.slices import write_slices
from monai_ext.demo.tissue import write_tissue
from monai_ext.errors import InputError

RESOLUTIONS = (1, 2, 4)

_PREVIEW_MM = 18.0
_FIELD_MM = 192.0  # in-plane field of view of the tiny data
_SITE_MARGIN = 4  # voxels around the brain


def write_demo_data(output_dir: str | Path, seed: int = 0, resolution: int = 1) -> dict[str, object]:
    """Write the whole demo data; same seed and resolution, same bytes.

    Args:
        output_dir: a new folder, an empty one, or one that was written by this function.
        seed: fixes bias fields, noise, and the maps and points of all pairs.
        resolution: voxel size in mm of the brain, 1, 2 or 4.

    Returns:
        What ``demo_data.json`` says beside the list of files.

    Raises:
        InputError: a bad folder, seed or resolution.
        ImportError: nilearn is missing.
    """
    if resolution not in RESOLUTIONS or isinstance(resolution, bool):
        raise InputError(f"resolution: must be 1, 2 or 4 (mm), got {resolution!r}; 1 is the original.")
    _check_seed(seed)
    return _write_all(output_dir, seed, load_brain(resolution), {"resolution_mm": resolution})


def write_tiny_dataset(
    output_dir: str | Path, seed: int = 0, size: tuple[int, int, int] = (48, 48, 16)
) -> dict[str, object]:
    """Write the same files from a coarse brain within a second or two, for tests.

    The training slab has exactly ``size`` voxels (about 4 mm each by default); the validation and test slabs have
    the same size in x and y and fewer slices.

    Args:
        output_dir: as in `write_demo_data`.
        seed: as in `write_demo_data`.
        size: voxels of the training slab along x, y and z; at least 16, 16 and 8.

    Returns:
        What ``demo_data.json`` says beside the list of files.

    Example:
        >>> import tempfile
        >>> write_tiny_dataset(tempfile.mkdtemp())["classes"]["2"]
        'grey matter'
    """
    if len(size) != 3 or min(size) < 8 or min(size[:2]) < 16:
        raise InputError(f"size: must be at least (16, 16, 8) voxels, got {size}.")
    _check_seed(seed)
    brain = load_brain(resolution=1)
    brain = brain.crop(brain.box(margin=0))
    training = SLABS[0]
    thickness = (training.upper - training.lower) / size[2]
    low, *_, high = brain.grid.edges(2)
    bottom = training.lower - math.ceil((training.lower - low) / thickness) * thickness
    shape = (size[0], size[1], math.ceil((high - bottom) / thickness))
    # the brain's middle is 17 mm behind the origin
    grid = VoxelGrid(
        shape,
        (_FIELD_MM / size[0], _FIELD_MM / size[1], thickness),
        (-_FIELD_MM / 2, -17.0 - _FIELD_MM / 2, bottom),
    )
    return _write_all(output_dir, seed, brain.onto(grid), {"training_size": list(size)})


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: must be a whole number from 0 up, got {seed!r}; leave it out for 0.")


def _write_all(output_dir: str | Path, seed: int, brain: BrainMaps, how: dict[str, object]) -> dict[str, object]:
    """Write every file; the manifest comes last, so that its status tells whether the rest is there."""
    folder = DemoFolder(output_dir)
    preview = Preview(_PREVIEW_MM)
    with tqdm(total=5 + len(SITES), desc="demo data", unit="step", disable=None) as bar:
        folder.put_text(LICENCE_FILE, _licence())
        slabs = _write_brain(folder, brain, preview)
        bar.update(2)
        write_slices(folder, _grey(brain), brain.label(), brain.grid)
        bar.update()
        _write_sites(folder, brain, seed, preview, bar)
        _write_followup(folder, make_followup_pair(brain, seed), preview)
        write_pairs(folder, brain, seed, preview)
        folder.write_png("preview.png", preview.render())
        bar.update()
        record: dict[str, object] = {
            "monai_ext": __version__,
            "seed": seed,
            **how,
            "source": source_record(),
            "classes": {str(value): name for value, name in enumerate(CLASS_NAMES)},
            "label_rule": LABEL_RULE,
            "slabs": slabs,
            "sites": {site.name: asdict(site) for site in SITES},
        }
        folder.finish(record)
        bar.update()
    return record


def _licence() -> str:
    return resources.files("monai_ext.demo").joinpath("icbm152_licence.txt").read_text(encoding="utf-8")


def _grey(brain: BrainMaps) -> NDArray[np.uint8]:
    return np.rint(brain.t1 * 255).astype(np.uint8)


def _write_brain(folder: DemoFolder, brain: BrainMaps, preview: Preview) -> dict[str, dict[str, object]]:
    """Write the whole brain, its slabs and the data lists; return what each volume contains."""
    image, label, grid = _grey(brain), brain.label(), brain.grid
    folder.write_nifti("brain/image.nii.gz", image, grid)
    folder.write_nifti("brain/label.nii.gz", label, grid)
    preview.add("brain/image", image, grid)
    preview.add_label("brain/label", label, grid)
    items = _write_slabs(folder, "", "slabs/", image, label, grid)
    description = "MNI152 T1 average with tissue labels, cut into contiguous axial slabs 5 mm or more apart."
    folder.write_json("datalist.json", make_datalist("MNI152 tissues", description, items))
    write_tissue(folder, label, grid, items)
    contents: dict[str, dict[str, object]] = {"brain": _contents(label, slice(0, grid.shape[2]), grid)}
    for slab in SLABS:
        contents[slab.part] = _contents(label, slab.slices(grid), grid)
    return contents


def _contents(label: NDArray[np.uint8], slices: slice, grid: VoxelGrid) -> dict[str, object]:
    """Return shape, range of slices, heights of their centres and voxels of each class."""
    part = label[:, :, slices]
    heights = grid.centres(2)[slices]
    return {
        "shape": list(part.shape),
        "slices": [slices.start, slices.stop - 1],
        "centres_mm": [round(float(heights[0]), 3), round(float(heights[-1]), 3)],
        "voxels": np.bincount(part.ravel(), minlength=len(CLASS_NAMES)).tolist(),
    }


def _write_slabs(
    folder: DemoFolder, root: str, prefix: str, image: NDArray, label: NDArray[np.uint8], grid: VoxelGrid
) -> dict[str, list[Item]]:
    """Write image and label of each slab to root + prefix, and return items whose paths begin with prefix."""
    items: dict[str, list[Item]] = {}
    for slab in SLABS:
        box = slab.box(grid)
        item = {"image": f"{prefix}{slab.part}_image.nii.gz", "label": f"{prefix}{slab.part}_label.nii.gz"}
        folder.write_nifti(root + item["image"], image[box], grid.crop(box))
        folder.write_nifti(root + item["label"], label[box], grid.crop(box))
        items[slab.part] = [{**item, "subject": slab_subject(slab.part)}]
    return items


def _write_sites(folder: DemoFolder, brain: BrainMaps, seed: int, preview: Preview, bar: tqdm) -> None:
    """Write the volumes and slabs of all sites and one data list over them."""
    visible = brain.crop(brain.box(_SITE_MARGIN))
    items: dict[str, list[Item]] = {slab.part: [] for slab in SLABS}
    for site in SITES:
        for part, found in _write_site(folder, visible, site, seed, preview).items():
            items[part].extend({**item, "site": site.name} for item in found)
        bar.update()
    description = "The MNI152 brain as six simulated scanners see it: bias, contrast, noise and voxel size differ."
    datalist = make_datalist("MNI152 tissues at six simulated sites", description, items, "../")
    folder.write_json("sites/datalist.json", {**datalist, "sites": {site.name: asdict(site) for site in SITES}})


def _write_site(
    folder: DemoFolder, brain: BrainMaps, site: SimulatedSite, seed: int, preview: Preview
) -> dict[str, list[Item]]:
    image, label, grid = simulate_site(brain, site, seed)
    folder.write_nifti(f"sites/{site.name}/image.nii.gz", image, grid)
    folder.write_nifti(f"sites/{site.name}/label.nii.gz", label, grid)
    preview.add(f"sites/{site.name}", image, grid)
    return _write_slabs(folder, "sites/", f"{site.name}/", image, label, grid)


def _write_followup(folder: DemoFolder, pair: FollowupPair, preview: Preview) -> None:
    """Write both scans, their labels, the points and the map."""
    times = (("baseline", pair.baseline, pair.images[0]), ("followup", pair.followup, pair.images[1]))
    for time, maps, image in times:
        folder.write_nifti(f"followup/{time}.nii.gz", image, maps.grid)
        folder.write_nifti(f"followup/{time}_label.nii.gz", maps.label(), maps.grid)
        preview.add(f"followup/{time}", image, maps.grid)
    folder.put_text("followup/points.csv", points_as_csv(pair.points))
    folder.put_text("followup/baseline_points.csv", points_as_csv(pair.points[:, :3], names=[""]))
    folder.write_json("followup/transform.json", describe_map(pair))

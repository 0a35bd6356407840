# SPDX-License-Identifier: Apache-2.0
"""A click is at the same place of the patient before and after the preprocessing, however the file is stored."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, Orientationd, Resized
from nibabel.affines import apply_affine

from monai_ext.data.slices import stack_view, upright
from monai_ext.inferers._slice_prompts import read_request
from monai_ext.transforms import LoadScand, PromptFromRequestd, ResampleScand

SHAPE, SPACING = (6, 5, 4), (0.7, 2.5, 1.2)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip
RAS = Orientationd(keys=["image"], axcodes="RAS", labels=None)
CHAINS = {
    "orientation": [RAS],
    "orientation-and-spacing": [RAS, ResampleScand(keys=["image"], spacing=1.0)],
    "orientation-and-size": [RAS, Resized(keys=["image"], spatial_size=(12, 10, 16), mode="nearest")],
}


def write(path: Path, codes: str) -> nib.Nifti1Image:
    """A scan stored with these axes, turned by some degrees about each axis of space."""
    x, y, z = np.deg2rad((11, -17, 23))
    turn = (
        np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        @ np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        @ np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(SPACING), (-12.0, 7.0, 40.0)
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), affine)
    wanted = nib.orientations.axcodes2ornt(codes)
    stored = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), wanted))
    nib.save(stored, path)
    return nib.load(path)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_click_stays_at_its_place_in_all_48_orientations(chain: str, tmp_path: Path) -> None:
    assert len(set(ORIENTATIONS)) == 48
    steps = Compose([LoadScand(keys=["image"]), *CHAINS[chain], PromptFromRequestd(keys=["image"])])
    for codes in ORIENTATIONS:
        stored = write(tmp_path / f"{codes}.nii.gz", codes)
        clicks = np.argwhere(np.ones(stored.shape))[::7]
        item = {"image": str(tmp_path / f"{codes}.nii.gz"), "foreground": clicks.tolist()}
        image = steps(item)["image"]
        moved = json.loads(image.meta["user_prompts"])["points"]
        places = apply_affine(image.affine.numpy(), moved)
        np.testing.assert_allclose(places, apply_affine(stored.affine, clicks), atol=2e-3, err_msg=codes)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_network_gets_clicks_on_the_pixels_that_were_clicked_on(plane: str, tmp_path: Path) -> None:
    """Voxels carry numbers of their own, so that the pixels under the clicks say which they are."""
    steps = Compose([LoadScand(keys=["image"]), RAS, PromptFromRequestd(keys=["image"])])
    for codes in ORIENTATIONS:
        stored = write(tmp_path / f"{codes}.nii.gz", codes)
        clicks = np.argwhere(np.ones(stored.shape))[::7]
        image = steps({"image": str(tmp_path / f"{codes}.nii.gz"), "foreground": clicks.tolist()})["image"]
        slices = upright(stack_view(image.as_tensor(), plane), is_volume=True)
        asked = read_request(image.meta["user_prompts"], image.shape[1:], plane).prompts
        pixels = [slices[n, 0, round(y), round(x)].item() for n, prompt in asked.items() for x, y in prompt.points]
        assert sorted(pixels) == sorted(np.asarray(stored.dataobj)[tuple(clicks.T)].tolist()), codes

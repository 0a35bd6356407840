# SPDX-License-Identifier: Apache-2.0
"""A client's request names a second scan and points in it; nothing outside of the studies can be named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_ext.errors import InputError
from monai_ext.match_request import MatchRequest, read_match_request
from monai_ext.transforms import LoadScand, ReferenceFromRequestd

AFFINE = np.array([[0, 0, -2.5, 3], [0.7, 0, 0, 4], [0, -1.2, 0, 5], [0, 0, 0, 1]])
LOAD = LoadScand(keys=["image"])
TAKE = ReferenceFromRequestd(keys=["image"], transform=LOAD)


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Scans as they lie in a server's studies folder, and one outside of it."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for index, path in enumerate((folder / "now.nii.gz", folder / "before.nii.gz", tmp_path / "secret.nii.gz")):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), index, np.float32), AFFINE), path)
    return folder


def request(studies: Path, **changes: Any) -> dict[str, Any]:
    """A request as MONAI Label hands it on, with the image loaded."""
    image = str(studies / "now.nii.gz")
    data = {"image": image, "image_path": image, "reference": "before", "points": [[1.0, 2.0, 3.0]], **changes}
    return LOAD({name: value for name, value in data.items() if value is not None})


def taken(studies: Path, **changes: Any) -> MatchRequest:
    found = read_match_request(TAKE(request(studies, **changes))["image"])
    assert found is not None
    return found


@pytest.mark.parametrize("reference", ["before", "before.nii.gz"])
def test_the_scan_is_found_by_its_id_and_by_its_file_name(studies: Path, reference: str) -> None:
    found = taken(studies, reference=reference)
    assert float(found.reference.unique()) == 1.0
    assert (found.name, found.names, found.space) == ("before.nii.gz", ("1",), "RAS")
    assert found.points.tolist() == [[1.0, 2.0, 3.0]]


def test_points_in_lps_and_in_voxels_of_the_file_are_the_same_places(studies: Path) -> None:
    voxel = [[1.0, 2.0, 3.0], [0.0, 0.5, 5.0]]
    world = np.array(voxel) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    by_voxel = taken(studies, points=voxel, points_unit="voxel").points
    by_lps = taken(studies, points=(world * [-1, -1, 1]).tolist(), space="lps")
    torch.testing.assert_close(by_voxel, torch.tensor(world))
    torch.testing.assert_close(by_lps.points, torch.tensor(world))
    assert by_lps.space == "LPS"


def test_the_request_survives_what_a_server_does_with_the_image(studies: Path) -> None:
    data = TAKE(request(studies, point_names=["liver"]))
    batch = copy.deepcopy(data)["image"][None].to(torch.device("cpu"))
    found = read_match_request(batch)
    assert found is not None
    assert found.names == ("liver",)
    assert read_match_request(data["image"]) is found  # not a copy of a whole scan at every step


def test_the_image_and_the_item_stay_as_they_were(studies: Path) -> None:
    data = request(studies)
    result = TAKE(data)
    assert torch.equal(result["image"], data["image"])
    assert read_match_request(data["image"]) is None


def test_items_that_are_no_request_are_left_alone(studies: Path) -> None:
    data = request(studies, image_path=None, reference=str(studies / "before.nii.gz"))
    assert TAKE(data)["image"] is data["image"]


@pytest.mark.parametrize(
    "reference",
    ["../secret", "../secret.nii.gz", "./before.nii.gz", "..", ".", "/etc/passwd", "sub/before", "before\0", "nobody"],
)
def test_only_a_scan_beside_the_image_can_be_named(studies: Path, reference: str) -> None:
    with pytest.raises(
        InputError, match=r"there is no scan .* beside it; 'reference' is an id or a file name, no path"
    ):
        taken(studies, reference=reference)


def test_an_absolute_path_is_refused_even_if_it_leads_there(studies: Path) -> None:
    with pytest.raises(InputError, match="no path"):
        taken(studies, reference=str(studies / "before.nii.gz"))


def test_an_id_of_two_files_is_refused_with_their_names(studies: Path) -> None:
    (studies / "before.nrrd").write_bytes(b"NRRD")
    with pytest.raises(InputError, match=r"may be any of before\.nii\.gz, before\.nrrd; give the file name"):
        taken(studies, reference="before")
    assert taken(studies, reference="before.nii.gz").name == "before.nii.gz"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": None}, "a request must name the fixed scan as 'reference'"),
        ({"reference": 7}, "a request must name the fixed scan as 'reference'"),
        ({"points": None}, r"points is None, wanted \[\[x, y, z\], ...\]"),
        ({"points": []}, "one point at least"),
        ({"points": [[1, 2]]}, r"points is \[\[1, 2\]\]"),
        ({"points": [[1, 2, 3], [1]]}, "points is"),
        ({"points": [[1, 2, float("nan")]]}, "finite numbers"),
        ({"points": "everywhere"}, "points is 'everywhere'"),
        ({"points_unit": "cm"}, "points_unit must be one of mm, voxel, got 'cm'"),
        ({"space": "MNI"}, "space must be one of RAS, LPS, got 'MNI'"),
        ({"point_names": ["a", "b"]}, "point_names must be 1 texts"),
    ],
)
def test_a_request_of_another_form_is_one_clear_line(studies: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        taken(studies, **changes)
    assert len(str(caught.value).splitlines()) == 1

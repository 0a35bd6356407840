# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's infer task with two images: balls in the image's own grid, and the numbers for the client."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.errors import InputError, find_input_error
from tests.followup.toy_bundle import grid, places, world, write_scan

BUNDLE = Path(__file__).parents[2] / "bundles" / "anatomical_embedding"
TINY = {"base_channels": 4, "embedding_dim": 8, "intensity": "percentile", "refine": False, "ball_radius_mm": 3.0}
TINY |= {"intensity_lower": None, "intensity_upper": None}
BEFORE, NOW = grid(turn=-8, shift=(4, 2, -30)), grid(turn=15, shift=(-20, 9, 11))
Answer = tuple[np.ndarray, np.ndarray, dict[str, Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, as it lies in a server's model folder, with random weights and tiny knobs."""
    folder = tmp_path_factory.mktemp("model") / "anatomical_embedding"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert TINY.keys() <= config.keys()
    path.write_text(json.dumps({**config, **TINY}), encoding="utf-8")
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(_parser(folder).get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Two scans of one thing in a server's studies folder, in oblique grids and other axes."""
    write_scan(tmp_path / "studies" / "before.nii.gz", BEFORE, codes="LPS")
    write_scan(tmp_path / "studies" / "now.nii.gz", NOW, codes="SAR")
    return tmp_path / "studies"


def _parser(folder: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    parser["device"] = "cpu"
    return parser


def step_by_step(folder: Path, request: dict[str, Any]) -> Answer:
    """What the infer task does, with the config's own parts, for where MONAI Label is not installed."""
    parser = _parser(folder)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    data = {**copy.deepcopy(request), "image_path": request["image"]}
    for transform in parser.get_parsed_content("pre_transforms").transforms:
        data = transform(data)
    outputs = parser.get_parsed_content("inferer")(data["image"][None], network)
    data["pred"] = outputs[0]
    for transform in parser.get_parsed_content("post_transforms").transforms:
        data = transform(data)
    meta = data["image"].meta  # by which it restores shape and position
    assert tuple(data["pred"].shape[1:]) == tuple(meta["spatial_shape"])
    return data["pred"][0].numpy(), np.asarray(meta["original_affine"]), data["result"]


def by_the_task(folder: Path, request: dict[str, Any]) -> Answer:
    """MONAI Label's own task."""
    from monailabel.tasks.infer.bundle import BundleInferTask

    file, answer = BundleInferTask(str(folder), {})({**request, "device": "cpu", "result_extension": ".nii.gz"})
    labels = nib.load(file)
    return np.asarray(labels.dataobj), labels.affine, answer


WAYS = [
    pytest.param(step_by_step, id="step-by-step"),
    pytest.param(
        by_the_task,
        id="by-the-task",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("monailabel") is None, reason="pip install --no-deps monailabel==0.8.5"
        ),
    ),
]
each_way = pytest.mark.parametrize("serve", WAYS)


@each_way
@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_balls_and_numbers_are_where_the_points_went(
    serve: Callable[..., Answer], space: str, served: Path, studies: Path
) -> None:
    sign = np.array([-1, -1, 1]) if space == "LPS" else np.ones(3)
    points = (world(BEFORE, places(3)) * sign).tolist()
    image = studies / "now.nii.gz"
    request = {"model": "anatomical_embedding", "image": str(image), "reference": "before", "points": points}
    labels, affine, answer = serve(served, {**request, "space": space, "point_names": ["a", "b", "c"]})
    scan = nib.load(image)
    assert labels.shape == scan.shape
    np.testing.assert_allclose(affine, scan.affine, atol=1e-4)
    truth = world(NOW, places(3))
    for value, place in enumerate(truth, start=1):
        balls = nib.affines.apply_affine(scan.affine, np.argwhere(labels == value))
        np.testing.assert_allclose(balls.mean(axis=0), place, atol=0.6)
        assert np.linalg.norm(balls - place, axis=1).max() <= 3.0 + 1e-3
    found = answer["points"]
    assert [(point["name"], point["value"], point["accepted"]) for point in found] == [
        ("a", 1, True),
        ("b", 2, True),
        ("c", 3, True),
    ]
    np.testing.assert_allclose([point["place"] for point in found], truth * sign, atol=2e-3)
    inverse = np.linalg.inv(scan.affine)
    np.testing.assert_allclose([point["voxel"] for point in found], nib.affines.apply_affine(inverse, truth), atol=2e-3)
    assert min(point["score"] for point in found) > 0.99
    assert (answer["reference"], answer["space"], answer["unit"]) == ("before.nii.gz", space, "mm")
    json.dumps(answer["points"])


@each_way
def test_voxels_of_the_reference_s_file_are_points_too(
    serve: Callable[..., Answer], served: Path, studies: Path
) -> None:
    file = nib.load(studies / "before.nii.gz")
    voxels = nib.affines.apply_affine(np.linalg.inv(file.affine), world(BEFORE, places(2))).tolist()
    request = {"model": "m", "image": str(studies / "now.nii.gz"), "reference": "before.nii.gz", "points": voxels}
    answer = serve(served, {**request, "points_unit": "voxel"})[2]
    np.testing.assert_allclose([p["place"] for p in answer["points"]], world(NOW, places(2)), atol=2e-3)


@each_way
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": "../outside"}, "there is no scan '../outside' beside it"),
        ({"reference": None}, "a request must name the fixed scan as 'reference'"),
        ({"points": None}, r"points is None, wanted \[\[x, y, z\], ...\]"),
    ],
)
def test_a_request_that_cannot_be_served_is_one_clear_line(
    serve: Callable[..., Answer], changes: dict[str, Any], told: str, served: Path, studies: Path
) -> None:
    write_scan(studies.parent / "outside.nii.gz", BEFORE)
    request = {"model": "m", "image": str(studies / "now.nii.gz"), "reference": "before", "points": [[0, 0, 0]]}
    with pytest.raises(Exception, match=told) as caught:
        serve(served, {**request, **changes})
    assert isinstance(find_input_error(caught.value), InputError)


def test_the_bundle_s_own_runs_know_nothing_of_requests(served: Path, studies: Path) -> None:
    item = {"image": str(studies / "now.nii.gz"), "reference": "before", "points": torch.zeros(1, 3)}
    image = _parser(served).get_parsed_content("pre_transforms")(item)["image"]
    assert "match_request" not in image.meta

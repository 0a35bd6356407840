# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's own inference task takes clicks through a bundle's config alone, and tells the client what it used."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.label.toy import write_bundle

bundle = pytest.importorskip("monailabel.tasks.infer.bundle", reason="pip install --no-deps monailabel==0.8.5")

SHAPE = (4, 5, 6)


@pytest.fixture
def server(tmp_path: Path) -> Any:
    return bundle.BundleInferTask(str(write_bundle(tmp_path / "toy_deepgrow")), {})


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A volume whose third axis runs from the head to the feet, its second to the left."""
    affine = np.array([[0, -2.5, 0, 3], [0.7, 0, 0, 4], [0, 0, -1.2, 5], [0, 0, 0, 1]])
    values = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def infer(server: Any, image: Path, **request: Any) -> tuple[np.ndarray, dict[str, Any]]:
    file, answer = server({"device": "cpu", "image": str(image), "result_extension": ".nii.gz", **request})
    json.dumps(answer)  # as the server sends it
    return np.asarray(nib.load(file).dataobj), answer


def test_the_client_gets_the_result_of_the_slice_it_clicked_on(server: Any, scan: Path) -> None:
    assert server.info()["type"] == "deepgrow"
    labels, answer = infer(server, scan, foreground=[[1, 2, 4], [3, 0, 4]], background=[[2, 2, 4]], roi=[], slice=4)
    assert np.argwhere(labels).tolist() == [[1, 2, 4], [3, 0, 4]]
    assert answer["label_names"] == {"object": 1}
    (entry,) = answer["prompts"]["slices"]
    assert (entry["index"], entry["prompt"], entry["box"]) == (1, "points", None)  # counted from the feet
    assert [label for _, _, label in entry["points"]] == [1, 1, 0]
    assert answer["prompts"]["prompt_source"] == "self"


def test_the_second_click_does_not_run_the_encoder_again(server: Any, scan: Path) -> None:
    infer(server, scan, foreground=[[1, 2, 4]], background=[], slice=4)
    labels, _ = infer(server, scan, foreground=[[1, 2, 4], [3, 0, 4]], background=[], slice=4)
    assert labels.sum() == 2
    assert server._networks["cpu"][0].encoded == [1]


def test_without_clicks_the_whole_volume_is_segmented(server: Any, scan: Path) -> None:
    labels, answer = infer(server, scan, foreground=[], background=[])
    np.testing.assert_array_equal(labels, np.asarray(nib.load(scan).dataobj) > 0.5)
    assert [entry["prompt"] for entry in answer["prompts"]["slices"]] == ["self"] * 6


def test_clicks_without_a_slice_correct_the_whole_volume(server: Any, scan: Path) -> None:
    labels, answer = infer(server, scan, foreground=[[1, 2, 4]], background=[])
    expected = np.asarray(nib.load(scan).dataobj) > 0.5
    expected[:, :, 4] = False
    expected[1, 2, 4] = True
    np.testing.assert_array_equal(labels, expected)
    assert [entry["prompt"] for entry in answer["prompts"]["slices"]] == ["self", "points", *["self"] * 4]


def test_clients_at_the_same_time_get_their_own_results(server: Any, scan: Path) -> None:
    clicks = [[i % 4, i % 5, i % 6] for i in range(12)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda c: infer(server, scan, foreground=[c], background=[], slice=c[2]), clicks))
    assert [np.argwhere(labels).tolist() for labels, _ in results] == [[click] for click in clicks]


def test_a_picture_with_a_box(server: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "photo.png")
    request = {"device": "cpu", "image": str(tmp_path / "photo.png"), "result_dtype": "uint8", "box": [2, 1, 4, 5]}
    file, answer = server(request)
    expected = np.zeros((6, 9), bool)
    expected[1:6, 2:5] = True
    np.testing.assert_array_equal(np.asarray(Image.open(file)) > 0, expected)
    assert answer["prompts"]["slices"] == [{"index": 0, "prompt": "box", "box": [2, 1, 4, 5]}]


def test_nothing_is_written_but_the_clients_result(server: Any, scan: Path, tmp_path: Path) -> None:
    infer(server, scan, foreground=[[1, 2, 4]], background=[])
    assert not (tmp_path / "toy_deepgrow" / "eval").exists()

# SPDX-License-Identifier: Apache-2.0
"""SAM-SP through its configs: where prompts come from, what clicks change, and how often the encoder runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from sam_sp.network import SAMSP
from torch import Tensor

from monai_ext.data.slices import stack_view, upright
from monai_ext.networks.nets.sam_encoder import SAMEncoder
from tests.bundles.profiles import SAM_SP
from tests.bundles.runs import EVALUATE, TRAIN, configs, overrides, read_json, rows_of, run

NAME = SAM_SP.name
SOURCES = ("self", "null", "truth")


@pytest.fixture(scope="module")
def tissue(brain: Path) -> Path:
    return brain / SAM_SP.data


@pytest.fixture(scope="module")
def weights(tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that finds brain tissue, more or less: its first masks are neither empty nor the whole image."""
    folder = tmp_path_factory.mktemp("fitted")
    run(NAME, "training", TRAIN, folder, tissue, max_epochs=6, tuning="full", val_interval=6)
    return folder / "models" / "model.pt"


@pytest.fixture(scope="module")
def evaluated(weights: Path, tissue: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Output folders of evaluations with prompts from each source."""
    folders = {}
    for source in SOURCES:
        folder = tmp_path_factory.mktemp(source)
        run(NAME, "evaluating", EVALUATE, folder, tissue, ckpt_path=str(weights), tuning="full", prompt_source=source)
        folders[source] = folder / "eval"
    return folders


@pytest.fixture(scope="module")
def network(weights: Path) -> SAMSP:
    network = SAMSP(**{**SAM_SP.arguments, "tuning": "full"}).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


def record_of(output: Path) -> list[dict[str, Any]]:
    (file,) = (output / "predictions").glob("*_prompts.json")
    return read_json(file)["slices"]


def prediction_of(output: Path) -> np.ndarray:
    (file,) = (output / "predictions").glob("*.nii.gz")
    return np.asarray(nib.load(file).dataobj)


def item_of(tissue: Path) -> dict[str, Any]:
    """Image and label of the test case as the bundle's own preprocessing gives them."""
    parser = ConfigParser()
    parser.read_config(configs(NAME, "train.json", "evaluate.json"))
    parser.update(overrides(NAME, tissue.parent, tissue))
    (item,) = parser.get_parsed_content("validate#dataset")
    return item


def slices_of(volume: Tensor) -> Tensor:
    """Upright axial slices (N, C, H, W)."""
    return upright(stack_view(volume.as_tensor(), "axial"), is_volume=True).contiguous().float()


def test_each_source_of_prompts_gives_a_table_of_its_own(evaluated: dict[str, Path]) -> None:
    dice = {}
    for source, output in evaluated.items():
        summary = read_json(output / "summary.json")
        assert summary["conventions"]["prompt_source"] == source
        assert read_json(output / "evaluation.json")["knobs"]["prompt_source"] == source
        dice[source] = summary["mean_foreground"]["dice"]["mean"]
    assert len(set(dice.values())) == 3
    assert min(dice.values()) > 0.6


def test_the_record_of_the_first_mask_names_no_box(evaluated: dict[str, Path]) -> None:
    record = record_of(evaluated["null"])
    assert [(entry["prompt"], entry["box"]) for entry in record] == [("null", None)] * len(record)


def test_true_boxes_enclose_the_label_of_their_slice(evaluated: dict[str, Path], tissue: Path) -> None:
    labels, record = slices_of(item_of(tissue)["label"])[:, 0], record_of(evaluated["truth"])
    assert [entry["index"] for entry in record] == list(range(len(labels)))
    for entry, label in zip(record, labels, strict=True):
        rows, columns = torch.nonzero(label, as_tuple=True)
        assert entry["prompt"] == "box"
        assert entry["box"] == pytest.approx([int(f) for f in (columns.min(), rows.min(), columns.max(), rows.max())])


def test_the_saved_masks_and_boxes_are_what_the_network_says_of_each_slice(
    evaluated: dict[str, Path], network: SAMSP, tissue: Path
) -> None:
    with torch.no_grad():
        found = network.segment(slices_of(item_of(tissue)["image"]))
    (row,) = rows_of(evaluated["self"] / "cases.csv")
    assert int(row["predicted_voxels"]) == int((found.logits > 0).sum())
    (row,) = rows_of(evaluated["null"] / "cases.csv")
    assert int(row["predicted_voxels"]) == int((found.first_logits > 0).sum())
    record = record_of(evaluated["self"])
    assert [entry["prompt"] for entry in record] == found.prompts == ["self"] * len(record)
    torch.testing.assert_close(torch.tensor([entry["box"] for entry in record]), found.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n_iters", [1, 2, 5])
def test_the_encoder_runs_once_for_each_slice_of_an_evaluation(
    n_iters: int, weights: Path, tissue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, encoded = SAMEncoder.forward, []

    def counting(encoder: SAMEncoder, pixels: Tensor) -> Tensor:
        encoded.append(len(pixels))
        return forward(encoder, pixels)

    monkeypatch.setattr(SAMEncoder, "forward", counting)
    run(NAME, "evaluating", EVALUATE, tmp_path, tissue, ckpt_path=str(weights), tuning="full", n_iters=n_iters)
    assert sum(encoded) == len(record_of(tmp_path / "eval"))


@pytest.fixture
def server(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MONAI Label's own task on a copy of the bundle with tiny knobs."""
    tasks = pytest.importorskip("monailabel.tasks.infer.bundle", reason="pip install --no-deps monailabel==0.8.5")
    folder = tmp_path / "model" / NAME
    shutil.copytree(SAM_SP.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    path = folder / "configs" / "inference.json"
    content = {**read_json(path), **SAM_SP.inference_knobs, "tuning": "full"}
    path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "models").mkdir()
    shutil.copy(weights, folder / "models")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a server's results lie until they are sent
    return tasks.BundleInferTask(str(folder), {})


def ask(server: Any, image: Path, **more: Any) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
    """Return the label map and what is said of each slice."""
    request = {"device": "cpu", "image": str(image), "result_extension": ".nii.gz", "result_dtype": "uint8", **more}
    file, answer = server(request)
    return np.asarray(nib.load(file).dataobj), {entry["index"]: entry for entry in answer["prompts"]["slices"]}


def test_a_click_changes_its_own_slice_and_the_answer_says_so(server: Any, scan: Path) -> None:
    alone, said = ask(server, scan)
    assert {entry["prompt"] for entry in said.values()} <= {"self", "null"}
    middle = alone.shape[2] // 2
    clicked, said = ask(server, scan, foreground=[[2, 2, middle]], background=[[24, 24, middle]])
    assert said[middle]["prompt"] == "points"
    assert [label for *_, label in said[middle]["points"]] == [1, 0]
    assert {said[index]["prompt"] for index in said if index != middle} <= {"self", "null"}
    assert (clicked[:, :, middle] != alone[:, :, middle]).any()
    others = [index for index in range(alone.shape[2]) if index != middle]
    np.testing.assert_array_equal(clicked[:, :, others], alone[:, :, others])


def test_a_box_of_a_user_takes_the_place_of_the_own_one(server: Any, scan: Path) -> None:
    alone, said = ask(server, scan)
    middle = alone.shape[2] // 2
    boxed, answered = ask(server, scan, roi=[20, 27, 18, 29, middle, middle])
    assert answered[middle]["prompt"] == "box"
    width, height = answered[middle]["box"][2] - answered[middle]["box"][0], np.ptp(answered[middle]["box"][1::2])
    assert (width, height) == pytest.approx((7, 11))
    assert answered[middle]["box"] != said[middle]["box"]
    assert (boxed[:, :, middle] != alone[:, :, middle]).any()


def test_a_client_that_edits_one_slice_gets_that_slice(server: Any, scan: Path) -> None:
    middle = nib.load(scan).shape[2] // 2
    labels, said = ask(server, scan, foreground=[[24, 24, middle]], background=[], slice=middle)
    assert set(said) == {middle}
    assert set(np.nonzero(labels)[2]) == {middle}


def test_a_click_outside_of_the_scan_is_refused(server: Any, scan: Path) -> None:
    from monai_ext.errors import find_input_error

    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what we raise
        ask(server, scan, foreground=[[2, 2, 999]])
    assert "lies outside" in str(find_input_error(caught.value))

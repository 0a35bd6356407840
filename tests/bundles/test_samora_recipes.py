# SPDX-License-Identifier: Apache-2.0
"""SAMora's second stage from files of experts: what starts, what trains, what is kept, and few labels."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from samora.network import LEVELS, SAMora

from monai_ext.errors import message_of
from monai_ext.networks.checkpoints import read_state
from monai_ext.networks.checkpoints.bound_weights import BoundWeights
from monai_ext.networks.layers.lora_experts import expert_state
from tests.bundles.made_data import volumes
from tests.bundles.profiles import SAMORA
from tests.bundles.runs import INFERENCE, TRAIN, read_json, refused, rows_of, run, train_and_evaluate
from tests.bundles.test_samora_files import expert_files


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of each level, for the encoder that seed 0 gives."""
    files = expert_files(tmp_path_factory.mktemp("experts"), licence="not for commercial use")
    return {f"expert_{level}": path for level, path in files.items()}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "models" / "model.pt", weights_only=True)


@pytest.fixture(scope="module")
def tuned(brain: Path, experts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with all three experts."""
    folder = tmp_path_factory.mktemp("tuned")
    train_and_evaluate("samora", folder, brain / SAMORA.data, **experts, metric_convention="samed")
    return folder


def test_experts_come_from_their_files_and_stay_bit_for_bit(tuned: Path, experts: dict[str, str]) -> None:
    network = SAMora(**SAMORA.arguments)
    network.load_state_dict(weights_of(tuned))
    for level in LEVELS:
        given = read_state(experts[f"expert_{level}"])
        own = expert_state(network.image_encoder, level)
        assert given
        assert all(torch.equal(own[name], weight) for name, weight in given.items())


def test_hl_attention_has_left_its_start(tuned: Path) -> None:
    state = weights_of(tuned)
    assert state["hl_attention.2.levels.1.value.weight"].abs().max() > 0


def test_the_small_file_has_experts_fusion_and_decoder_and_the_hash_of_its_base(tuned: Path) -> None:
    task = BoundWeights.read(tuned / "models" / "tasks" / "main.safetensors", "samora_task")
    parts = {name.split(".")[0] for name in task.state}
    assert parts == {"image_encoder", "hl_attention", "prompt_encoder", "mask_decoder"}
    assert all("lora_" in name for name in task.state if name.startswith("image_encoder."))
    assert len(task.base) == 64


def test_a_task_is_switched_to_in_inference_and_one_of_another_base_is_refused(
    tuned: Path, brain: Path, tmp_path: Path
) -> None:
    scan, weights = brain / "brain" / "image.nii.gz", tuned / "models" / "model.pt"
    state = weights_of(tuned)
    blank = {n: torch.zeros_like(w) if n.startswith("mask_decoder.") else w for n, w in state.items()}
    (tmp_path / "models" / "tasks").mkdir(parents=True)
    torch.save(blank, tmp_path / "models" / "model.pt")
    (tmp_path / "models" / "tasks" / "main.safetensors").write_bytes(
        (tuned / "models" / "tasks" / "main.safetensors").read_bytes()
    )
    for folder, knobs in (("a", {"ckpt_path": str(weights)}), ("b", {"task": "main"})):
        run("samora", "inferring", INFERENCE, tmp_path, scan, **knobs, output_dir=str(tmp_path / folder))
    written = [(tmp_path / folder / "predictions" / "image.nii.gz").read_bytes() for folder in "ab"]
    assert written[0] == written[1]
    torch.save(
        {n: w + 0.5 if n.endswith("neck.0.weight") else w for n, w in state.items()}, tmp_path / "models/model.pt"
    )
    refusal = refused("samora", "inferring", INFERENCE, tmp_path, scan, task="main")
    assert "was trained on another frozen encoder" in message_of(refusal)


def test_both_conventions_are_written_from_the_same_predictions(tuned: Path) -> None:
    rows, other = (rows_of(tuned / "eval" / name) for name in ("cases.csv", "cases_samed.csv"))
    assert [row["case"] for row in rows] == [row["case"] for row in other]
    assert [float(row["dice"]) for row in rows] == pytest.approx([float(row["dice"]) for row in other])
    assert "voxels" in read_json(tuned / "eval" / "summary_samed.json")["convention"]


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"expert_patch": "nowhere.safetensors"}, "nowhere.safetensors: there is no such file"),
        ({"seed": 1}, "was trained on another frozen encoder"),
        ({"expert_image": None, "experts": ["patch"]}, "is given for the expert 'pixel'"),
        ({"lora_rank": 2}, "has rank 4 and alpha 4, this network 2 and 2"),
    ],
)
def test_experts_that_do_not_fit_stop_the_run_and_nothing_is_lost(
    knobs: dict[str, Any], told: str, experts: dict[str, str], brain: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"precious")
    message = message_of(refused("samora", "training", TRAIN, tmp_path, brain / SAMORA.data, **{**experts, **knobs}))
    assert told in message
    assert "\n" not in message
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"precious"


def test_one_expert_alone_trains_its_decoder_and_is_told(
    experts: dict[str, str], brain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    knobs = {"experts": ["pixel"], "expert_pixel": experts["expert_pixel"]}
    run("samora", "training", TRAIN, tmp_path, brain / SAMORA.data, **knobs)
    assert "without the image, patch expert(s): nothing to fuse, the pixel expert is used by itself" in caplog.text
    assert not any(name.startswith("hl_attention") for name in weights_of(tmp_path))


def slices_of(folder: Path) -> dict[str, list[int]]:
    return read_json(folder / "eval" / "run.json")["facts"]["training_slices"]


def test_a_share_of_the_slices_trains_and_the_record_names_them(tuned: Path, brain: Path, tmp_path: Path) -> None:
    run("samora", "training", TRAIN, tmp_path, brain / SAMORA.data, label_fraction=0.5, split_by="slice")
    (case,) = slices_of(tuned)
    every, few = slices_of(tuned)[case], slices_of(tmp_path)[case]
    assert set(few) < set(every)
    assert len(few) == round(len(every) / 2)


def test_a_share_of_the_cases_trains_whole(brain: Path, tmp_path: Path) -> None:
    data = three_sites(brain, tmp_path / "data")
    for name, knobs in (("all", {}), ("few", {"label_fraction": 0.4}), ("named", {"case_list": ["b"]})):
        run("samora", "training", TRAIN, tmp_path / name, data, **knobs)
    every, few, named = (slices_of(tmp_path / name) for name in ("all", "few", "named"))
    assert (len(every), len(few)) == (3, 1)
    assert all(few[case] == every[case] for case in few)
    assert list(named) == ["b_image"]


def three_sites(brain: Path, folder: Path) -> Path:
    """The brain's training slab as that of three people."""
    listed = read_json(brain / SAMORA.data)
    folder.mkdir()
    for part in ("training", "validation", "test"):
        item = {key: str(brain / listed[part][0][key]) for key in ("image", "label")}
        people = ("a", "b", "c") if part == "training" else (part,)
        listed[part] = [
            {**item, "subject": person, "image": copied(item["image"], folder, person)} for person in people
        ]
    (folder / "datalist.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def copied(image: str, folder: Path, person: str) -> str:
    return str(shutil.copy(image, folder / f"{person}_image.nii.gz"))


RECIPES: dict[str, tuple[tuple[int, ...], dict[str, Any], list[str]]] = {
    "recipe_synapse.json": (tuple(range(14)), {"label_fraction": 0.1}, ["spleen", "pancreas"]),
    "recipe_la.json": ((0, 255), {"label_fraction": 0.05}, ["left atrium", "left atrium"]),
    "recipe_promise12.json": ((0, 1), {"case_list": ["training"]}, ["prostate", "prostate"]),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_on_labels_as_they_are_distributed(recipe: str, tmp_path: Path) -> None:
    values, knobs, ends = RECIPES[recipe]
    own = read_json(SAMORA.folder / "configs" / recipe)
    data = volumes(tmp_path / "data", 1, values)
    small = {"num_classes": own["num_classes"], "accumulation_steps": 1, "experts": ["image", "pixel"], **knobs}
    run("samora", "training", ("train.json", recipe), tmp_path, data, **small)
    scored = ("train.json", recipe, "evaluate.json")
    run("samora", "evaluating", scored, tmp_path, data, **small, metric_convention="samed")
    classes = read_json(tmp_path / "eval" / "summary_samed.json")["classes"]
    assert [classes[0]["name"], classes[-1]["name"]] == ends
    assert len(classes) == max(own["num_classes"] - 1, 1)
    found = {int(row["class"]): int(row["truth_voxels"]) for row in rows_of(tmp_path / "eval" / "cases.csv")}
    assert sum(found.values()) > 0

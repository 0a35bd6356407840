# SPDX-License-Identifier: Apache-2.0
"""DeSAM's recipes and presets run, sites are told apart, and stored embeddings train as the encoder does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from desam.network import DeSAM

from monai_ext.errors import message_of
from tests.bundles.profiles import ROOT
from tests.bundles.runs import EVALUATE, INFERENCE, TRAIN, bundle, read_json, refused, rows_of, run

NAME = "desam"
SITES = ("BIDMC", "BMC", "HK", "I2CVB", "RUNMC", "UCL")


def losses(folder: Path) -> list[float]:
    return [epoch["train_loss"] for epoch in read_json(folder / "eval" / "history.json")["epochs"]]


@pytest.mark.parametrize("mode", ["points", "box"])
def test_stored_embeddings_train_as_the_encoder_in_the_loop(mode: str, brain: Path, tmp_path: Path) -> None:
    """Twenty steps of one batch each, so that the history has every step's loss."""
    data = brain / "datalist_tissue.json"
    knobs: dict[str, Any] = {"mode": mode, "augment": False, "batch_size": 16, "learning_rate": 0.00001}
    knobs |= {"max_epochs": 20, "val_interval": 20, "inference_batch_size": 16}
    run(NAME, "training", TRAIN, tmp_path / "loop", data, **knobs)
    expected = losses(tmp_path / "loop")
    assert len(expected) == 20
    assert max(expected) - min(expected) > 0.1  # something is learned
    stores = [("disk", "float32", 1e-4), ("disk", "float16", 1e-2)]
    if mode == "points":  # where they are kept does not depend on the prompts
        stores += [("ram", "float16", 1e-2)]
    for cache, precision, tolerance in stores:
        folder = tmp_path / f"{cache}-{precision}"
        run(NAME, "training", TRAIN, folder, data, **knobs, embedding_cache=cache, embedding_precision=precision)
        assert losses(folder) == pytest.approx(expected, abs=tolerance)


def test_an_encoder_that_trains_has_no_stored_embeddings(brain: Path, tmp_path: Path) -> None:
    knobs = {"tuning": "full", "embedding_cache": "disk"}
    refusal = refused(NAME, "training", TRAIN, tmp_path, brain / "datalist_tissue.json", **knobs)
    assert "embedding_cache" in message_of(refusal)


@pytest.fixture(scope="module")
def standard(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on one simulated site and tested on all six."""
    folder = tmp_path_factory.mktemp("standard")
    knobs = {"source_site": "standard", "num_classes": 4, "max_epochs": 2}
    run(NAME, "training", TRAIN, folder, brain / "sites", **knobs)
    run(NAME, "evaluating", EVALUATE, folder, brain / "sites", **knobs, protocols=["honest", "paper"])
    return folder


def test_only_the_source_site_trains_and_all_are_scored(standard: Path) -> None:
    record = read_json(standard / "eval" / "run.json")
    assert record["knobs"]["source_site"] == "standard"
    sites = read_json(standard / "eval" / "sites.json")
    assert {site for site, entry in sites["sites"].items() if entry["in_domain"]} == {"standard"}
    assert len(sites["sites"]) == 6
    assert sites["unseen"]["sites"] == 5
    assert {"mean", "low", "high"} <= set(sites["unseen"]["mean_of_sites"]["dice"])
    assert sites["gap"]["dice"]["mean"] == pytest.approx(
        sites["sites"]["standard"]["dice"]["mean"] - sites["unseen"]["mean_of_sites"]["dice"]["mean"]
    )
    rows = rows_of(standard / "eval" / "cases.csv")
    assert {row["site"] for row in rows} == set(sites["sites"])


def test_both_protocols_come_from_one_run(standard: Path) -> None:
    protocols = read_json(standard / "eval" / "summary.json")["protocols"]
    assert protocols["difference"] == pytest.approx(protocols["paper"] - protocols["honest"])
    paper = rows_of(standard / "eval" / "cases_paper.csv")
    honest = rows_of(standard / "eval" / "cases.csv")
    assert len(paper) == len(honest)
    fewer = [int(p["truth_voxels"]) < int(h["truth_voxels"]) for p, h in zip(paper, honest, strict=True)]
    assert any(fewer)  # the last slice with an object is not looked at


def test_another_run_is_compared_case_by_case(standard: Path, brain: Path, tmp_path: Path) -> None:
    knobs = {"source_site": "standard", "num_classes": 4, "compare_to": str(standard / "eval" / "cases.csv")}
    weights = str(standard / "models" / "model.pt")
    run(NAME, "evaluating", EVALUATE, tmp_path, brain / "sites", **knobs, ckpt_path=weights)
    paired = read_json(tmp_path / "eval" / "paired.json")["scores"]["dice"]
    assert paired["verdict"] == "equal"
    assert paired["unseen"]["n"] == 5


def test_an_unknown_site_is_answered_with_those_there_are(brain: Path, tmp_path: Path) -> None:
    message = message_of(refused(NAME, "training", TRAIN, tmp_path, brain / "sites", source_site="moon", num_classes=4))
    assert "standard" in message


def test_the_baseline_is_a_unet_on_the_same_slices(brain: Path, tmp_path: Path) -> None:
    knobs = {"source_site": "standard", "num_classes": 4, "time_limit": 0.001, "max_epochs": 50}
    files = ("train.json", "baseline_unet.json")
    run(NAME, "training", files, tmp_path, brain / "sites", **knobs)
    assert len(losses(tmp_path)) == 1  # its time is up after the first epoch
    run(NAME, "evaluating", ("train.json", "evaluate.json", "baseline_unet.json"), tmp_path, brain / "sites", **knobs)
    assert read_json(tmp_path / "eval" / "sites.json")["unseen"]["sites"] == 5
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("mask_decoder") for name in weights)


def test_the_published_preset_trains_without_cross_entropy_and_selects_the_first_record(
    brain: Path, tmp_path: Path
) -> None:
    data = brain / "datalist_tissue.json"
    small = {"min_region": 4}
    run(NAME, "training", ("train.json", "official_code.json"), tmp_path, data, **small)
    epoch = read_json(tmp_path / "eval" / "history.json")["epochs"][0]
    assert epoch["train_loss"] == pytest.approx(epoch["train_loss_dice"] + epoch["train_loss_iou"], rel=1e-5)
    run(NAME, "evaluating", (*EVALUATE, "official_code.json"), tmp_path, data, **small)
    knobs = read_json(tmp_path / "eval" / "evaluation.json")["knobs"]
    assert (knobs["selection"], knobs["iou_loss"]) == ("official", "l1")
    weights = str(tmp_path / "models" / "model.pt")
    run(NAME, "inferring", (*INFERENCE, "official_code.json"), tmp_path, data, ckpt_path=weights, **small)


def prostates(folder: Path) -> Path:
    """Three cases of every site in its folder, a box of two zones in noise."""
    generator = np.random.default_rng(0)
    for site in SITES:
        (folder / site).mkdir(parents=True)
        for case in range(3):
            label = np.zeros((24, 24, 4), np.uint8)
            label[8:16, 8:16, :3], label[8:16, 12:16, :3] = 1, 2
            voxels = 200 + 300.0 * (label > 0) + generator.normal(0, 30, label.shape)
            for end, array in (("", voxels.astype(np.float32)), ("_segmentation", label)):
                nib.save(
                    nib.Nifti1Image(array, np.diag([0.6, 0.6, 3, 1])), folder / site / f"Case{case:02d}{end}.nii.gz"
                )
    return folder


def test_the_prostate_recipe_trains_on_one_site_and_scores_the_others(tmp_path: Path) -> None:
    data = prostates(tmp_path / "data")
    knobs = {"source_site": "HK", "val_fraction": 0.4, "min_region": 4}
    run(NAME, "training", ("train.json", "recipe_prostate.json"), tmp_path, data, **knobs)
    assert list((tmp_path / "eval" / "embeddings").glob("*.safetensors"))
    run(NAME, "evaluating", (*EVALUATE, "recipe_prostate.json"), tmp_path, data, **knobs)
    sites = read_json(tmp_path / "eval" / "sites.json")
    assert {site: entry["cases"] for site, entry in sites["sites"].items()} == {s: 2 if s == "HK" else 3 for s in SITES}
    assert "paper" in read_json(tmp_path / "eval" / "summary.json")["protocols"]
    (row,) = (r for r in rows_of(tmp_path / "eval" / "cases.csv") if r["case"] == "BMC_Case00")
    assert int(row["truth_voxels"]) == 8 * 8 * 3  # both zones are the one object


def test_the_prostate_recipe_segments_other_scans(tmp_path: Path) -> None:
    data = prostates(tmp_path / "data")
    torch.save(DeSAM(in_channels=1, sam_type="vit_tiny", image_size=64, grid=3).state_dict(), tmp_path / "model.pt")
    files = ("inference.json", "recipe_prostate.json")
    run(NAME, "inferring", files, tmp_path, data / "UCL", ckpt_path=str(tmp_path / "model.pt"), min_region=4)
    assert (tmp_path / "eval" / "predictions" / "Case00.nii.gz").is_file()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_cards_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, but for the size of the network and the file of its weights."""
    text = (bundle(NAME) / "docs" / "README.md").read_text(encoding="utf-8")
    (code,) = blocks(text, "python")
    (tmp_path / "models").mkdir()
    network = DeSAM(in_channels=1, sam_type="vit_tiny", image_size=64)
    torch.save(network.state_dict(), tmp_path / "models" / "model.pt")
    monkeypatch.chdir(tmp_path)
    small = code.replace('"vit_b"', '"vit_tiny"').replace("image_size=1024", "image_size=64")
    assert small != code
    found: dict[str, Any] = {}
    exec(compile(small, "card", "exec"), found)
    assert found["mask"].shape[0] == 2


def test_the_lists_in_the_guide_are_read(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "recipes_desam.md").read_text(encoding="utf-8")
    for text in blocks(guide, "json"):
        assert isinstance(json.loads(text), dict)

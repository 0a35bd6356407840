# SPDX-License-Identifier: Apache-2.0
"""Anatomical embedding trains on scans without labels, is scored on pairs, finds points, and goes on when killed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_ext.commands._fire import main
from monai_ext.errors import message_of
from tests.bundles.profiles import ANATOMICAL_EMBEDDING
from tests.bundles.runs import (
    EVALUATE,
    INFERENCE,
    TRAIN,
    command,
    configs,
    has_epochs,
    options,
    overrides,
    read_json,
    refused,
    rows_of,
    run,
    torchrun,
    type_command,
)
from tests.bundles.test_export import schema_in
from tests.bundles.warm_python import WarmPython

NAME = ANATOMICAL_EMBEDDING.name
TINY = ANATOMICAL_EMBEDDING.tiny
INFERENCE_KNOBS = ANATOMICAL_EMBEDDING.inference_knobs
METADATA = ANATOMICAL_EMBEDDING.folder / "configs" / "metadata.json"
TERMS = ("local_first", "local_second", "global_first", "global_second")


@pytest.fixture(scope="module")
def scans(brain: Path) -> Path:
    return brain / "scans.json"


@pytest.fixture(scope="module")
def pairs(brain: Path) -> Path:
    return brain / "pairs.json"


@pytest.fixture(scope="module")
def trained(scans: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs that was evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        run(NAME, "training", TRAIN, folder, scans, max_epochs=2)
        run(NAME, "evaluating", EVALUATE, folder, pairs)
    return folder


def test_training_records_its_loss_and_keeps_the_epoch_of_smallest_error(trained: Path) -> None:
    epochs = read_json(trained / "eval" / "history.json")["epochs"]
    for epoch in epochs:
        parts = [epoch[f"train_loss_{term}"] for term in TERMS]
        assert epoch["train_loss"] == pytest.approx(sum(parts), rel=1e-4)
        assert min(parts) > 0
    errors = [epoch["val_match_error_mm"] for epoch in epochs]
    best = read_json(trained / "eval" / "run.json")["best"]
    assert (best["metric"], best["value"]) == ("match_error_mm", min(errors))
    drawn = sorted(path.name for path in (trained / "eval" / "overlays").iterdir())
    assert drawn == ["epoch_0001.png", "epoch_0002.png"]


def test_evaluation_scores_every_point_of_every_pair(trained: Path) -> None:
    summary, points = read_json(trained / "eval" / "summary.json"), rows_of(trained / "eval" / "points.csv")
    assert (summary["cases"], summary["points"], len(points)) == (3, 600, 600)
    assert {row["case"] for row in rows_of(trained / "eval" / "cases.csv")} == {"mild", "hard", "followup"}
    errors = [float(row["error_mm"]) for row in points]
    assert summary["all"]["error_mm"]["mean"] == pytest.approx(np.mean(errors))
    assert read_json(trained / "eval" / "evaluation.json")["metrics"]["match_error_mm"] == pytest.approx(
        np.mean(errors)
    )


def test_inference_finds_the_same_places_as_evaluation(trained: Path, pairs: Path, tmp_path: Path) -> None:
    weights = {"ckpt_path": str(trained / "models" / "model.pt"), "output_space": "LPS"}
    files = overrides(NAME, tmp_path, pairs)
    knobs = {**INFERENCE_KNOBS, **{name: files[name] for name in ("dataset_dir", "output_dir", "ckpt_dir")}, **weights}
    type_command("run", "inferring", *options(config_file=configs(NAME, *INFERENCE)[0], logging_file=False, **knobs))
    scored = [row for row in rows_of(trained / "eval" / "points.csv") if row["case"] == "hard"]
    found = rows_of(tmp_path / "eval" / "matches" / "hard.csv")
    assert [row["point"] for row in found] == [row["point"] for row in scored]
    for axis, sign in (("x", -1), ("y", -1), ("z", 1)):
        written = np.array([float(row[f"moving_{axis}_lps_mm"]) for row in found])
        np.testing.assert_allclose(written * sign, [float(row[f"found_{axis}_ras_mm"]) for row in scored], atol=1e-3)


def test_without_pairs_an_evaluation_simulates_some(trained: Path, scans: Path, tmp_path: Path) -> None:
    weights = {"ckpt_path": str(trained / "models" / "model.pt")}
    run(NAME, "evaluating", EVALUATE, tmp_path, scans, **weights)
    first = rows_of(tmp_path / "eval" / "points.csv")
    run(NAME, "evaluating", EVALUATE, tmp_path, scans, **weights)
    assert rows_of(tmp_path / "eval" / "points.csv") == first
    assert len(first) == 20
    assert read_json(tmp_path / "eval" / "summary.json")["cases"] == 1


def test_an_untrained_network_is_scored_without_weights_and_compared(
    trained: Path, pairs: Path, tmp_path: Path
) -> None:
    run(NAME, "evaluating", EVALUATE, tmp_path, pairs, untrained=True, compare_to=str(trained / "eval"))
    assert read_json(tmp_path / "eval" / "paired.json")["other"] == str(trained / "eval")
    scores = [[row["found_x_ras_mm"] for row in rows_of(f / "eval" / "points.csv")] for f in (trained, tmp_path)]
    assert scores[0] != scores[1]


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "eval" / "checkpoint.pt", weights_only=True)["objects"]["network"]


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(scans: Path, warm: WarmPython, tmp_path: Path) -> None:
    knobs = {"max_epochs": 5, "pairs_per_scan": 4, "noise": 0.05, "gamma": [0.8, 1.2], "rotate_range": 0.2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(NAME, "training", TRAIN, whole, scans, **knobs, num_workers=0)
    words = command(NAME, "training", TRAIN, killed, scans, **knobs, num_workers=1)
    warm.kill(words, tmp_path, when=lambda: has_epochs(killed, 2))
    assert len(read_json(killed / "eval" / "history.json")["epochs"]) < 5
    run(NAME, "training", TRAIN, killed, scans, **knobs, num_workers=0, resume=True)
    expected, resumed = final_weights(whole), final_weights(killed)
    assert all(torch.equal(expected[n], resumed[n]) for n in expected)
    epochs = [read_json(folder / "eval" / "history.json")["epochs"] for folder in (whole, killed)]
    losses = [[(e["epoch"], e["train_loss"], e["val_match_error_mm"]) for e in history] for history in epochs]
    assert losses[0] == losses[1]


def test_resuming_with_other_knobs_is_refused(scans: Path, tmp_path: Path) -> None:
    run(NAME, "training", TRAIN, tmp_path, scans, pairs_per_scan=2)
    changed = {"pairs_per_scan": 2, "resume": True, "temperature": 0.1, "max_epochs": 2}
    assert "temperature" in str(refused(NAME, "training", TRAIN, tmp_path, scans, **changed))


def test_two_processes_train_and_report_the_same(scans: Path, tmp_path: Path) -> None:
    words = command(NAME, "training", (*TRAIN, "multi_gpu_train.json"), tmp_path, scans)
    result = torchrun(words, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert read_json(tmp_path / "eval" / "run.json")["hardware"]["processes"] == 2
    errors = [line.split("match_error_mm: ")[1] for line in result.stdout.splitlines() if "new best metric" in line]
    assert len(errors) == 2
    assert errors[0] == errors[1]
    assert set(torch.load(tmp_path / "models" / "model.pt", weights_only=True)) == set(network().state_dict())


def test_two_processes_score_as_one(trained: Path, pairs: Path, warm: WarmPython, tmp_path: Path) -> None:
    weights = {"ckpt_path": str(trained / "models" / "model.pt")}
    words = command(NAME, "evaluating", (*EVALUATE, "multi_gpu_evaluate.json"), tmp_path, pairs, **weights)
    scored = warm.torchrun(words, tmp_path)
    assert scored.returncode == 0, scored.stderr[-2000:]
    assert read_json(tmp_path / "eval" / "summary.json")["all"] == read_json(trained / "eval" / "summary.json")["all"]


def network(**knobs: Any) -> torch.nn.Module:
    return ANATOMICAL_EMBEDDING.network(**{**ANATOMICAL_EMBEDDING.arguments, **knobs})


KNOBS = {
    "notes-accumulation-clipping-amp": {
        "mining": "notes", "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "positive": "nearest",
        "direction_reduction": "mean", "overlap_prob": 0.5, "no_overlap": "self", "mode": "mutual",
    },
    "two-modalities-zscore-one-pair-compiled": {
        "in_channels": 2, "intensity": "zscore", "body_threshold": -9.0, "lateral_kernel": 3, "compile": True,
        "blur": 1.0, "batch_size": 1, "train#trainer#compile_kwargs": {"backend": "eager"}, "semantic_head": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_knobs_train_and_evaluate(knobs: dict[str, Any], brain: Path, tmp_path: Path) -> None:
    scan = str(brain / "brain" / "image.nii.gz")
    image = [scan] * knobs.get("in_channels", 1)
    listed = tmp_path / "scans.json"
    sections = {"training": [{"image": image}], "validation": [{"image": image}]}
    listed.write_text(json.dumps(sections), encoding="utf-8")
    run(NAME, "training", TRAIN, tmp_path, listed, pairs_per_scan=3, **knobs)
    record = read_json(tmp_path / "eval" / "run.json")
    assert record["status"] == "finished"
    assert {n: record["knobs"][n] for n in knobs if n in record["knobs"]} == {
        n: v for n, v in knobs.items() if n in record["knobs"]
    }
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(weight.isfinite().all() for weight in state.values())


def change(path: Path, edit: Any) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(edit(np.asarray(image.dataobj).astype(np.float32)), image.affine), path)


def with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels[3, 3, 3] = np.nan
    return voxels


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SCAN = Path("brain/image.nii.gz")
BROKEN = {
    "missing image": (lambda d: (d / SCAN).unlink(), "image.nii.gz"),
    "truncated": (lambda d: truncate(d / SCAN), "image.nii.gz"),
    "NaN voxels": (lambda d: change(d / SCAN, with_nan), "NaN"),
    "nothing but air": (lambda d: change(d / SCAN, np.zeros_like), "body_threshold"),
    "list that is no JSON": (lambda d: (d / "scans.json").write_text("{", encoding="utf-8"), "scans.json"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_scans_are_named_and_nothing_is_lost(fault: str, brain: Path, tmp_path: Path) -> None:
    shutil.copytree(brain / "brain", tmp_path / "data" / "brain")
    shutil.copy(brain / "scans.json", tmp_path / "data")
    BROKEN[fault][0](tmp_path / "data")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"precious")
    message = message_of(refused(NAME, "training", TRAIN, tmp_path, tmp_path / "data" / "scans.json"))
    assert BROKEN[fault][1] in message
    assert "\n" not in message
    assert (tmp_path / "models" / "model.pt").read_bytes() == b"precious"


def test_points_without_places_in_both_scans_cannot_be_scored(trained: Path, brain: Path, tmp_path: Path) -> None:
    shutil.copytree(brain / "brain", tmp_path / "brain")
    with open(tmp_path / "points.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["point", "x_ras_mm", "y_ras_mm", "z_ras_mm"], ["a", 0, 0, 10]])
    pair = {"case": "one", "fixed": str(SCAN), "moving": str(SCAN), "points": "points.csv"}
    (tmp_path / "pairs.json").write_text(json.dumps({"test": [pair]}), encoding="utf-8")
    weights = {"ckpt_path": str(trained / "models" / "model.pt")}
    assert "truth" in message_of(refused(NAME, "evaluating", EVALUATE, tmp_path, tmp_path / "pairs.json", **weights))


def test_missing_and_other_weights_are_refused(trained: Path, pairs: Path, tmp_path: Path) -> None:
    assert "train first" in message_of(refused(NAME, "evaluating", EVALUATE, tmp_path, pairs))
    knobs, reason = ANATOMICAL_EMBEDDING.misfit
    weights = {"ckpt_path": str(trained / "models" / "model.pt")}
    assert reason in message_of(refused(NAME, "evaluating", EVALUATE, tmp_path, pairs, **weights, **knobs))


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_case(scans: Path, tmp_path: Path) -> None:
    message = message_of(refused(NAME, "training", TRAIN, tmp_path, scans, learning_rate=1e30, warmup_steps=0))
    assert "image" in message
    assert "learning_rate" in message
    assert "\n" not in message


def test_tensorboard_and_mlflow_get_loss_and_error(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = 'pip install "monai-ext[tracking]"'
    mlflow = pytest.importorskip("mlflow", reason=reason)
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run(NAME, "training", TRAIN, tmp_path, scans, tracking="mlflow", tensorboard=True, max_epochs=2, pairs_per_scan=4)
    errors = [epoch["val_match_error_mm"] for epoch in read_json(tmp_path / "eval" / "history.json")["epochs"]]
    events = board.EventAccumulator(str(tmp_path / "eval")).Reload()
    assert len(events.Scalars("train_loss")) == 4
    assert [event.value for event in events.Scalars("match_error_mm")] == pytest.approx(errors, rel=1e-5)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'eval' / 'mlruns.db'}")
    (tracked,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
    history = client.get_metric_history(tracked.info.run_id, "match_error_mm")
    assert [entry.value for entry in history] == pytest.approx(errors, rel=1e-5)


def test_verify_metadata_passes(tmp_path: Path) -> None:
    schema = schema_in(tmp_path, read_json(METADATA)["schema"])
    type_command("verify_metadata", *options(meta_file=METADATA, filepath=schema))


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_verify_net_in_out_passes_and_would_fail(config: str) -> None:
    words = options(
        net_id="network_def", meta_file=METADATA, config_file=configs(NAME, config)[0], any=20, device="cpu"
    )
    type_command("verify_net_in_out", *words, *options(base_channels=2))
    with pytest.raises(ValueError, match="channel"):
        type_command("verify_net_in_out", *words, *options(base_channels=2, embedding_dim=4))


@pytest.mark.parametrize(("kind", "part"), [("train", "train_dataset"), ("inference", "dataset")])
def test_no_property_that_monai_asks_for_is_missing(
    kind: str, part: str, scans: Path, pairs: Path, tmp_path: Path
) -> None:
    where = {"bundle_root": str(ANATOMICAL_EMBEDDING.folder)}
    data = {"train": scans, "inference": pairs}[kind]
    where |= {
        k: v
        for k, v in overrides(NAME, tmp_path, data).items()
        if kind == "train" or k in INFERENCE_KNOBS or "dir" in k
    }
    workflow = ConfigWorkflow(configs(NAME, f"{kind}.json")[0], workflow_type=kind, logging_file=False, **where)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(getattr(workflow, part))
    assert workflow.version == read_json(METADATA)["version"]


def test_exported_files_agree_with_the_network_on_a_real_volume(trained: Path, brain: Path, tmp_path: Path) -> None:
    words = options(ckpt=trained / "models" / "model.pt", image=brain / SCAN, output_dir=tmp_path, **INFERENCE_KNOBS)
    words = [word for word in words if word not in ("--base_channels", "--embedding_dim", "2", "4")]
    assert main(["export", str(ANATOMICAL_EMBEDDING.folder), *words]) == 0
    record = read_json(tmp_path / "parity.json")
    for kind in ("torchscript", "onnx"):
        assert record[kind]["passed"]
        assert record[kind]["smallest_cosine"] > 1 - 1e-6
        assert record[kind]["free_axes"] == ["batch", "depth", "height", "width"]


def test_ckpt_export_traces_the_network(trained: Path, tmp_path: Path) -> None:
    words = options(
        bundle_root=ANATOMICAL_EMBEDDING.folder, ckpt_file=trained / "models" / "model.pt",
        config_file=configs(NAME, "inference.json")[0], filepath=tmp_path / "model.ts", use_trace=True,
        input_shape=[1, 1, 9, 40, 40], base_channels=2, embedding_dim=4,
    )  # fmt: skip
    type_command("ckpt_export", "network_def", *words)
    own = network().eval()
    own.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    image = torch.rand(2, 1, 10, 33, 50)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), tuple(own(image).values()))


def test_pack_builds_a_release_with_the_network_and_no_weights(tmp_path: Path) -> None:
    assert main(["pack", str(ANATOMICAL_EMBEDDING.folder), "--output_dir", str(tmp_path)]) == 0
    release = next(tmp_path.glob("anatomical_embedding_v*.zip"))
    shutil.unpack_archive(release, tmp_path / "unpacked")
    found = {p.relative_to(tmp_path / "unpacked").as_posix() for p in (tmp_path / "unpacked").rglob("*") if p.is_file()}
    assert "anatomical_embedding/anatomical_embedding/network.py" in found
    assert not any("models/" in name for name in found)

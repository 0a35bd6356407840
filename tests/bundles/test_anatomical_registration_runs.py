# SPDX-License-Identifier: Apache-2.0
"""Anatomical registration trains on scans without labels, is scored on pairs, warps, and goes on when killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.bundle import ConfigWorkflow

from monai_ext.commands._fire import main
from monai_ext.data import read_point_pairs
from monai_ext.errors import message_of
from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from tests.bundles.profiles import ANATOMICAL_REGISTRATION
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
    type_command,
)
from tests.bundles.test_anatomical_embedding_runs import (
    change,
    final_weights,
    truncate,
    with_nan,
)
from tests.bundles.test_export import schema_in
from tests.bundles.warm_python import WarmPython

NAME = ANATOMICAL_REGISTRATION.name
METADATA = ANATOMICAL_REGISTRATION.folder / "configs" / "metadata.json"
TIMES = ("baseline", "followup")
TERMS = ("similarity", "sam_local", "sam_global")
LABELS = {"fixed_label": "followup/baseline_label.nii.gz", "moving_label": "followup/followup_label.nii.gz"}


@pytest.fixture(scope="module")
def scans(brain: Path) -> Path:
    return brain / "scans.json"


@pytest.fixture(scope="module")
def listed(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs with points, one of them with labels, in all sections but validation, which has no points."""
    pair = {**LABELS, "fixed": "followup/baseline.nii.gz", "moving": "followup/followup.nii.gz"}
    pairs = [
        {**pair, "points": "followup/points.csv", "case": "followup"},
        {"fixed": "brain/image.nii.gz", "moving": "pairs/hard/moving.nii.gz", "points": "pairs/hard/points.csv"},
    ]
    absolute = [{k: str(brain / v) if "/" in v else v for k, v in entry.items()} for entry in (*pairs, pair)]
    path = tmp_path_factory.mktemp("listed") / "pairs.json"
    content = {"training": absolute[:1], "validation": absolute[2:], "test": absolute[:2]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of an embedder."""
    path = tmp_path_factory.mktemp("embedder") / "model.pt"
    torch.manual_seed(3)
    torch.save(AnatomicalEmbeddingNet(base_channels=2, embedding_dim=4).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(scans: Path, listed: Path, embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs that was evaluated."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        known = {"embedder_path": str(embedder), "untrained_embedder": False}
        run(NAME, "training", TRAIN, folder, scans, max_epochs=2, **known)
        run(NAME, "evaluating", EVALUATE, folder, listed)
    return folder


def weights_of(folder: Path) -> dict[str, str]:
    return {"ckpt_path": str(folder / "models" / "model.pt")}


def test_training_records_its_loss_and_keeps_the_epoch_of_smallest_error(trained: Path) -> None:
    epochs = read_json(trained / "eval" / "history.json")["epochs"]
    for epoch in epochs:
        parts = sum(epoch[f"train_loss_{term}"] for term in TERMS) + 0.02 * epoch["train_loss_diffusion"]
        assert epoch["train_loss"] == pytest.approx(parts, rel=1e-4)
    errors = [epoch["val_registration_error"] for epoch in epochs]
    best = read_json(trained / "eval" / "run.json")["best"]
    assert (best["metric"], best["value"]) == ("registration_error", min(errors))
    assert (trained / "eval" / "overlays" / "epoch_0002.png").is_file()


def test_the_embedder_is_what_it_was_and_the_rest_is_bound_to_it(trained: Path, embedder: Path) -> None:
    whole = torch.load(trained / "models" / "model.pt", weights_only=True)
    given = torch.load(embedder, weights_only=True)
    assert all(torch.equal(whole[f"embedder.{name}"], weight) for name, weight in given.items())
    own = network(embedder_path=embedder).load_pretrained(trained / "models" / ANATOMICAL_REGISTRATION.trained_file)
    assert all(torch.equal(weight, whole[name]) for name, weight in own.state_dict().items())
    assert whole[ANATOMICAL_REGISTRATION.learns].abs().sum() > 0


def test_evaluation_scores_every_pair(trained: Path, brain: Path) -> None:
    rows = {row["case"]: row for row in rows_of(trained / "eval" / "cases.csv")}
    assert set(rows) == {"followup", "image_to_moving"}
    fixed, moving = read_point_pairs(brain / "followup" / "points.csv", "baseline", "followup")
    apart = (fixed.points - moving.points).norm(dim=1).mean()
    assert float(rows["followup"]["tre_unaligned_mm"]) == pytest.approx(float(apart), rel=1e-6)
    summary = read_json(trained / "eval" / "summary.json")
    errors = [float(row["tre_after_mm"]) for row in rows.values()]
    assert summary["scores"]["tre_after_mm"]["mean"] == pytest.approx(np.mean(errors))
    assert (summary["scores"]["dice_after"]["n"], summary["scores"]["ncc_after"]["n"]) == (1, 2)
    assert [row["label"] for row in rows_of(trained / "eval" / "labels.csv")] == list(summary["labels"])
    metrics = read_json(trained / "eval" / "evaluation.json")["metrics"]
    assert metrics["registration_error"] == pytest.approx(np.mean(errors), abs=1e-4)


@pytest.fixture(scope="module")
def warped(trained: Path, listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What inference wrote, from the command line."""
    folder = tmp_path_factory.mktemp("warped")
    files = overrides(NAME, folder, listed)
    knobs = {**ANATOMICAL_REGISTRATION.inference_knobs, **weights_of(trained)}
    knobs |= {name: files[name] for name in ("dataset_dir", "output_dir", "ckpt_dir")}
    config = {"config_file": configs(NAME, *INFERENCE)[0], "bundle_root": ANATOMICAL_REGISTRATION.folder}
    type_command("run", "inferring", *options(**config, logging_file=False, **knobs))
    return folder / "eval" / "registrations"


def test_simpleitk_warps_the_scan_as_inference_does(warped: Path, brain: Path) -> None:
    fixed, moving = (sitk.ReadImage(str(brain / "followup" / f"{name}.nii.gz"), sitk.sitkFloat64) for name in TIMES)
    transform = sitk.ReadTransform(str(warped / "followup" / "transform.h5"))
    ours = sitk.ReadImage(str(warped / "followup" / "warped.nii.gz"), sitk.sitkFloat64)
    assert (ours.GetSize(), ours.GetOrigin()) == (fixed.GetSize(), fixed.GetOrigin())
    least, most = sitk.GetArrayFromImage(moving).min(), sitk.GetArrayFromImage(moving).max()
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float(least)))
    np.testing.assert_allclose(sitk.GetArrayFromImage(ours), theirs, atol=1e-3 * (most - least))
    label = sitk.ReadImage(str(brain / LABELS["moving_label"]))
    labels = sitk.GetArrayFromImage(sitk.Resample(label, fixed, transform, sitk.sitkNearestNeighbor, 0))
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(warped / "followup" / "warped_label.nii.gz")))
    assert np.mean(written != labels) < 1e-4  # halfway between two voxels either is nearest
    assert len(np.unique(written)) > 1


def test_points_go_where_evaluation_says_in_simpleitk_too(warped: Path, trained: Path, brain: Path) -> None:
    fixed, moving = (p.points.numpy() for p in read_point_pairs(brain / "followup" / "points.csv", *TIMES))
    forward = sitk.ReadTransform(str(warped / "followup" / "transform.h5"))
    flip = np.array([-1, -1, 1])
    found = np.array([forward.TransformPoint(point) for point in fixed * flip])
    error = np.linalg.norm(found * flip - moving, axis=1).mean()
    (row,) = (row for row in rows_of(trained / "eval" / "cases.csv") if row["case"] == "followup")
    assert float(row["tre_after_mm"]) == pytest.approx(error, abs=1e-3)
    assert read_json(warped / "followup" / "registration.json")["tre_after_mm"] == pytest.approx(error, abs=1e-3)


def test_another_evaluation_is_compared_pair_by_pair(trained: Path, listed: Path, tmp_path: Path) -> None:
    run(NAME, "evaluating", EVALUATE, tmp_path, listed, **weights_of(trained), compare_to=str(trained / "eval"))
    compared = read_json(tmp_path / "eval" / "paired.json")["scores"]
    assert {name: entry["verdict"] for name, entry in compared.items()} == dict.fromkeys(
        ("tre_after_mm", "dice_after", "ncc_after"), "equal"
    )


def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(scans: Path, warm: WarmPython, tmp_path: Path) -> None:
    knobs = {"max_epochs": 4, "pairs_per_epoch": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(NAME, "training", TRAIN, whole, scans, **knobs)
    words = command(NAME, "training", TRAIN, killed, scans, **{**knobs, "num_workers": 1})
    warm.kill(words, tmp_path, when=lambda: has_epochs(killed, 2))
    assert len(read_json(killed / "eval" / "history.json")["epochs"]) < 4
    run(NAME, "training", TRAIN, killed, scans, **knobs, resume=True)
    expected, resumed = final_weights(whole), final_weights(killed)
    assert all(torch.equal(expected[n], resumed[n]) for n in expected)
    epochs = [read_json(folder / "eval" / "history.json")["epochs"] for folder in (whole, killed)]
    losses = [[(e["epoch"], e["train_loss"], e["val_registration_error"]) for e in history] for history in epochs]
    assert losses[0] == losses[1]


def test_resuming_with_other_knobs_is_refused(scans: Path, tmp_path: Path) -> None:
    run(NAME, "training", TRAIN, tmp_path, scans, pairs_per_epoch=1)
    changed = {"pairs_per_epoch": 1, "resume": True, "lambda_reg": 1.0, "max_epochs": 2}
    assert "lambda_reg" in str(refused(NAME, "training", TRAIN, tmp_path, scans, **changed))


def test_two_processes_train_and_report_the_same(scans: Path, warm: WarmPython, tmp_path: Path) -> None:
    words = command(NAME, "training", (*TRAIN, "multi_gpu_train.json"), tmp_path, scans)
    result = warm.torchrun(words, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert read_json(tmp_path / "eval" / "run.json")["hardware"]["processes"] == 2
    errors = [line.split("registration_error: ")[1] for line in result.stdout.splitlines() if "new best" in line]
    assert len(errors) == 2
    assert errors[0] == errors[1]
    assert set(torch.load(tmp_path / "models" / "model.pt", weights_only=True)) == set(network().state_dict())


def test_two_processes_score_as_one(trained: Path, listed: Path, warm: WarmPython, tmp_path: Path) -> None:
    words = command(NAME, "evaluating", (*EVALUATE, "multi_gpu_evaluate.json"), tmp_path, listed, **weights_of(trained))
    scored = warm.torchrun(words, tmp_path)
    assert scored.returncode == 0, scored.stderr[-2000:]
    ours, theirs = (read_json(folder / "eval" / "summary.json") for folder in (tmp_path, trained))
    assert ours["scores"] == theirs["scores"]


def network(**knobs: Any) -> Any:
    return ANATOMICAL_REGISTRATION.network(**{**ANATOMICAL_REGISTRATION.arguments, **knobs})


KNOBS = {
    "plain-lncc-canonical-accumulation-clipping-amp": {
        "use_correlation": False, "lambda_sam": 0.0, "similarity": "lncc", "kernel_size": 5, "reg_units": "canonical",
        "amp": True, "accumulation_steps": 2, "clip_norm": 1.0, "focus": [0.1, 0.9], "prealign": "none",
    },
    "labels-affine-batch-compiled": {
        "lambda_dice": 1.0, "num_classes": 3, "similarity": "mi", "prealign": "affine", "batch_size": 2,
        "spatial_size": [16, 32, 32], "compile": True, "train#trainer#compile_kwargs": {"backend": "eager"},
        "pairs_per_epoch": 4, "min_points": 100,
    },
}  # fmt: skip


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_knobs_train_on_listed_pairs_and_are_kept_by_their_loss(
    knobs: dict[str, Any], listed: Path, tmp_path: Path
) -> None:
    run(NAME, "training", TRAIN, tmp_path, listed, **knobs)
    record = read_json(tmp_path / "eval" / "run.json")
    assert record["status"] == "finished"
    assert {n: record["knobs"][n] for n in knobs if n in record["knobs"]} == {
        n: v for n, v in knobs.items() if n in record["knobs"]
    }
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(weight.isfinite().all() for weight in state.values())
    assert record["best"]["value"] < 5  # a loss and no mm: validation has no points


def test_known_displacements_are_learned_from_by_least_squares_and_by_the_loss(scans: Path, tmp_path: Path) -> None:
    knobs = {"readout_sigma": 1.0, "center_correlation": True, "lambda_truth": 0.5, "random_center": True}
    schedule = {"readout_pairs": 2, "spatial_size": [16, 24, 24], "power": 1.0, "max_epochs": 2}
    run(NAME, "training", TRAIN, tmp_path, scans, **knobs, **schedule)
    epochs = read_json(tmp_path / "eval" / "history.json")["epochs"]
    for epoch in epochs:
        weights = {**dict.fromkeys(TERMS, 1.0), "diffusion": 0.02, "truth": 0.5}
        parts = sum(weight * epoch[f"train_loss_{term}"] for term, weight in weights.items())
        assert epoch["train_loss"] == pytest.approx(parts, rel=1e-4)
    assert epochs[1]["learning_rate"] == pytest.approx(0.5 * epochs[0]["learning_rate"])
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    readout = state["registration.readout.sum.weight"]
    assert readout.abs().max() > 2 * 3 * 2 * 0.01  # more than all of Adam's steps could do
    changed = {**knobs, **schedule, "readout_sigma": 2.0, "max_epochs": 3}
    assert "readout_sigma" in str(refused(NAME, "training", TRAIN, tmp_path, scans, **changed, resume=True))


def test_scans_of_other_subjects_make_pairs_and_same_seed_same_result(brain: Path, tmp_path: Path) -> None:
    images = [{"image": str(brain / name)} for name in ("followup/baseline.nii.gz", "followup/followup.nii.gz", SCAN)]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": images[:2], "validation": images[2:]}), encoding="utf-8")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        run(NAME, "training", TRAIN, folder, path, pairs_per_epoch=2)
    first, second = map(final_weights, folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    aligned = {read_json(p)["pair"] for p in (folders[0] / "eval" / "cache").glob("*.prealign.json")}
    assert aligned <= {"baseline_to_followup", "followup_to_baseline"}
    assert aligned
    assert len(list((folders[0] / "eval" / "cache").glob("*.scan.json"))) == 3


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


def test_labels_that_the_loss_needs_are_asked_for(scans: Path, tmp_path: Path) -> None:
    message = message_of(refused(NAME, "training", TRAIN, tmp_path, scans, lambda_dice=1.0))
    assert "set lambda_dice to 0" in message


def test_missing_and_other_weights_are_refused(trained: Path, scans: Path, listed: Path, tmp_path: Path) -> None:
    assert "train first" in message_of(refused(NAME, "evaluating", EVALUATE, tmp_path, listed))
    assert "embedder_path is not set" in message_of(
        refused(NAME, "training", TRAIN, tmp_path, scans, untrained_embedder=False)
    )
    knobs, reason = ANATOMICAL_REGISTRATION.misfit
    assert reason in message_of(refused(NAME, "evaluating", EVALUATE, tmp_path, listed, **weights_of(trained), **knobs))


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_case(scans: Path, tmp_path: Path) -> None:
    message = message_of(refused(NAME, "training", TRAIN, tmp_path, scans, learning_rate=1e30))
    assert "image" in message
    assert "learning_rate" in message
    assert "\n" not in message


def test_verify_metadata_passes(tmp_path: Path) -> None:
    schema = schema_in(tmp_path, read_json(METADATA)["schema"])
    type_command("verify_metadata", *options(meta_file=METADATA, filepath=schema))


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_verify_net_in_out_passes_and_would_fail(config: str) -> None:
    words = options(
        net_id="network_def", meta_file=METADATA, config_file=configs(NAME, config)[0], any=20, device="cpu"
    )
    small = ANATOMICAL_REGISTRATION.inference_knobs
    type_command("verify_net_in_out", *words, *options(**small))
    with pytest.raises(ValueError, match="image must be"):
        type_command("verify_net_in_out", *words, *options(**small, in_channels=2))


@pytest.mark.parametrize(("kind", "part"), [("train", "train_dataset"), ("inference", "dataset")])
def test_no_property_that_monai_asks_for_is_missing(
    kind: str, part: str, scans: Path, listed: Path, tmp_path: Path
) -> None:
    known = read_json(ANATOMICAL_REGISTRATION.folder / "configs" / f"{kind}.json")
    given = overrides(NAME, tmp_path, {"train": scans, "inference": listed}[kind])
    where = {"bundle_root": str(ANATOMICAL_REGISTRATION.folder), **{k: v for k, v in given.items() if k in known}}
    workflow = ConfigWorkflow(configs(NAME, f"{kind}.json")[0], workflow_type=kind, logging_file=False, **where)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(getattr(workflow, part))
    assert workflow.version == read_json(METADATA)["version"]


def test_the_traced_file_registers_a_real_pair_as_the_network_does(trained: Path, brain: Path, tmp_path: Path) -> None:
    words = options(
        bundle_root=ANATOMICAL_REGISTRATION.folder, ckpt_file=trained / "models" / "model.pt",
        config_file=configs(NAME, "inference.json")[0], filepath=tmp_path / "model.ts", use_trace=True,
        input_shape=[1, 2, 9, 40, 36], **ANATOMICAL_REGISTRATION.arguments,
    )  # fmt: skip
    type_command("ckpt_export", "network_def", *words)
    own = network().eval()
    own.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    voxels = [np.asarray(nib.load(brain / "followup" / f"{time}.nii.gz").dataobj, np.float32) for time in TIMES]
    image = torch.stack([torch.from_numpy(v / v.max())[:40, :37, :11] for v in voxels])[None]
    with torch.no_grad():
        expected = own(image)
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, atol=1e-4, rtol=0)
    assert expected.abs().max() > 1e-3


def test_pack_builds_a_release_with_the_network_and_no_weights(tmp_path: Path) -> None:
    assert main(["pack", str(ANATOMICAL_REGISTRATION.folder), "--output_dir", str(tmp_path)]) == 0
    release = next(tmp_path.glob("anatomical_registration_v*.zip"))
    shutil.unpack_archive(release, tmp_path / "unpacked")
    found = {p.relative_to(tmp_path / "unpacked").as_posix() for p in (tmp_path / "unpacked").rglob("*") if p.is_file()}
    assert "anatomical_registration/anatomical_registration/network.py" in found
    assert not any("models/" in name for name in found)

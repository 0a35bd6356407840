# SPDX-License-Identifier: Apache-2.0
"""Knobs of SAMora's first stage do what they say, wrong input gets one clear line, and trackers get theirs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.errors import message_of
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.teacher_file import save_teacher
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.mae import build_mae
from monai_ext.networks.nets.sam import build_plain_sam
from tests.bundles.pretraining import (
    EPOCHS,
    SIDE,
    STAGES,
    command,
    history,
    losses,
    network_before,
    pretrain,
    refused,
    written,
)
from tests.bundles.runs import read_json
from tests.bundles.warm_python import WarmPython


@pytest.fixture(scope="module")
def scans(brain: Path) -> Path:
    return brain / "datalist.json"


KNOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "image: projections, l2, three slices, coronal, amp, accumulation, clipping": (
        "pretrain_image",
        {
            "teacher_feature": "projection", "recon": "l2", "slice_context": 1, "plane": "coronal", "amp": True,
            "accumulation_steps": 2, "clip_norm": 1.0, "lora_blocks": [0, 3],
        },
    ),
    "image: an early stage at another size, l1, z-score": (
        "pretrain_image",
        {"teacher_layer": 2, "teacher_size": 48, "recon": "l1", "intensity": "zscore", "lora_alpha": 2.0},
    ),
    "patch: an early layer on another grid": (
        "pretrain_patch", {"teacher_layer": 2, "teacher_size": 48, "alignment": "bicubic", "use_checkpoint": True},
    ),
    "pixel: blur, clipping of noise, window, all slices": (
        "pretrain_pixel",
        {
            "blur_prob": 1.0, "noise_clip": True, "intensity": "window", "intensity_upper": 200,
            "empty_slices": 1.0,
        },
    ),
    "image teacher: all of the image, no blur, warm": (
        "pretrain_image_teacher", {"crop_scale": 1.0, "jitter": 0.0, "blur_prob": 0.0, "temperature": 1.0},
    ),
    "patch teacher: half of the patches, normalised, as they are": (
        "pretrain_patch_teacher", {"mask_ratio": 0.5, "norm_pix_loss": True, "augment": False, "warmup_share": 0.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("stage", "knobs"), KNOBS.values(), ids=KNOBS)
def test_knobs_train_and_are_recorded(stage: str, knobs: dict[str, Any], scans: Path, tmp_path: Path) -> None:
    pretrain(stage, tmp_path, scans, max_epochs=1, **knobs)
    record = read_json(tmp_path / "eval" / "run.json")
    assert record["status"] == "finished"
    told = {name: value for name, value in knobs.items() if "#" not in name}
    assert {name: record["knobs"][name] for name in told} == told
    assert 0 < losses(tmp_path)[0][2] < 1e3
    assert written(stage, tmp_path).is_file()


def test_any_number_of_modalities_denoises(brain: Path, tmp_path: Path) -> None:
    item = {"image": [str(brain / "slabs" / "validation_image.nii.gz")] * 4}
    (tmp_path / "four.json").write_text(str({"training": [item]}).replace("'", '"'), encoding="utf-8")
    pretrain("pretrain_pixel", tmp_path, tmp_path / "four.json", max_epochs=1, in_channels=4)
    assert ExpertFile.read(written("pretrain_pixel", tmp_path)).level == "pixel"


def test_a_folder_of_pictures_is_enough(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        picture = numbers.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"{index}.png")
    more = {"max_epochs": 1, "in_channels": 3, "intensity": "unit"}
    pretrain("pretrain_image_teacher", tmp_path, tmp_path / "pictures", **more, val_fraction=0.4)
    more |= {"teacher_path": str(written("pretrain_image_teacher", tmp_path)), "untrained_teacher": False}
    pretrain("pretrain_image", tmp_path, tmp_path / "pictures", **more)
    assert ExpertFile.read(written("pretrain_image", tmp_path)).teacher.startswith("teacher_image")


def test_a_teacher_is_asked_once_about_what_always_looks_the_same(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    teach = Distillation.teach

    def counted(network: Distillation, image: torch.Tensor) -> torch.Tensor:
        asked.append(len(image))
        return teach(network, image)

    monkeypatch.setattr(Distillation, "teach", counted)
    kept = pretrain("pretrain_patch", tmp_path / "kept", scans, augment=False)
    once, asked[:] = len(asked), []
    each = pretrain("pretrain_patch", tmp_path / "each", scans, augment=False, teacher_memory_mb=0)
    assert sum(asked) == EPOCHS * once
    for one, other in zip(losses(kept), losses(each), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(path: Path) -> None:
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).astype(np.float32)
    voxels[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), path)


IMAGE = Path("slabs/training_image.nii.gz")
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing folder": (shutil.rmtree, "dataset_dir"),
    "missing image": (lambda d: (d / IMAGE).unlink(), "training_image"),
    "truncated": (lambda d: truncate(d / IMAGE), "training_image"),
    "NaN voxels": (lambda d: with_nan(d / IMAGE), "NaN"),
    "nothing in any scan": (
        lambda d: [nib.save(nib.Nifti1Image(np.ones((4, 4, 4)), np.eye(4)), path) for path in d.glob("slabs/*image*")],
        "no slice remains",
    ),
    "data list that is no JSON": (lambda d: (d / "datalist.json").write_text("{", encoding="utf-8"), "datalist"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_scans_are_named_and_nothing_is_lost(fault: str, brain: Path, tmp_path: Path) -> None:
    shutil.copytree(brain / "slabs", tmp_path / "data" / "slabs")
    shutil.copy(brain / "datalist.json", tmp_path / "data")
    BROKEN[fault][0](tmp_path / "data")
    expert = written("pretrain_pixel", tmp_path)
    expert.parent.mkdir()
    expert.write_bytes(b"precious")
    message = message_of(refused("pretrain_pixel", tmp_path, tmp_path / "data"))
    assert BROKEN[fault][1] in message
    assert "\n" not in message
    assert expert.read_bytes() == b"precious"


def test_the_program_says_in_one_line_where_a_teacher_is_to_be_had(
    scans: Path, warm: WarmPython, tmp_path: Path
) -> None:
    result = warm.call(command("pretrain_image", tmp_path, scans, untrained_teacher=False), tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: teacher_path is not set: give SimCLRv2's r50_2x_sk1 (gs://")


def test_weights_that_do_not_fit_are_named(scans: Path, tmp_path: Path) -> None:
    sam, mae = tmp_path / "sam.pth", tmp_path / "mae.safetensors"
    torch.save(build_plain_sam("vit_tiny", 64).state_dict(), sam)
    save_teacher(build_mae("small", 64), mae)
    given = {"teacher_path": str(mae), "untrained_teacher": False}
    for stage, more, told in (
        ("pretrain_pixel", {"pretrained": str(mae)}, "mae.safetensors"),
        ("pretrain_pixel", {"pretrained": str(tmp_path / "none.pth")}, "none.pth"),
        ("pretrain_image", given, "mae.safetensors"),
        ("pretrain_patch", given, "teacher_size"),
        ("pretrain_patch", {**given, "teacher": "vit_base"}, "mae.safetensors (teacher small)"),
    ):
        message = message_of(refused(stage, tmp_path, scans, **more))
        assert told in message
        assert "\n" not in message


def test_a_switch_in_the_wrong_spelling_is_not_taken_for_true(scans: Path, tmp_path: Path) -> None:
    assert "--augment False" in message_of(refused("pretrain_pixel", tmp_path, scans, augment="false"))


def test_resuming_with_other_knobs_is_refused(scans: Path, tmp_path: Path) -> None:
    pretrain("pretrain_pixel", tmp_path, scans, max_epochs=1)
    more = {"resume": True, "max_epochs": 2, "noise_sigma": 0.3}
    assert "noise_sigma" in message_of(refused("pretrain_pixel", tmp_path, scans, **more))


def test_published_weights_of_sam_are_what_an_expert_belongs_to(scans: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    sam = build_plain_sam("vit_tiny", 64)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    network = network_before("pretrain_pixel", scans, pretrained=str(tmp_path / "sam.pth"))
    own = network.student.image_encoder.state_dict()  # type: ignore[union-attr, operator]
    assert torch.equal(own["blocks.0.attn.qkv.weight"], sam.image_encoder.blocks[0].attn.qkv.weight)
    assert own["pos_embed"].shape[1] == SIDE // 16


@pytest.mark.parametrize("stage", STAGES)
def test_tensorboard_and_mlflow_get_loss_held_out_loss_and_pictures(
    stage: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = 'pip install "monai-ext[tracking]"'
    mlflow = pytest.importorskip("mlflow", reason=reason)
    board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pretrain(stage, tmp_path, scans, tracking="mlflow", tensorboard=True, max_epochs=2)
    held_out = [row["val_held_out_loss"] for row in history(tmp_path)]
    events = board.EventAccumulator(str(tmp_path / "eval")).Reload()
    steps = len(events.Scalars("train_loss"))
    assert steps >= 2
    assert steps % 2 == 0
    assert [event.value for event in events.Scalars("held_out_loss")] == pytest.approx(held_out, rel=1e-5)
    assert [picture.step for picture in events.Images("overlays")] == [1, 2]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'eval' / 'mlruns.db'}")
    (tracked,) = client.search_runs([client.get_experiment_by_name("monai_experiment").experiment_id])
    tracked_losses = client.get_metric_history(tracked.info.run_id, "held_out_loss")
    assert [entry.value for entry in tracked_losses] == pytest.approx(held_out, rel=1e-5)
    assert len(client.get_metric_history(tracked.info.run_id, "train_loss")) == steps
    pictures = {artifact.path for artifact in client.list_artifacts(tracked.info.run_id, "overlays")}
    assert pictures == {"overlays/epoch_0001.png", "overlays/epoch_0002.png"}

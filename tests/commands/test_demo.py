# SPDX-License-Identifier: Apache-2.0
"""The demo command, small: every step really runs and leaves its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

TINY = {"max_epochs": 1, "val_interval": 1, "inference_batch_size": 16}
TINY_SAM2_UNET = {**TINY, "backbone": "nano", "image_size": 32}
TINY_SAM_SP = {**TINY, "image_size": 64}


def demo(folder: Path, *words: str, **knobs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai_ext", "demo", *words, "--output_dir", "out", "--resolution", "4"]
    command += [word for key, value in knobs.items() for word in (f"--{key}", str(value))]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)


def check_what_was_made(result: subprocess.CompletedProcess[str], out: Path, bundle: str, report: str) -> None:
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    prediction = nib.load(out / bundle / "eval" / "predictions" / "image.nii.gz")
    source = nib.load(out / "data" / "brain" / "image.nii.gz")
    assert prediction.shape == source.shape
    assert (prediction.affine == source.affine).all()
    parity = json.loads((out / bundle / "models" / "parity.json").read_text(encoding="utf-8"))
    assert max(parity[kind]["max_abs_difference"] for kind in ("torchscript", "onnx")) < 1e-4
    assert "<html" in (out / report).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_leaves_everything_it_promises(tmp_path: Path) -> None:
    result = demo(tmp_path, **TINY_SAM2_UNET)
    check_what_was_made(result, tmp_path / "out", "sam2_unet", "report.html")
    assert "Dice white matter" in result.stdout


@pytest.mark.slow
def test_the_demo_of_self_prompting_scores_the_first_mask_and_the_true_box_too(tmp_path: Path) -> None:
    result = demo(tmp_path, "sam_sp", **TINY_SAM_SP)
    check_what_was_made(result, tmp_path / "out", "sam_sp", "report_sam_sp.html")
    (line,) = (line for line in result.stdout.splitlines() if "Dice brain tissue" in line)
    assert "first mask" in line
    assert "true box" in line
    sources = {}
    for summary in (tmp_path / "out" / "sam_sp" / "eval").rglob("summary.json"):
        sources[summary.parent.name] = json.loads(summary.read_text(encoding="utf-8"))["conventions"]["prompt_source"]
    assert sources == {"eval": "self", "first_mask": "null", "true_box": "truth"}


def test_a_failing_step_is_named(tmp_path: Path) -> None:
    result = demo(tmp_path, **{**TINY_SAM2_UNET, "max_epochs": "none"})
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: training: ")

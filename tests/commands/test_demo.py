# SPDX-License-Identifier: Apache-2.0
"""The demo command, small: every step really runs and leaves its file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

TINY = {"backbone": "nano", "image_size": 32, "max_epochs": 1, "val_interval": 1, "inference_batch_size": 16}


def demo(folder: Path, **knobs: object) -> subprocess.CompletedProcess[str]:
    words = ["-m", "monai_ext", "demo", "--output_dir", "out", "--resolution", "4"]
    words += [word for key, value in {**TINY, **knobs}.items() for word in (f"--{key}", str(value))]
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_the_demo_leaves_everything_it_promises(tmp_path: Path) -> None:
    result = demo(tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    out = tmp_path / "out"
    prediction = nib.load(out / "sam2_unet" / "eval" / "predictions" / "image.nii.gz")
    source = nib.load(out / "data" / "brain" / "image.nii.gz")
    assert prediction.shape == source.shape
    assert (prediction.affine == source.affine).all()
    parity = json.loads((out / "sam2_unet" / "models" / "parity.json").read_text(encoding="utf-8"))
    assert max(parity[kind]["max_abs_difference"] for kind in ("torchscript", "onnx")) < 1e-4
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    assert "Dice white matter" in result.stdout


def test_a_failing_step_is_named(tmp_path: Path) -> None:
    result = demo(tmp_path, max_epochs="none")
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: training: ")

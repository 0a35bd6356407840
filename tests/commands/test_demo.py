# SPDX-License-Identifier: Apache-2.0
"""The demo command, small: every step really runs and leaves its file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import pytest

from monai_ext.commands.demo import demo
from monai_ext.errors import InputError
from tests.bundles.runs import environment
from tests.bundles.warm_python import WarmPython

TINY = {"max_epochs": 1, "val_interval": 1, "inference_batch_size": 16, "resolution": 4}
TINY_SAM2_UNET = {**TINY, "backbone": "nano", "image_size": 32}
TINY_SAM_SP = {**TINY, "image_size": 64}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmPython]:
    """Runs each step as a process of its own that has imported MONAI already."""
    with WarmPython(environment()) as python:
        yield python


@pytest.fixture
def run(warm: WarmPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the demo into the folder ``out`` and return what it printed; what its steps print is in steps.stdout."""
    (tmp_path / "steps").mkdir()
    small: list[str] = []

    def call(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return warm.call([*words[1:], *(small if "export" in words else [])], tmp_path / "steps")

    def run_demo(bundle: str, export: tuple[str, ...] = (), **knobs: object) -> str:
        small[:] = export
        demo(bundle, str(tmp_path / "out"), **knobs)
        return capsys.readouterr().out

    monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", call)
    return run_demo


def check_what_was_made(out: Path, bundle: str, report: str) -> None:
    prediction = nib.load(out / bundle / "eval" / "predictions" / "image.nii.gz")
    source = nib.load(out / "data" / "brain" / "image.nii.gz")
    assert prediction.shape == source.shape
    assert (prediction.affine == source.affine).all()
    parity = json.loads((out / bundle / "models" / "parity.json").read_text(encoding="utf-8"))
    assert max(parity[kind]["max_abs_difference"] for kind in ("torchscript", "onnx") if kind in parity) < 1e-4
    assert "<html" in (out / report).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_leaves_everything_it_promises(run: Run, tmp_path: Path) -> None:
    printed = run("sam2_unet", **TINY_SAM2_UNET)
    check_what_was_made(tmp_path / "out", "sam2_unet", "report.html")
    assert "Dice white matter" in printed


@pytest.mark.slow
def test_the_demo_of_self_prompting_scores_the_first_mask_and_the_true_box_too(run: Run, tmp_path: Path) -> None:
    printed = run("sam_sp", export=("--formats", "torchscript"), **TINY_SAM_SP)
    check_what_was_made(tmp_path / "out", "sam_sp", "report_sam_sp.html")
    (line,) = (line for line in printed.splitlines() if "Dice brain tissue" in line)
    assert "first mask" in line
    assert "true box" in line
    sources = {}
    for summary in (tmp_path / "out" / "sam_sp" / "eval").rglob("summary.json"):
        sources[summary.parent.name] = json.loads(summary.read_text(encoding="utf-8"))["conventions"]["prompt_source"]
    assert sources == {"eval": "self", "first_mask": "null", "true_box": "truth"}


def test_a_failing_step_is_named(run: Run) -> None:
    with pytest.raises(InputError, match=r"^training: the command above ended with status 1"):
        run("sam2_unet", **{**TINY_SAM2_UNET, "max_epochs": "none"})

# SPDX-License-Identifier: Apache-2.0
"""The commands of anatomical registration's card are executed, in their order, as they are written; only made small."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch

from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from tests.bundles.profiles import ANATOMICAL_REGISTRATION as PROFILE
from tests.bundles.runs import read_json, rows_of
from tests.bundles.test_model_card_commands import commands_of
from tests.bundles.warm_python import WarmPython

pytestmark = pytest.mark.slow


def words_of(line: str, bundle: Path, places: dict[str, Path]) -> list[str]:
    """What python is to be given: places filled in, and small knobs where a network is run."""
    words = [str(places.get(word, word)) for word in shlex.split(line)]
    words = [word.replace("B/", f"{bundle}/") if "B/" in word else word for word in words]
    words = [str(bundle) if word == "B" else word for word in words]
    if words[0] == "torchrun":
        words = ["python", "-m", "torch.distributed.run", "--standalone", *words[1:]]
    assert words[0] == "python"
    if "monai.bundle" in words:
        knobs = PROFILE.inference_knobs if "inferring" in words else PROFILE.tiny
        given = {**knobs, "untrained_embedder": False}
        words += [part for name, value in given.items() for part in (f"--{name}", str(value))]
    if "export" in words:  # test_anatomical_registration_export.py writes ONNX, too, which takes minutes
        words += ["--formats", "torchscript"]
        words += [part for name, value in PROFILE.arguments.items() for part in (f"--{name}", str(value))]
    if "multi_gpu_train" in line:
        words += ["--output_dir", "many", "--ckpt_dir", "many"]
    return words[1:]


def test_the_commands_of_the_card_work_one_after_the_other(brain: Path, warm: WarmPython, tmp_path: Path) -> None:
    bundle = tmp_path / PROFILE.name  # `python -m monai_ext COMMAND NAME` finds it here
    shutil.copytree(PROFILE.folder, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    torch.save(AnatomicalEmbeddingNet(base_channels=2, embedding_dim=4).state_dict(), tmp_path / "embedder.pt")
    places = {"SCANS": brain / "scans.json", "PAIRS": brain / "pairs.json", "EMBEDDER": tmp_path / "embedder.pt"}
    lines = commands_of(bundle / "docs" / "README.md")
    assert len(lines) == 6
    for line in lines:
        result = warm.call(words_of(line, bundle, places), tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stdout[-1500:]}\n{result.stderr[-1500:]}"
    assert read_json(tmp_path / "many" / "run.json")["hardware"]["processes"] == 2
    scored = {row["case"] for row in rows_of(bundle / "eval" / "cases.csv")}
    written = (bundle / "eval" / "registrations").glob("*/warped.nii.gz")
    assert {path.parent.name for path in written} == scored
    assert read_json(bundle / "models" / "parity.json")["torchscript"]["passed"]
    assert list((tmp_path / "dist").glob("anatomical_registration*.zip"))

# SPDX-License-Identifier: Apache-2.0
"""The commands of the model card are executed, in their order, as they are written there; only made small."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.bundles.profiles import Profile
from tests.bundles.runs import read_json
from tests.bundles.warm_python import WarmPython

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Executed:
    """Where the commands ran, the copy of the bundle there, and what each of them printed."""

    folder: Path
    bundle: Path
    results: dict[str, CompletedProcess[str]]


def commands_of(card: Path) -> list[str]:
    """Lines of the first block under "Commands", without comments, continued lines joined."""
    block = re.search(r"\n## Commands\n.*?```\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert block is not None
    lines = re.sub(r"\\\n\s*", " ", block.group(1)).splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def words_of(line: str, profile: Profile, bundle: Path, data: Path, scan: Path) -> list[str]:
    """What python is to be given: places filled in, and small knobs where a network is run."""
    line = re.sub(r"\bB(?=[/ ]|$)", str(bundle), line)
    line = re.sub(r"\bDATA\b", str(data), line)
    line = re.sub(r"\bSCANS\b", str(scan), line)
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", "-m", "torch.distributed.run", "--standalone", *words[1:]]
    assert words[0] == "python"
    small = shlex.split(profile.card) if {"monai.bundle", "embed"} & set(words) else []
    if "multi_gpu_train" in line:
        small += ["--num_classes", str(profile.tiny["num_classes"]), "--output_dir", "many", "--ckpt_dir", "many"]
    if "export" in words:
        small += ["--image", str(scan), *shlex.split(profile.export)]  # without an image, noise is compared
    return [*words[1:], *small]


@pytest.fixture(scope="module")
def executed(
    profile: Profile, data: Path, scan: Path, warm: WarmPython, tmp_path_factory: pytest.TempPathFactory
) -> Executed:
    folder = tmp_path_factory.mktemp("card")
    bundle = folder / profile.name  # `python -m monai_ext COMMAND NAME` finds it here
    shutil.copytree(profile.folder, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    profile.card_weights(folder)
    results = {}
    for line in commands_of(bundle / "docs" / "README.md"):
        result = results[line] = warm.call(words_of(line, profile, bundle, data, scan), folder)
        assert result.returncode == 0, f"{line}\n{result.stdout[-1500:]}\n{result.stderr[-1500:]}"
    return Executed(folder, bundle, results)


def test_the_commands_of_the_card_work_one_after_the_other(executed: Executed, scan: Path) -> None:
    assert len(executed.results) >= 9
    assert (executed.bundle / "eval" / "predictions" / scan.name).is_file()
    assert (executed.folder / "report.html").is_file()
    assert list((executed.folder / "dist").glob("*.zip"))


def test_both_processes_of_a_training_report_the_same_and_one_writes(executed: Executed) -> None:
    (result,) = (result for line, result in executed.results.items() if "multi_gpu_train" in line)
    assert read_json(executed.folder / "many" / "run.json")["hardware"]["processes"] == 2
    metrics = [line.split("mean_dice: ")[1] for line in result.stdout.splitlines() if "new best metric" in line]
    assert len(metrics) >= 2
    assert metrics[::2] == metrics[1::2]
    epochs = [entry["epoch"] for entry in read_json(executed.folder / "many" / "history.json")["epochs"]]
    assert epochs == list(range(1, len(epochs) + 1))


def test_export_writes_files_that_agree_with_the_network_on_a_real_slice(executed: Executed, scan: Path) -> None:
    record = read_json(executed.bundle / "models" / "parity.json")
    assert record["image"].startswith(scan.name)
    assert all(part["passed"] for part in record.values() if isinstance(part, dict) and "passed" in part)
    assert (record["torchscript"]["dice"], record["onnx"]["dice"]) == (1.0, 1.0)
    assert record["onnx"]["max_abs_difference"] <= record["tolerance"] == 1e-4
    assert {"batch", "height", "width"} == set(record["torchscript"]["free_axes"]) == set(record["onnx"]["free_axes"])

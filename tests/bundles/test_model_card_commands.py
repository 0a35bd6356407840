# SPDX-License-Identifier: Apache-2.0
"""The commands of the model card are executed, in their order, as they are written there; only made small."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.bundles.profiles import Profile
from tests.bundles.warm_python import WarmPython


def commands_of(card: Path) -> list[str]:
    """Lines of the first block under "Commands", without comments, continued lines joined."""
    block = re.search(r"\n## Commands\n.*?```\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert block is not None
    lines = re.sub(r"\\\n\s*", " ", block.group(1)).splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def words_of(line: str, bundle: Path, data: Path, scan: Path, small: str) -> list[str]:
    """What python is to be given: places filled in, and small knobs where a network is run."""
    line = re.sub(r"\bB(?=[/ ]|$)", str(bundle), line)
    line = re.sub(r"\bDATA\b", str(data), line)
    line = re.sub(r"\bSCANS\b", str(scan), line)
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", "-m", "torch.distributed.run", "--standalone", *words[1:]]
    assert words[0] == "python"
    return [*words[1:], *(shlex.split(small) if "monai.bundle" in words else [])]


@pytest.mark.slow
def test_the_commands_of_the_card_work_one_after_the_other(
    profile: Profile, data: Path, scan: Path, warm: WarmPython, tmp_path: Path
) -> None:
    bundle = tmp_path / profile.name  # `python -m monai_ext NAME` finds it here
    shutil.copytree(profile.folder, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    profile.card_weights(tmp_path)
    lines = commands_of(bundle / "docs" / "README.md")
    assert len(lines) >= 9
    for line in lines:
        words = words_of(line, bundle, data, scan, profile.card)
        if "multi_gpu_train" in line:
            words += ["--num_classes", str(profile.tiny["num_classes"]), "--output_dir", "many", "--ckpt_dir", "many"]
        result = warm.call(words, tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stdout[-1500:]}\n{result.stderr[-1500:]}"
    assert (bundle / "models" / "parity.json").is_file()
    assert (bundle / "eval" / "predictions" / scan.name).is_file()
    assert (tmp_path / "report.html").is_file()
    assert list((tmp_path / "dist").glob("*.zip"))

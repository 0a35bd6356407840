# SPDX-License-Identifier: Apache-2.0
"""What a newcomer reads first runs as it is written there, in the order of the pages; only made small."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.bundles.profiles import DESAM, ROOT, SAM2_UNET
from tests.bundles.runs import read_json
from tests.bundles.warm_python import WarmPython

pytestmark = pytest.mark.slow

PAGES = ("first_steps", "many_processors", "serving")


def commands_of(page: str) -> list[str]:
    """Lines of the blocks without a language, continued lines joined; blocks of text are sketches."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in found if not language]
    return [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a clone has it, with bundles and data."""
    folder = tmp_path_factory.mktemp("newcomer")
    for profile in (SAM2_UNET, DESAM):
        ignored = shutil.ignore_patterns("models", "eval", "__pycache__")
        shutil.copytree(profile.folder, folder / "bundles" / profile.name, ignore=ignored)
    listed = read_json(brain / "datalist.json")
    for kind in ("image", "label"):
        (folder / "data" / f"{kind}s").mkdir(parents=True)
        for number, section in enumerate(("training", "validation", "test")):
            shutil.copy(brain / listed[section][0][kind], folder / "data" / f"{kind}s" / f"case_{number}.nii.gz")
    return folder


def words_of(line: str, folder: Path) -> list[str]:
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = ["python", "-m", "torch.distributed.run", "--standalone", *words[1:]]
    assert words[0] == "python"
    profile = DESAM if "desam" in line else SAM2_UNET
    small = shlex.split(profile.card) if {"monai.bundle", "embed"} & set(words) else []
    if "export" in words:  # the card's test writes ONNX of this network, too, which takes a minute
        small += ["--image", str(folder / "data" / "images" / "case_0.nii.gz"), "--formats", "torchscript"]
    return [*words[1:], *small]


def test_the_pages_for_a_newcomer_work_one_after_the_other(place: Path, warm: WarmPython) -> None:
    lines = [line for page in PAGES for line in commands_of(page)]
    assert len(lines) == 10
    for line in lines:
        result = warm.call(words_of(line, place), place)
        assert result.returncode == 0, f"{line}\n{result.stdout[-1500:]}\n{result.stderr[-1500:]}"
    bundle = place / "bundles" / "sam2_unet"
    assert sorted(path.name for path in (bundle / "eval" / "predictions").glob("case_*")) == [
        "case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz",
    ]  # fmt: skip
    assert (place / "report.html").is_file()
    assert read_json(bundle / "models" / "parity.json")["torchscript"]["passed"]
    assert read_json(bundle / "eval" / "run.json")["hardware"]["processes"] == 2
    assert list((place / "bundles" / "desam").rglob("*.safetensors"))

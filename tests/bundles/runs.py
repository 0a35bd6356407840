# SPDX-License-Identifier: Apache-2.0
"""How tests run a bundle: through MONAI's own entry point, tiny, and never from the bundle's folder."""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_ext.errors import InputError, find_input_error
from tests.bundles.profiles import ALL_PROFILES, ROOT

TRAIN = ("train.json",)
EVALUATE = ("train.json", "evaluate.json")
INFERENCE = ("inference.json",)


def bundle(name: str) -> Path:
    """Folder of a bundle."""
    return ROOT / "bundles" / name


def configs(name: str, *files: str) -> list[str]:
    """Paths of config files of a bundle."""
    return [str(bundle(name) / "configs" / file) for file in files]


def overrides(name: str, folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Tiny knobs, and everything that is written goes into ``folder``."""
    places = {"dataset_dir": str(data), "output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models")}
    return {**ALL_PROFILES[name].tiny, **places, **more}


def run(name: str, run_id: str, files: tuple[str, ...], folder: Path, data: Path, **more: Any) -> None:
    """Run a bundle in this process as ``python -m monai.bundle run`` does."""
    from monai.bundle import run as run_bundle

    hook = sys.excepthook  # the configs set their own
    try:
        run_bundle(
            run_id=run_id,
            config_file=configs(name, *files),
            bundle_root=str(bundle(name)),
            logging_file=False,
            **overrides(name, folder, data, **more),
        )
    finally:
        sys.excepthook = hook


def train_and_evaluate(name: str, folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Do both, with the same knobs; return the summary."""
    run(name, "training", TRAIN, folder, data, **more)
    run(name, "evaluating", EVALUATE, folder, data, **more)
    return read_json(folder / "eval" / "summary.json")


def refused(name: str, run_id: str, files: tuple[str, ...], folder: Path, data: Path, **more: Any) -> InputError:
    """Run a bundle that must refuse what it is given; return the refusal."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps what we raise
        run(name, run_id, files, folder, data, **more)
    found = find_input_error(caught.value)
    assert isinstance(found, InputError), repr(caught.value)
    return found


def command(name: str, run_id: str, files: tuple[str, ...], folder: Path, data: Path, **more: Any) -> list[str]:
    """Return the same as `run` as a command line, for tests that need a process of its own."""
    listed = "[" + ",".join(f"'{f}'" for f in configs(name, *files)) + "]"
    words = ["-m", "monai.bundle", "run", run_id, "--bundle_root", str(bundle(name)), "--config_file", listed]
    return [*words, *options(**overrides(name, folder, data, **more))]


def has_epochs(folder: Path, count: int) -> bool:
    """Whether a run into ``folder`` has ended so many epochs."""
    history = folder / "eval" / "history.json"
    return history.is_file() and len(read_json(history)["epochs"]) >= count


def options(**values: Any) -> list[str]:
    """``--name value`` for each."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def type_command(*words: str) -> None:
    """Run ``python -m monai.bundle WORDS`` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["monai.bundle", *words])
        runpy.run_module("monai.bundle", run_name="__main__")


def environment(**more: str) -> dict[str, str]:
    """Environment of child processes: as many threads as here, no colours, no inherited python path."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "MONAI_EXT_DEBUG"}}
    return {**kept, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", **more}


def call(words: list[str], cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Run python with ``words`` and capture what it prints."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )


def torchrun(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``-m MODULE ...`` in two new processes, as users start it; `WarmPython.torchrun` is faster."""
    return call(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words], cwd, timeout=400)


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

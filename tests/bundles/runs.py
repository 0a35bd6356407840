# SPDX-License-Identifier: Apache-2.0
"""How tests run a bundle: through MONAI's own entry point, tiny, and never from the bundle's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "backbone": "nano",
    "image_size": 32,
    "in_channels": 1,
    "num_classes": 4,
    "tuning": "adapter",
    "batch_size": 4,
    "num_workers": 0,
    "max_epochs": 1,
    "val_interval": 1,
    "tensorboard": False,
    "device": "cpu",
}


def bundle(name: str) -> Path:
    """Folder of a bundle."""
    return ROOT / "bundles" / name


def configs(name: str, *files: str) -> list[str]:
    """Paths of config files of a bundle."""
    return [str(bundle(name) / "configs" / file) for file in files]


def overrides(folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Tiny knobs, and everything that is written goes into ``folder``."""
    places = {"dataset_dir": str(data), "output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models")}
    return {**TINY, **places, **more}


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
            **overrides(folder, data, **more),
        )
    finally:
        sys.excepthook = hook


def command(name: str, run_id: str, files: tuple[str, ...], folder: Path, data: Path, **more: Any) -> list[str]:
    """Return the same as a command line, for tests that need a process of its own."""
    listed = "[" + ",".join(f"'{f}'" for f in configs(name, *files)) + "]"
    words = ["-m", "monai.bundle", "run", run_id, "--bundle_root", str(bundle(name)), "--config_file", listed]
    for key, value in overrides(folder, data, **more).items():
        words += [f"--{key}", str(value)]
    return words


def environment(**more: str) -> dict[str, str]:
    """Environment of child processes: as many threads as here, no colours, no inherited python path."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "MONAI_EXT_DEBUG"}}
    return {**kept, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore", **more}


def call(words: list[str], cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Run python with ``words`` and capture what it prints."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=timeout
    )

# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel of the package, the same bytes each time, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import monai_ext
from monai_ext.errors import InputError

NEEDED = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
EPOCH = "315532800"  # 1980, the earliest that a zip can say
JUNK = ("__pycache__", "*.pyc", "*.egg-info", ".*", "eval", "models")


def build_wheel(folder: Path, source: Path | None = None) -> Path:
    """Build the wheel of ``monai_ext`` and of the bundles' networks with the setuptools that is installed.

    The files are copied first, so that neither what an earlier build left nor the permissions of a checkout get into
    it; the same sources and the same setuptools and Python give the same bytes.

    Args:
        folder: to write the wheel to.
        source: of the project; None for the one that this package runs from.

    Raises:
        InputError: there are no sources here (the package was installed from a wheel), or they do not build.

    Example:
        >>> build_wheel(Path("dist")).name  # doctest: +SKIP
        'monai_ext-0.1.0-py3-none-any.whl'
    """
    source = Path(monai_ext.__file__).resolve().parents[1] if source is None else source
    missing = [name for name in (*NEEDED, "monai_ext", "bundles") if not (source / name).exists()]
    if missing:
        raise InputError(
            f"{source}: has no {', '.join(missing)}; build the wheel from a checkout of the project, or give a built "
            "one with --wheel."
        )
    with tempfile.TemporaryDirectory() as temporary:
        copy, built = Path(temporary) / "source", Path(temporary) / "built"
        _copy_sources(source, copy)
        _run_pip(copy, built)
        wheel = next(built.glob("*.whl"))
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(wheel, folder / wheel.name))


def _copy_sources(source: Path, copy: Path) -> None:
    copy.mkdir()
    for name in NEEDED:
        shutil.copyfile(source / name, copy / name)
    for name in ("monai_ext", "bundles"):
        ignored = shutil.ignore_patterns(*(JUNK if name == "bundles" else JUNK[:-2]))
        shutil.copytree(source / name, copy / name, ignore=ignored, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run_pip(copy: Path, built: Path) -> None:
    words = ["-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [sys.executable, *words, "--no-index", "--wheel-dir", str(built), "."],
        cwd=copy,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise InputError(
            f"the wheel could not be built ({lines[-1].strip()}); `pip install pip setuptools` and try again."
        )

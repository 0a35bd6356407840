# SPDX-License-Identifier: Apache-2.0
"""The wheel of the package in an empty folder, and processes that see nothing else of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.bundles.profiles import ALL_PROFILES, ROOT
from tests.bundles.runs import call

# what is installed for development does not exist for a process that finds this first
ONLY_THE_WHEEL = f"""
import sys
from importlib.machinery import PathFinder
class Finder:
    def find_spec(name, path=None, target=None):
        if name in {("monai_ext", *ALL_PROFILES)}:
            spec = PathFinder.find_spec(name, [p for p in sys.path if not p.endswith("site-packages")])
            if spec is None:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
            return spec
sys.meta_path.insert(0, Finder)
"""


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which the wheel was installed."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("monai_ext", "bundles"):
        junk = shutil.ignore_patterns("__pycache__", "eval", "models", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = call([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", "."], source)
    assert built.returncode == 0, built.stderr[-2000:]
    wheel = next((source / "dist").glob("monai_ext-*.whl"))
    installed = call([*pip, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], source)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return folder


def without_networks(wheel_folder: Path, alone: Path) -> Path:
    """Copy what the wheel installed, but the packages of the bundles: a release has its own."""
    shutil.copytree(wheel_folder, alone, ignore=shutil.ignore_patterns(*ALL_PROFILES))
    (alone / "sitecustomize.py").write_text(ONLY_THE_WHEEL, encoding="utf-8")
    return alone

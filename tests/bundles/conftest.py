# SPDX-License-Identifier: Apache-2.0
"""One tiny brain and one trained run, made once and shared by the tests of a bundle."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles.runs import run


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo brain, coarse, with a data list."""
    from monai_ext.demo import write_tiny_dataset

    folder = tmp_path_factory.mktemp("data") / "brain"
    write_tiny_dataset(folder)
    return folder


@pytest.fixture(scope="session")
def trained(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that trained one epoch and was evaluated, started from somewhere else."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    try:
        run("sam2_unet", "training", ("train.json",), folder, brain)
        run("sam2_unet", "evaluating", ("train.json", "evaluate.json"), folder, brain)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs from the bundle's folder or the project's."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """A bundle's logging.conf replaces the root's handlers; pytest needs its own back."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)

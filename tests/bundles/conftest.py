# SPDX-License-Identifier: Apache-2.0
"""One tiny brain and one trained run of each bundle, made once and shared by the tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.bundles.profiles import PROFILES, Profile
from tests.bundles.runs import environment, train_and_evaluate
from tests.bundles.warm_python import WarmPython
from tests.bundles.wheel import wheel_folder as wheel_folder


@pytest.fixture(scope="module", params=PROFILES.values(), ids=PROFILES)
def profile(request: pytest.FixtureRequest) -> Profile:
    """Each bundle in turn; a module's tests of one bundle run together."""
    return request.param


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo brain, coarse, with its data lists."""
    from monai_ext.demo import write_tiny_dataset

    folder = tmp_path_factory.mktemp("data") / "brain"
    write_tiny_dataset(folder)
    return folder


@pytest.fixture(scope="session")
def run_of(brain: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Profile], Path]:
    """Gives the folder of a run that trained a little and was evaluated, started from somewhere else."""

    @cache
    def train(name: str) -> Path:
        folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
        os.chdir(tmp_path_factory.mktemp("elsewhere"))
        try:
            train_and_evaluate(name, folder, brain / PROFILES[name].data, **PROFILES[name].fit)
        finally:
            os.chdir(before)
        return folder

    return lambda profile: train(profile.name)


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmPython]:
    """Runs a command as a process of its own, within a tenth of the time."""
    with WarmPython(environment()) as python:
        yield python


@pytest.fixture(scope="module")
def trained(run_of: Callable[[Profile], Path], profile: Profile) -> Path:
    """The run of the bundle whose turn it is."""
    return run_of(profile)


@pytest.fixture(scope="module")
def data(brain: Path, profile: Profile) -> Path:
    """What that run was given as ``dataset_dir``."""
    return brain / profile.data


@pytest.fixture(scope="module")
def scan(brain: Path) -> Path:
    """The whole brain."""
    return brain / "brain" / "image.nii.gz"


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

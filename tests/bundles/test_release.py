# SPDX-License-Identifier: Apache-2.0
"""What is shipped works in an empty folder with the wheel of the package alone; bundles keep apart."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest
from monai.bundle import ConfigWorkflow

from monai_ext.commands._fire import main
from tests.bundles.profiles import ALL_PROFILES, ANATOMICAL_EMBEDDING, ROOT, Profile
from tests.bundles.runs import call, environment, options, rows_of, type_command
from tests.bundles.warm_python import WarmPython
from tests.bundles.wheel import without_networks

EDITED = "\nimport monai_ext\nprint('network from', __file__)\nprint('package from', monai_ext.__file__)\n"


@pytest.fixture(scope="module")
def copy(profile: Profile, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with weights."""
    folder = tmp_path_factory.mktemp("bundles") / profile.name
    shutil.copytree(profile.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    (folder / "models").mkdir()
    shutil.copy(trained / "models" / "model.pt", folder / "models")
    return folder


def files_in(package: Path) -> set[str]:
    found = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {p.relative_to(package).as_posix() for p in found}


def test_the_wheel_has_every_file_of_the_package(wheel_folder: Path) -> None:
    shipped = files_in(wheel_folder / "monai_ext")
    assert shipped == files_in(ROOT / "monai_ext")
    assert {"py.typed", "report/templates/page.html", "report/templates/base.css"} <= shipped
    assert not (wheel_folder / "tests").exists()


@pytest.mark.parametrize("name", ALL_PROFILES)
def test_the_wheel_has_every_file_of_the_network(name: str, wheel_folder: Path) -> None:
    assert files_in(wheel_folder / name) == files_in(ALL_PROFILES[name].folder / name)


@pytest.fixture(scope="module")
def alone(wheel_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without the bundles' networks."""
    return without_networks(wheel_folder, tmp_path_factory.mktemp("wheel") / "alone")


@pytest.fixture(scope="module")
def beside_the_wheel(alone: Path) -> Iterator[WarmPython]:
    """Runs commands where nothing of ours is but that wheel."""
    with WarmPython(environment(PYTHONPATH=str(alone))) as python:
        yield python


def test_a_downloaded_release_runs_its_own_network_with_the_wheel_of_the_package_alone(
    profile: Profile, copy: Path, alone: Path, beside_the_wheel: WarmPython, data: Path, scan: Path, tmp_path: Path
) -> None:
    assert main(["pack", str(copy), "--output_dir", "dist"]) == 0
    release = next(Path("dist").glob("*.zip")).resolve().as_uri()
    type_command("download", *options(name=profile.name, url=release, bundle_dir=tmp_path / "empty"))
    folder = tmp_path / "empty" / profile.name
    with open(folder / profile.name / "network.py", "a", encoding="utf-8") as file:
        file.write(EDITED)  # as a researcher may

    for run_id, config, source in (("training", "train", data), ("inferring", "inference", scan)):
        words = ["-m", "monai.bundle", "run", run_id, "--config_file", f"configs/{config}.json"]
        result = beside_the_wheel.call([*words, *options(**profile.tiny, dataset_dir=source)], folder)
        assert result.returncode == 0, result.stderr[-2000:]
        assert f"network from {folder / profile.name / 'network.py'}" in result.stdout
        assert f"package from {alone / 'monai_ext' / '__init__.py'}" in result.stdout
    assert nib.load(folder / "eval" / "predictions" / scan.name).shape == nib.load(scan).shape
    nowhere = call(["-c", f"import monai_ext, {profile.name}"], tmp_path, PYTHONPATH=str(alone))
    assert f"No module named '{profile.name}'" in nowhere.stderr


def test_two_bundles_in_one_process_keep_apart(
    profile: Profile, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, name = tmp_path / "other_method", profile.network.__name__
    for part in ("configs", "other_method"):
        (other / part).mkdir(parents=True)
    code = f"from torch.nn import Conv2d\n\n\nclass {name}(Conv2d):\n    pass\n"
    (other / "other_method" / "network.py").write_text(code, encoding="utf-8")
    network = {"_target_": f"other_method.network.{name}", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    (other / "configs" / "inference.json").write_text(
        json.dumps({"bundle_root": ".", "network_def": network}), encoding="utf-8"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])  # each run puts its bundle's folder there
    built = []
    for folder, knobs in [(other, {}), (copy, profile.arguments)] * 2:  # the one after the other, and again
        file = str(folder / "configs" / "inference.json")
        run = ConfigWorkflow(file, run_id="network_def", logging_file=False, bundle_root=str(folder), **knobs).run()
        built.append(type(run[0]).__module__)
    assert built == ["other_method.network", f"{profile.name}.network"] * 2
    sys.modules.pop("other_method.network")
    sys.modules.pop("other_method")


def test_a_downloaded_release_trains_and_matches_without_labels(
    alone: Path, beside_the_wheel: WarmPython, brain: Path, tmp_path: Path
) -> None:
    profile = ANATOMICAL_EMBEDDING
    assert main(["pack", str(profile.folder), "--output_dir", "dist"]) == 0
    release = next(Path("dist").glob("*.zip")).resolve().as_uri()
    type_command("download", *options(name=profile.name, url=release, bundle_dir=tmp_path / "empty"))
    folder = tmp_path / "empty" / profile.name
    with open(folder / profile.name / "network.py", "a", encoding="utf-8") as file:
        file.write(EDITED)

    runs = (("training", "train", "scans", profile.tiny), ("inferring", "inference", "pairs", profile.inference_knobs))
    for run_id, config, listed, knobs in runs:
        words = ["-m", "monai.bundle", "run", run_id, "--config_file", f"configs/{config}.json"]
        words += options(**knobs, dataset_dir=brain / f"{listed}.json")
        result = beside_the_wheel.call(words, folder)
        assert result.returncode == 0, result.stderr[-2000:]
        assert f"network from {folder / profile.name / 'network.py'}" in result.stdout
        assert f"package from {alone / 'monai_ext' / '__init__.py'}" in result.stdout
    assert len(rows_of(folder / "eval" / "matches" / "followup.csv")) == 200

# SPDX-License-Identifier: Apache-2.0
"""What docs/registration.md says is so: its commands run, and its tables name what is written."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_ext.commands._fire import main
from monai_ext.registration import SAMAffine, SAMCoarse, optimise_instance
from monai_ext.shipping.registration_files import FILES
from tests.commands.anatomy_bundle import WaveDeformation, write_deformation_bundle
from tests.followup.toy_bundle import grid, places, voxels, world, write_bundle, write_points, write_scan

PAGE = (Path(__file__).parents[2] / "docs" / "registration.md").read_text(encoding="utf-8")
GRIDS = {"before": grid(-8), "now": grid(-2, (3, 1, 2))}
COMMANDS = [
    re.sub(r"\\\n\s*", " ", line)
    for block in re.findall(r"```\n(python .*?)```", PAGE, re.DOTALL)
    for line in re.split(r"\n(?=python)", block.strip())
]
NAMED = set(re.findall(r"`-{0,2}([\w.]+)`", PAGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page names, after all its commands have run in their order."""
    found = tmp_path_factory.mktemp("docs")
    write_bundle(found / "toy")
    write_deformation_bundle(found / "wave", WaveDeformation)
    for name, affine in GRIDS.items():
        write_scan(found / f"{name}.nii.gz", affine)
        nib.save(nib.Nifti1Image((voxels() > 0).astype(np.uint8), affine), found / f"{name}_label.nii.gz")
    write_points(found / "points.csv", world(GRIDS["before"], places(5)))
    header = ["point", *(f"{scan}_{axis}_ras_mm" for scan in ("fixed", "moving") for axis in "xyz")]
    both = np.hstack([world(GRIDS[name], places(5)) for name in GRIDS])
    rows = [[f"p{number}", *map(str, row)] for number, row in enumerate(both)]
    (found / "pairs.csv").write_text("\n".join(",".join(row) for row in [header, *rows]), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def statuses(folder: Path) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return [main([*words, *_toy(words)]) for words in (shlex.split(command)[3:] for command in COMMANDS)]


def _toy(words: list[str]) -> list[str]:
    return {"register": ["--bundle_root", "toy", "--deform_bundle", "wave"], "apply": []}[words[0]]


def fields_of(content: Any) -> Iterator[str]:
    """Names of all fields, however deep, that are no names of the user's."""
    for name, value in content.items():
        if not name.isdigit() and name not in {"inputs", "costs", "versions"}:
            yield name
            parts = value if isinstance(value, list) else [value]
            for part in (part for part in parts if isinstance(part, dict)):
                yield from fields_of(part)


def test_commands_run(statuses: list[int]) -> None:
    assert all(command.startswith("python -m monai_ext ") for command in COMMANDS)
    assert statuses == [0] * 10


def test_files_and_fields_are_all_named(statuses: list[int], folder: Path) -> None:
    written = {path.name for path in (folder / "registered").iterdir()}
    assert written == set(FILES) <= NAMED
    content, deformed = (
        json.loads((folder / name / "registration.json").read_text(encoding="utf-8"))
        for name in ("registered", "deformed")
    )
    assert set(fields_of(content)) | set(fields_of(deformed)) <= NAMED
    assert {"deform", "displaced_mean_mm"} <= set(fields_of(deformed))
    assert {"tre_mm", "dice", "points", "residual_median_mm", "sd_log_j"} <= set(fields_of(content))


def test_knobs_are_all_named() -> None:
    plain = {*inspect.signature(SAMAffine).parameters, *inspect.signature(SAMCoarse).parameters} - {"spacing", "seed"}
    own = set(inspect.signature(optimise_instance).parameters)
    own -= {"fixed", "moving", "size", "initial", "local_stride", "global_stride"}
    assert plain | {"coarse_spacing"} | {f"instance_{name}" for name in own} <= NAMED


def test_itk_gives_the_warped_scan_by_the_line_of_the_page(statuses: list[int], folder: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    line = re.search(r"`sitk\.Resample\((\w+), (\w+), sitk\.ReadTransform\(\"([\w.]+)\"\)\)`", PAGE)
    assert line is not None
    scans = {"moving": "now.nii.gz", "fixed": "before.nii.gz"}
    moving, fixed = (sitk.ReadImage(str(folder / scans[line[number]])) for number in (1, 2))
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(moving, fixed, sitk.ReadTransform(str(folder / "registered" / line[3])))
    )
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "registered" / "warped.nii.gz")))
    inside = theirs != 0  # ITK's default outside of the moving scan
    assert inside.mean() > 0.8
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-3)

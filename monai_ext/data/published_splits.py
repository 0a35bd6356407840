# SPDX-License-Identifier: Apache-2.0
"""The published splits of photographs and endoscopy, read from the folders as their authors distribute them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.data._sections import Item, by_stem, some, split_by_subject
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)

SECTIONS = ("training", "validation", "test", "inference")
IMAGES = ("imgs", "images", "image", "img")
MASKS = ("gt", "masks", "mask", "ground_truth_mask", "pixelwisegt-new-png")


@dataclass(frozen=True)
class _Task:
    """Where a task's sets lie below ``dataset_dir``, and how many images each has when it is complete."""

    training: tuple[str, int]
    tests: dict[str, int]
    test_folder: str = ""


TASKS = {
    "polyps": _Task(
        ("TrainDataset", 1450),
        {"CVC-300": 60, "CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100},
        "TestDataset",
    ),
    "camouflage": _Task(
        ("TrainDataset", 4040), {"CAMO": 250, "CHAMELEON": 76, "COD10K": 2026, "NC4K": 4121}, "TestDataset"
    ),
    "salient": _Task(
        ("DUTS-TR", 10553), {"DUTS-TE": 5019, "DUT-OMRON": 5168, "HKU-IS": 4447, "PASCAL-S": 850, "ECSSD": 1000}
    ),
}


def published_split(
    dataset_dir: str | Path,
    task: str,
    section: str,
    val_fraction: float = 0.1,
    seed: int = 0,
    test_sets: str | Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the items of one section of a published split; no file is moved or renamed.

    - ``polyps`` (PraNet's split): ``TrainDataset/`` and ``TestDataset/{CVC-300,CVC-ClinicDB,CVC-ColonDB,
      ETIS-LaribPolypDB,Kvasir}/``;
    - ``camouflage``: ``TrainDataset/`` and ``TestDataset/{CAMO,CHAMELEON,COD10K,NC4K}/``;
    - ``salient``: ``DUTS-TR/``, and ``DUTS-TE/``, ``DUT-OMRON/``, ``HKU-IS/``, ``PASCAL-S/``, ``ECSSD/``.

    Each holds a folder of images and one of masks, paired by file name: ``Imgs`` and ``GT``, ``images`` and
    ``masks``, ``image`` and ``mask``, ``DUTS-TR-Image`` and ``DUTS-TR-Mask``, or one of the other names in `IMAGES`
    and `MASKS`; capitals do not matter, and a folder may lie in another of its own name, as unpacking leaves it.
    A set whose number of images is not the published one is used all the same, with a warning.

    The published code validates on nothing. Here a share of the training images, chosen by a hash of seed and
    name, is held out to choose the best epoch.

    Args:
        dataset_dir: the folder that holds the folders above.
        task: ``polyps``, ``camouflage`` or ``salient``.
        section: ``training``, ``validation`` (the held-out share of the training images), ``test`` or
            ``inference`` (the same as ``test``).
        val_fraction: that share.
        seed: of the choice.
        test_sets: which test sets, one name or several; None takes all of the task's.

    Returns:
        Items as `load_datalist` gives them; ``site`` is the name of the set, so that summaries are per set, and
        ``case`` begins with it.

    Raises:
        InputError: if the task or a set is unknown, a folder is missing, or files are unpaired.

    Example:
        >>> published_split("/data/polyps", "polyps", "test", test_sets="Kvasir")[0]  # doctest: +SKIP
        {'image': '/data/polyps/TestDataset/Kvasir/images/a.png', ..., 'site': 'Kvasir', 'case': 'Kvasir_a'}
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    if task not in TASKS:
        raise InputError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    root, layout = Path(dataset_dir).expanduser().absolute(), TASKS[task]
    if section in ("test", "inference"):
        folder = _folder(root, layout.test_folder) if layout.test_folder else root
        return [item for name in _chosen(layout, test_sets) for item in _items(folder, name, layout.tests[name])]
    training, validation = split_by_subject(_items(root, *layout.training), root, val_fraction, seed)
    if section == "validation" and not validation:
        raise InputError(f"{root}: val_fraction is 0, so that nothing is left to validate on; set it above 0.")
    return training if section == "training" else validation


def _chosen(layout: _Task, test_sets: str | Sequence[str] | None) -> list[str]:
    names = list(layout.tests) if test_sets is None else [test_sets] if isinstance(test_sets, str) else list(test_sets)
    unknown = [name for name in names if name not in layout.tests]
    if unknown or not names:
        raise InputError(f"test_sets must be some of {', '.join(layout.tests)}, got {test_sets!r}.")
    return names


def _items(parent: Path, name: str, expected: int) -> list[Item]:
    """List a set: pair its files, and say so when there are not as many as published."""
    folder = _folder(parent, name)
    image_of = by_stem(_folder(folder, *IMAGES, f"{name}-image"))
    mask_of = by_stem(_folder(folder, *MASKS, f"{name}-mask"))
    lonely = [image_of[stem] for stem in image_of.keys() - mask_of.keys()]
    lonely += [mask_of[stem] for stem in mask_of.keys() - image_of.keys()]
    if lonely:
        names = some(f"{path.parent.name}/{path.name}" for path in sorted(lonely))
        raise InputError(
            f"{folder}: {len(lonely)} files without an image or mask of the same name: {names}; unpack the archive "
            "again, or remove them."
        )
    if not image_of:
        raise InputError(f"{folder}: the folders of images and masks are empty; unpack the archive again.")
    if len(image_of) != expected:
        logger.warning("%s: %d images, %d are published; is the download complete?", folder, len(image_of), expected)
    cases = _case_names(folder, name, sorted(image_of))
    return [
        {"image": str(image_of[stem]), "label": str(mask_of[stem]), "subject": case, "site": name, "case": case}
        for stem, case in cases.items()
    ]


def _folder(parent: Path, *names: str) -> Path:
    """Return the one sub-folder that has one of the names, whatever its capitals, or the like-named one inside it."""
    if not parent.is_dir():
        raise InputError(f"{parent}: no such folder; set dataset_dir to the folder of the data set.")
    wanted = {name.lower() for name in names}
    found = sorted(entry for entry in parent.iterdir() if entry.is_dir() and entry.name.lower() in wanted)
    if len(found) != 1:
        got = ", ".join(f"{entry.name}/" for entry in found) or "none of them"
        raise InputError(f"{parent}: looked for one folder called {' or '.join(names)}; found {got}.")
    inner = found[0] / found[0].name
    return inner if inner.is_dir() else found[0]


def _case_names(folder: Path, name: str, stems: list[str]) -> dict[str, str]:
    """Give each image a name that is fit for a file and no other set's image has."""
    cases = {stem: re.sub(r"[^\w.-]+", "_", f"{name}_{stem}") for stem in stems}
    if len(set(cases.values())) < len(cases):
        raise InputError(f"{folder}: some files differ by spaces or special characters alone; rename them.")
    return cases

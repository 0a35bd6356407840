# SPDX-License-Identifier: Apache-2.0
"""A few of the labelled cases, always the same ones."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ext.data._sections import Item, some
from monai_ext.data.datalist import load_datalist
from monai_ext.errors import InputError

logger = logging.getLogger(__name__)

SPLITS = ("case", "slice")


def load_few_shot(
    dataset_dir: str | Path,
    section: str,
    val_fraction: float = 0.2,
    seed: int = 0,
    label_fraction: float = 1.0,
    case_list: str | Path | Sequence[str] | None = None,
    split_by: str = "case",
) -> list[dict[str, Any]]:
    """Return the items of one section of a data set, of ``training`` only a few.

    What trains is what `load_datalist` gives, less what validates, and of that the ``label_fraction`` of the *subjects*
    that come first by a hash of seed and name, rounded, at least one, with all of their cases. A smaller fraction is
    part of a larger one, and the choice depends neither on the order of the data nor on the machine.

    With ``case_list`` the cases that it names train, all of them, and the fraction is one of these. They are taken from
    the list ``training`` before a share of it validates; a subject that trains neither validates nor is tested on.

    With ``split_by`` "slice" the fraction is not taken here: every case stays, and `SliceDataset` is to draw its
    ``slice_share``, as the published few-shot experiments on abdominal CT do. These have slices of every patient, which
    nobody who labels whole scans gets; their scores do not compare with those by case.

    Else ``validation``, ``test`` and ``inference`` are never cut.

    Args:
        dataset_dir: the data set, as `load_datalist` reads it.
        section: ``training``, ``validation``, ``test`` or ``inference``.
        val_fraction: share of the subjects that validates where the data set does not say.
        seed: of both choices.
        label_fraction: share of the labelled subjects that trains, above 0 and up to 1.
        case_list: names, or a text file with a name on each line; None for all.
        split_by: ``case`` or ``slice``: what ``label_fraction`` counts.

    Returns:
        Items as `load_datalist` gives them.

    Raises:
        InputError: as `load_datalist` does, a number out of its range, or a name that is no case's.

    Example:
        >>> len(load_few_shot("/data/hearts", "training", label_fraction=0.1))  # doctest: +SKIP
        2
    """
    _check(label_fraction, split_by)
    names = None if case_list is None or section == "inference" else _names_of(case_list)
    if names is None:
        items = load_datalist(dataset_dir, section, val_fraction, seed)
        trains = items
    else:
        items = load_datalist(dataset_dir, "training", 0.0, seed)
        trains = _named(items, names)
    if section == "training":
        kept = _fraction(trains, label_fraction, seed) if split_by == "case" else trains
        if len(kept) < len(items):
            logger.info("%d of %d cases train: %s", len(kept), len(items), some(item["case"] for item in kept))
        return kept
    if names is None:
        return items
    return _without(load_datalist(dataset_dir, section, val_fraction, seed), trains, section)


def slice_share(label_fraction: float, split_by: str) -> float:
    """Return the share of the slices that `SliceDataset` is to draw for these two knobs of `load_few_shot`.

    Raises:
        InputError: a number out of its range, or an unknown split.

    Example:
        >>> slice_share(0.1, "slice"), slice_share(0.1, "case")
        (0.1, 1.0)
    """
    _check(label_fraction, split_by)
    return label_fraction if split_by == "slice" else 1.0


def _check(label_fraction: float, split_by: str) -> None:
    if not 0 < label_fraction <= 1:
        raise InputError(f"label_fraction must be above 0 and at most 1, got {label_fraction}.")
    if split_by not in SPLITS:
        raise InputError(f"split_by must be one of {', '.join(SPLITS)}, got {split_by!r}.")


def _names_of(case_list: str | Path | Sequence[str]) -> list[str]:
    if not isinstance(case_list, str | Path):
        return [str(name) for name in case_list]
    path = Path(case_list).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: case_list must be a list of names or a text file with one on each line.")
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _named(items: list[Item], wanted: list[str]) -> list[Item]:
    known = {name for item in items for name in (item["case"], item["subject"])}
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise InputError(
            f"case_list: {some(unknown) or 'an empty list'} is no case that may train; these may: "
            f"{some(item['case'] for item in items)}."
        )
    return [item for item in items if {item["case"], item["subject"]} & set(wanted)]


def _without(items: list[Item], trains: list[Item], section: str) -> list[Item]:
    subjects = {item["subject"] for item in trains}
    kept = [item for item in items if item["subject"] not in subjects]
    if not kept:
        raise InputError(
            f"case_list: nothing is left in section {section!r}, since all of it is to train; name fewer cases, or "
            "list others under 'validation' and 'test'."
        )
    return kept


def _fraction(items: list[Item], fraction: float, seed: int) -> list[Item]:
    subjects = sorted({item["subject"] for item in items}, key=lambda name: _hash(f"few:{seed}:{name}"))
    # half up: a run with 0.1 of 25 subjects must not have fewer than one with 0.1 of 24
    chosen = set(subjects[: max(1, math.floor(len(subjects) * fraction + 0.5))])
    return [item for item in items if item["subject"] in chosen]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

# SPDX-License-Identifier: Apache-2.0
"""Training on the cases of one site, testing on those of the sites that the training never saw."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai_ext.data._sections import (
    SECTIONS,
    Item,
    check_files,
    existing,
    paths_of,
    read_sections,
    some,
    training_and_validation,
)
from monai_ext.data._source_sites import source_sites
from monai_ext.data.datalist import load_datalist
from monai_ext.errors import InputError
from monai_ext.sites import SiteChoice

logger = logging.getLogger(__name__)

TARGET_CASES = ("test", "all")
Lists = dict[str, list[Item]]


def load_site_datalist(
    dataset_dir: str | Path,
    section: str,
    source_site: SiteChoice | None = None,
    target_cases: str = "test",
    val_fraction: float = 0.2,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the items of one section when a network is trained on some sites alone (domain generalisation).

    ``training`` and ``validation`` are the items that the source sites have in these lists, or a share of the
    subjects of their training, as in `load_datalist`. ``test`` is

    - of every other site its labelled items in the list ``test``, or all that it has where it has none there; or,
      with ``target_cases`` "all", all that it has in any list, as the published evaluations take it;
    - of the source sites what is held out: their labelled items in ``test``, else those that validate. A subject
      that trains is left out of it, with a warning.

    Sites are told apart by the items' ``site``, so that `monai_ext.metrics.summarize_sites` finds which is which.
    ``inference`` does not depend on sites.

    Args:
        dataset_dir: the data set, as `load_datalist` reads it.
        section: ``training``, ``validation``, ``test`` or ``inference``.
        source_site: the site that trains, or several; None gives what `load_datalist` gives.
        target_cases: which cases of the other sites are tested on, "test" or "all".
        val_fraction: share of the source sites' subjects that validates where the data set does not say.
        seed: of that choice.

    Returns:
        Items as `load_datalist` gives them.

    Raises:
        InputError: as `load_datalist` does, and if a case names no site, no case is of the site, or none of it trains.

    Example:
        >>> load_site_datalist("/data/hearts", "test", source_site="north")  # doctest: +SKIP
        [{'image': '/data/hearts/a.nii.gz', 'label': ..., 'subject': 'a', 'site': 'south', 'case': 'a'}]
    """
    if target_cases not in TARGET_CASES:
        raise InputError(f"target_cases must be one of {', '.join(TARGET_CASES)}, got {target_cases!r}.")
    if source_site is None or section not in SECTIONS[:3]:
        return load_datalist(dataset_dir, section, val_fraction, seed)
    path = existing(dataset_dir)
    lists = read_sections(path)
    lists["test"] = [item for item in lists["test"] if "label" in item]
    sources = source_sites([item for items in lists.values() for item in items], source_site, path)
    items = _section(lists, section, sources, target_cases == "all", path, val_fraction, seed)
    check_files(items, path)
    return items


def _section(
    lists: Lists, section: str, sources: tuple[str, ...], take_all: bool, path: Path, fraction: float, seed: int
) -> list[Item]:
    own = {name: [item for item in items if item["site"] in sources] for name, items in lists.items()}
    origin = f"{path}, site {', '.join(sources)}"
    if not own["training"]:
        raise InputError(f"{origin}: no case in the list 'training'; choose a source_site that has some there.")
    training, validation = training_and_validation(own, origin, fraction, seed)
    if section == "test":
        items = _held_out(own["test"] or validation, training) + _unseen(lists, sources, take_all, training)
    else:
        items = training if section == "training" else validation
    if not items:
        raise InputError(f"{origin}: nothing in section {section!r}; list some items there, or raise val_fraction.")
    return items


def _held_out(items: list[Item], training: list[Item]) -> list[Item]:
    """Leave out who is in training: the score of the source site must not be one of seen people."""
    seen = {item["subject"] for item in training}
    kept = [item for item in items if item["subject"] not in seen]
    if len(kept) < len(items):
        names = some(item["case"] for item in items if item["subject"] in seen)
        logger.warning(
            "%d held-out cases are of subjects that train and are not scored: %s", len(items) - len(kept), names
        )
    return kept


def _unseen(lists: Lists, sources: tuple[str, ...], take_all: bool, training: list[Item]) -> list[Item]:
    chosen: list[Item] = []
    every = [item for items in lists.values() for item in items if item["site"] not in sources and "label" in item]
    with_test = set() if take_all else {item["site"] for item in lists["test"]}
    in_test = {item["case"] for item in lists["test"]}
    files: set[tuple[str, ...]] = set()
    for item in every:
        image = tuple(paths_of(item["image"]))
        if image not in files and (item["site"] not in with_test or item["case"] in in_test):
            files.add(image)  # a scan that stands in two lists is one case
            chosen.append(item)
    seen = {item["subject"] for item in training}
    shared = [item["case"] for item in chosen if item["subject"] in seen]
    if shared:
        logger.warning(
            "%d of %d cases of unseen sites have the subject's name of a case that trains: the same person at two "
            "sites, or names that are not unique? %s", len(shared), len(chosen), some(shared)
        )  # fmt: skip
    return chosen

# SPDX-License-Identifier: Apache-2.0
"""Prostate MRI of six sites: the folders as they are distributed, and the split that DeSAM was published with."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.data._sections import SECTIONS, Item, by_stem, existing, some
from monai_ext.data._source_sites import source_sites
from monai_ext.data.site_datalist import TARGET_CASES
from monai_ext.errors import InputError
from monai_ext.sites import SiteChoice, site_names

logger = logging.getLogger(__name__)

FOLDERS = ("BIDMC", "BMC", "HK", "I2CVB", "RUNMC", "UCL")
CENTRES = ("A-ISBI", "B-ISBI_1.5", "C-I2CVB", "D-UCL", "E-BIDMC", "F-HK")
PATIENT_LIST = "prostate_patientid.csv"
LABEL_END = "_segmentation"
IMAGE_END = "_0000"


def prostate_sites(
    dataset_dir: str | Path,
    section: str,
    source_site: SiteChoice | None = None,
    target_cases: str = "all",
    val_fraction: float = 0.1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the items of one section of the multi-site prostate data; no file is moved or renamed.

    Two layouts are known:

    - six folders (Liu et al. 2020, https://liuquande.github.io/SAML): ``BIDMC/ BMC/ HK/ I2CVB/ RUNMC/ UCL/``, each
      with ``Case00.nii.gz`` and ``Case00_segmentation.nii.gz``; capitals do not matter. The site is the folder.
    - DeSAM's own (https://github.com/yifangao112/DeSAM): ``imagesTr/*_0000.nii.gz``, ``labelsTr/*.nii.gz`` and
      ``prostate_patientid.csv`` with the columns ``center`` and ``patientid``, here or in ``raw_data/``. The number
      at the end of a label's name is the patient's. Its sites are `CENTRES`, and a number from 1 to 6 stands for one
      of them, as in the published commands.

    The published split: of the source site the first 90 % of the cases, in the order of the list (of the names, in
    the folder layout), train and the others validate; all cases of the other sites are tested on. The cases that
    validate are added to ``test``: they give the in-domain score, which the published mean does not contain.

    Where a label marks two zones of the prostate (1 and 2), that is what is given: `monai_ext.transforms.PrepareLabeld`
    makes one object of them by ``object_values=[1, 2]``.

    Args:
        dataset_dir: the folder that holds the folders above.
        section: ``training``, ``validation``, ``test`` or ``inference`` (the same as ``test``).
        source_site: the site that trains, or several; None lets all of them train.
        target_cases: as in `load_site_datalist`, whose place this function takes in a config; since no site has a list
            of test cases, "test" and "all" both are all cases of the other sites.
        val_fraction: share of the source site's cases that validates.
        seed: 0 keeps the published order; any other shuffles the source site's cases before they are split.

    Returns:
        Items as `load_datalist` gives them.

    Raises:
        InputError: if neither layout is there, files are unpaired or missing, or the site is unknown.

    Example:
        >>> prostate_sites("/data/prostate", "training", source_site="RUNMC")[0]  # doctest: +SKIP
        {'image': '/data/prostate/RUNMC/Case00.nii.gz', ..., 'site': 'RUNMC', 'case': 'RUNMC_Case00'}
    """
    if section not in SECTIONS:
        raise ValueError(f"section must be one of {', '.join(SECTIONS)}, got {section!r}.")
    if target_cases not in TARGET_CASES:
        raise InputError(f"target_cases must be one of {', '.join(TARGET_CASES)}, got {target_cases!r}.")
    if not 0 <= val_fraction < 1:
        raise InputError(f"val_fraction must be in [0, 1), got {val_fraction}.")
    root = existing(dataset_dir)
    listed = next((folder for folder in (root, root / "raw_data") if (folder / PATIENT_LIST).is_file()), None)
    items = _items_of_folders(root) if listed is None else _items_of_list(listed)
    names = site_names(source_site) or tuple(dict.fromkeys(item["site"] for item in items))
    numbers = {} if listed is None else {str(number): name for number, name in enumerate(CENTRES, start=1)}
    sources = source_sites(items, [numbers.get(name, name) for name in names], root)
    training: list[Item] = []
    validation: list[Item] = []
    for site in sources:
        own = [item for item in items if item["site"] == site]
        if seed:
            own = [own[place] for place in np.random.default_rng(seed).permutation(len(own))]
        count = int(len(own) * (1 - val_fraction))
        training, validation = training + own[:count], validation + own[count:]
    unseen = [item for item in items if item["site"] not in sources]
    found = {"training": training, "validation": validation}.get(section, validation + unseen)
    if not found:
        raise InputError(
            f"{root}: nothing in section {section!r} with val_fraction {val_fraction} and the source site "
            f"{', '.join(sources)}; change one of them."
        )
    return found


def _items_of_folders(root: Path) -> list[Item]:
    known = {name.lower(): name for name in FOLDERS}
    folders = {known[entry.name.lower()]: entry for entry in sorted(root.iterdir()) if entry.name.lower() in known}
    if not folders:
        raise InputError(f"{root}: looked for the folders {', '.join(FOLDERS)}, or for {PATIENT_LIST}; found neither.")
    missing = [name for name in FOLDERS if name not in folders]
    if missing:
        logger.warning("%s: no folder of the site %s; is the download complete?", root, ", ".join(missing))
    return [item for site, folder in folders.items() for item in _items_of_folder(folder, site)]


def _items_of_folder(folder: Path, site: str) -> list[Item]:
    scans = by_stem(folder)
    labels = {stem[: -len(LABEL_END)]: path for stem, path in scans.items() if stem.lower().endswith(LABEL_END)}
    images = {stem: path for stem, path in scans.items() if not stem.lower().endswith(LABEL_END)}
    lonely = [images[stem] for stem in images.keys() - labels.keys()]
    lonely += [labels[stem] for stem in labels.keys() - images.keys()]
    if lonely or not images:
        names = some(path.name for path in sorted(lonely)) or "no scan here"
        raise InputError(
            f"{folder}: a case is a scan and a file with {LABEL_END} behind its name; without a partner: {names}."
        )
    return [_item(images[stem], labels[stem], site, f"{site}_{stem}") for stem in sorted(images)]


def _items_of_list(folder: Path) -> list[Item]:
    labels = by_stem(_part(folder, "labelsTr"))
    images = by_stem(_part(folder, "imagesTr"))
    label_of = _by_patient(labels, folder)
    patients = _patients(folder / PATIENT_LIST)
    missing = [f"patient {number}" for number, _ in patients if number not in label_of]
    missing += [
        f"imagesTr/{label_of[number]}{IMAGE_END}"
        for number, _ in patients
        if number in label_of and label_of[number] + IMAGE_END not in images
    ]
    if missing:
        raise InputError(
            f"{folder}: without a label or an image: {some(missing)}; unpack the archive again, or take them from "
            f"{PATIENT_LIST}."
        )
    unlisted = [stem for number, stem in label_of.items() if number not in dict(patients)]
    if unlisted:
        logger.warning(
            "%s does not list %d labels, which are not used: %s", PATIENT_LIST, len(unlisted), some(unlisted)
        )
    return [
        _item(images[label_of[number] + IMAGE_END], labels[label_of[number]], centre, label_of[number])
        for number, centre in patients
    ]


def _by_patient(labels: dict[str, Path], folder: Path) -> dict[int, str]:
    label_of: dict[int, str] = {}
    for stem in labels:
        found = re.search(r"\d+$", stem)
        if found and label_of.setdefault(int(found.group()), stem) != stem:
            raise InputError(
                f"{folder}/labelsTr: {label_of[int(found.group())]} and {stem} end in one number; rename one."
            )
    return label_of


def _part(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        raise InputError(f"{folder}: has {PATIENT_LIST}, but no folder {name}/; unpack the archive again.")
    return folder / name


def _patients(file: Path) -> list[tuple[int, str]]:
    """Return number and centre of each patient in the order of the list, which decides the split."""
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    try:
        return [(int(row["patientid"]), row["center"].strip()) for row in rows]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: needs the columns center and patientid, a number, in every row ({error}); download it again."
        ) from error


def _item(image: Path, label: Path, site: str, name: str) -> Item:
    case = re.sub(r"[^\w.-]+", "_", name)
    return {"image": str(image), "label": str(label), "subject": case, "site": site, "case": case}

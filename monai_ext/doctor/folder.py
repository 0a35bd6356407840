# SPDX-License-Identifier: Apache-2.0
"""What is in a folder: its cases by data list, by `images/` and `labels/`, or simply its scans."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.scan_files import list_scans, stem_of

from .datalist import LISTS, Datalist, item_paths, items_of, read_datalist
from .finding import Finding, finding
from .formats import scans_below

PAIRS = (("images", "labels"), ("images_test", "labels_test"), ("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))


@dataclass(frozen=True)
class Case:
    """Files that belong together.

    Args:
        section: "training", "validation" or "test"; empty without a data list.
        images: one image, several modalities, or none for a label that has lost its image.
        label: or None.
        subject: as the data list says, or the `sub-...` of a BIDS name; empty if unknown.
        position: of the item in its section.
    """

    section: str
    images: tuple[Path, ...]
    label: Path | None = None
    subject: str = ""
    position: int = 0

    @property
    def files(self) -> tuple[tuple[Path, bool], ...]:
        """Every file with whether it is the label."""
        label = ((self.label, True),) if self.label else ()
        return tuple((image, False) for image in self.images) + label


@dataclass
class Folder:
    """The cases of a folder, and what is wrong with the folder itself (``findings``)."""

    root: Path
    layout: str
    cases: list[Case]
    datalist: Datalist | None = None
    classes: frozenset[int] | None = None
    findings: list[tuple[Case | None, Finding]] = field(default_factory=list)

    def name_of(self, path: Path) -> str:
        """Return the path as findings show it: relative inside the folder, absolute outside."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def find_cases(source: str | Path, num_classes: int | None = None) -> Folder:
    """Return what is in ``source``: a data list JSON or a folder.

    Args:
        source: the folder or JSON file.
        num_classes: label values are 0 .. n-1 (1 means 0 and 1); None: as the data list's "labels" says.

    Raises:
        InputError: if there is nothing to examine.
    """
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; name the folder of your data.")
    list_file = path if path.is_file() else next((path / name for name in LISTS if (path / name).is_file()), None)
    if list_file and list_file.suffix.lower() != ".json":
        raise InputError(f"{path}: is no folder and no data list (.json); name the folder that it is in.")
    root = list_file.parent if list_file else path
    folder = _with_datalist(root, list_file) if list_file else None
    if folder is None or not folder.cases:
        broken = folder.findings if folder else []
        folder = _without_datalist(root)
        folder.findings = broken + folder.findings
    if not folder.cases and not folder.findings:
        raise InputError(
            f"{path}: no scan here; a folder needs {' or '.join(LISTS)}, images/ and labels/, or NIfTI, NRRD, MHA, "
            "DICOM, PNG, JPEG or TIFF files."
        )
    if num_classes is not None:
        folder.classes = frozenset(range(max(num_classes, 2)))
    return folder


def _with_datalist(root: Path, file: Path) -> Folder:
    datalist, broken = read_datalist(file)
    folder = Folder(root, f"data list {file.name}", [], datalist)
    folder.findings = [(None, finding("bad_datalist", file.name, what)) for what in broken]
    if datalist is None:
        return folder
    folder.classes = datalist.classes
    for section, position, item in items_of(datalist):
        images, label = item_paths(item, root)
        subject = str(item["subject"]) if item.get("subject") not in (None, "") else bids_subject(images)
        folder.cases.append(Case(section, images, label, subject, position))
    _note_missing(folder)
    _note_unlabelled(folder)
    _note_unlisted(folder)
    return folder


def bids_subject(images: tuple[Path, ...]) -> str:
    """Return `sub-01` of a path named by the BIDS standard, else nothing."""
    for part in images[0].parts[::-1] if images else ():
        if part.startswith("sub-"):
            return stem_of(part).split("_")[0]
    return ""


def _note_missing(folder: Folder) -> None:
    for case in folder.cases:
        for path, is_label in case.files:
            if not exists(path):
                what = f"{'label' if is_label else 'image'} of {case.section}[{case.position}] does not exist"
                folder.findings.append((case, finding("missing_file", folder.name_of(path), what)))


def _note_unlabelled(folder: Folder) -> None:
    """Without any label the list is for self-supervised training or inference, and nothing is missing."""
    parts = [case for case in folder.cases if case.section != "test"]
    if not any(case.label for case in parts):
        return
    for case in parts:
        if case.label is None:
            what = f"{case.section}[{case.position}] names no label, others do"
            folder.findings.append((case, finding("unpaired_file", folder.name_of(case.images[0]), what)))


def _note_unlisted(folder: Folder) -> None:
    listed = {path for case in folder.cases for path, _ in case.files}
    for image, label in (pair for names in PAIRS for pair in _pairs(folder.root, *names)):
        free = [path for path in (image, label) if path and path not in listed]
        if not free:
            continue
        if image and label:
            folder.findings += [
                (None, finding("unlisted_file", folder.name_of(path), "not in the list")) for path in free
            ]
        else:
            folder.findings.append((None, _unpaired(folder, image, label)))


def _without_datalist(root: Path) -> Folder:
    names = [pair for pair in PAIRS if all((root / name).is_dir() for name in pair)]
    if not names:
        cases = [Case("", (path,), subject=bids_subject((path,))) for path in scans_below(root)]
        return Folder(root, "folder of images", cases)
    folder = Folder(root, " and ".join(f"{images}/ with {labels}/" for images, labels in names), [])
    for pair in names:
        for image, label in _pairs(root, *pair):
            case = Case("", (image,) if image else (), label)
            folder.cases.append(case)
            if image is None or label is None:
                folder.findings.append((case, _unpaired(folder, image, label)))
    return folder


def _pairs(root: Path, images: str, labels: str) -> list[tuple[Path | None, Path | None]]:
    """Pair the scans of two folders by name; a name that occurs twice in a folder has a partner only once."""
    left, right = (_by_stem(root / name) for name in (images, labels))
    pairs: list[tuple[Path | None, Path | None]] = []
    for stem in sorted(left.keys() | right.keys()):
        pairs += zip_longest(left.get(stem, []), right.get(stem, []))
    return pairs


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in list_scans(folder) if folder.is_dir() else []:
        found.setdefault(stem_of(path), []).append(path)
    return found


def _unpaired(folder: Folder, image: Path | None, label: Path | None) -> Finding:
    alone = Path(image or label or "")
    other = "label" if image else "image"
    remedy = ""
    if image and stem_of(image)[-5:-4] == "_" and stem_of(image)[-4:].isdigit():
        remedy = f"{stem_of(image)[-5:]} looks like nnU-Net's channel number: rename without it, as the label is named"
    what = f"no {other} is named {stem_of(alone)}"
    return finding("unpaired_file", folder.name_of(alone), what, remedy=remedy)


def exists(path: Path) -> bool:
    """Tell whether the path is there; False also for what no path can be."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False

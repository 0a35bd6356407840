# SPDX-License-Identifier: Apache-2.0
"""What a file of weights is made of: published weights, data, and what those were made of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_ext.files import sha256_of
from monai_ext.shipping.commercial_use import commercial_use_of
from monai_ext.shipping.data_licences import data_licences
from monai_ext.shipping.licence_entry import LicenceEntry
from monai_ext.shipping.published_weights import PublishedWeights

WEIGHTS = (".pt", ".pth", ".ts", ".onnx", ".safetensors")
SIDECAR = ".licences.json"
TEACHER = "teacher_path"  # weights are not made of it, but inherit its licence, which their own notes say
TRAINED = ("model", "trained")  # what training writes, beside experts, teachers and tasks
KNOBS = ("pretrained", "start_from", "pretrained_2d", "embedder_path")  # name weights whatever the file is called


def weights_origin(path: Path, published: PublishedWeights, above: frozenset[Path] = frozenset()) -> list[LicenceEntry]:
    """Return everything that a file of weights is made of, through any number of fine-tunings.

    The first that speaks of this very file (by its SHA-256) is believed: the list of published weights;
    ``FILE.licences.json``, which comes with a release; ``FILE.json``, which `convert` wrote; ``parity.json`` beside it
    for what was exported. Otherwise it was trained: its own notes (of an expert or a teacher) and the record of the
    run that wrote it say from what: the weights that its knobs name, looked at in the same way, and the data. A record
    is taken at its word: it does not hold the hash of what the run wrote. What nobody tells is an entry "unknown".

    Args:
        path: the file.
        published: weights that are known by their bytes.
        above: files that are being looked at already, so that a run which started from its own result ends.

    Returns:
        Entries in the order they were found, each once.

    Example:
        >>> weights_origin(Path("model.pt"), PublishedWeights.of([]))[0].commercial  # doctest: +SKIP
        'unknown'
    """
    path = path.resolve()
    if path in above:
        return [_unknown("weights", path.name, "started from an earlier file of this name, of which nothing is kept")]
    digest = sha256_of(path)
    if digest in published.by_hash:
        return [published.by_hash[digest]]
    told = _released(path, digest) or _converted(path, digest, published) or _exported(path, digest, published, above)
    if told:
        return told
    found = _of_notes(path)
    records = _run_records(path)
    for record in records:
        found += _of_run(record, path, published, above | {path})
    if not records:
        found.append(_unknown("weights", path.name, "no run record says what it was made from"))
    return list(dict.fromkeys(found))


def _released(path: Path, digest: str) -> list[LicenceEntry]:
    record = _json(path.with_name(path.name + SIDECAR))
    parts = record.get("parts")
    if record.get("sha256") != digest or not isinstance(parts, list):
        return []
    try:
        return [LicenceEntry.of(part) for part in parts]
    except (ValueError, AttributeError, TypeError):
        return []  # damaged: as if it were not there, hence unknown


def _converted(path: Path, digest: str, published: PublishedWeights) -> list[LicenceEntry]:
    record = _json(path.with_name(path.name + ".json"))
    if record.get("sha256") != digest:
        return []
    source, licence = str(record.get("source", path.name)), str(record.get("licence") or "unknown")
    known = published.by_hash.get(str(record.get("source_sha256")))
    via = f"converted to {path.name}"
    if known is not None:
        return [replace(known, via=via)]
    return [LicenceEntry("weights", source, licence, commercial_use_of(licence), via=via)]


def _exported(path: Path, digest: str, published: PublishedWeights, above: frozenset[Path]) -> list[LicenceEntry]:
    """Find what ``parity.json`` says the exported file was made from, if that is still here."""
    record = _json(path.with_name("parity.json"))
    formats = [part for part in record.values() if isinstance(part, dict)]
    if path.suffix not in (".ts", ".onnx") or digest not in [part.get("sha256") for part in formats]:
        return []
    model = path.with_name("model.pt")
    same = model.is_file() and sha256_of(model) == record.get("weights_sha256")
    return weights_origin(model, published, above) if same else []


def _of_notes(path: Path) -> list[LicenceEntry]:
    """Say what an expert or a teacher inherits; nothing if it had no teacher."""
    if path.suffix != ".safetensors":
        return []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            notes = dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return [_unknown("weights", path.name, "it cannot be read")]
    licence, teacher = notes.get("licence", ""), notes.get("teacher", "")
    if not licence and not teacher:
        return []
    licence = licence or "unknown"
    return [
        LicenceEntry("weights", teacher or path.name, licence, commercial_use_of(licence), via=f"{path.name}: notes")
    ]


def _run_records(path: Path) -> list[Path]:
    """Return the records of the runs that write files of this name to this place, as far as they are here."""
    root = _home(path)
    level = re.fullmatch(r"(expert|teacher)_(\w+)", path.stem)
    if level:
        stage = root / "eval" / f"pretrain_{level[2]}{'_teacher' if level[1] == 'teacher' else ''}" / "run.json"
        return [file for file in (stage, root / "run.json") if file.is_file()][:1]
    if path.stem not in TRAINED and path.parent.name != "tasks":
        return []  # others' files may lie beside those of a run
    return [file for file in (root / "run.json", root / "eval" / "run.json") if file.is_file()]


def _home(path: Path) -> Path:
    """Return the folder that has the weights of a run in its ``models``."""
    folder = path.parent.parent if path.parent.name == "tasks" else path.parent
    return folder.parent if folder.name == "models" else folder


def _of_run(file: Path, weights: Path, published: PublishedWeights, above: frozenset[Path]) -> list[LicenceEntry]:
    record = _json(file)
    knobs = record.get("knobs")
    name = file.relative_to(_home(weights)).as_posix()
    if not isinstance(knobs, dict) or not (record.get("best") or record.get("status") == "finished"):
        return [_unknown("weights", weights.name, f"{name} is of no run that got so far as to write weights")]
    if weights.parent.name == "tasks" and knobs.get("task") != weights.stem:
        return [_unknown("weights", weights.name, f"{name} is of another task")]
    found: list[LicenceEntry] = []
    for knob, value in knobs.items():
        if isinstance(value, str) and knob == TEACHER:
            known = published.by_name.get(Path(value).name)  # a published one is named, and the notes are not needed
            found += [replace(known, via=f"{name}: {knob}")] if known else []
        elif isinstance(value, str) and (knob in KNOBS or Path(value).suffix in WEIGHTS):
            start = _start(value, _home(weights), published, above)
            found += [entry if entry.via else replace(entry, via=f"{name}: {knob}") for entry in start]
    return found + data_licences(knobs.get("dataset_dir"), f"{name}: dataset_dir")


def _start(value: str, root: Path, published: PublishedWeights, above: frozenset[Path]) -> list[LicenceEntry]:
    """Look at the weights that a run started from: at the file if it is still here, else at its name."""
    path = Path(value).expanduser()
    places = [path, root / path, root / "models" / "pretrained" / path.name]
    here = next((place for place in places if place.is_file()), None)
    if here is not None:
        return weights_origin(here, published, above)
    known = published.by_name.get(path.name)
    return [known] if known else [_unknown("weights", path.name, "the file is not here, and its name is not known")]


def _unknown(kind: str, name: str, reason: str) -> LicenceEntry:
    return LicenceEntry(kind, name, "unknown", "unknown", via=reason)


def _json(path: Path) -> Mapping[str, Any]:
    """Return an object from a JSON file; an empty one if it is missing or anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

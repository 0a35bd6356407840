# SPDX-License-Identifier: Apache-2.0
"""Everything a report is made of, read from a bundle and its output folder; what is missing is remembered."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

from monai_ext.report.reading import list_of, mapping_of


@dataclass(frozen=True)
class RunFolder:
    """What was found. ``problems`` says of each missing or unreadable file why it has no content here."""

    bundle_root: Path
    output_dir: Path
    run: dict[str, object]
    epochs: list[dict[str, object]]
    rows: list[dict[str, str]]
    summary: dict[str, object]
    parity: dict[str, object]
    metadata: dict[str, object]
    licence: str
    data_licence: str
    large_files: list[dict[str, object]]
    overlays: list[Path]
    sites: dict[str, object] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def read_run_folder(bundle_root: Path, output_dir: Path) -> RunFolder:
    """Read all files of a run (formats: ``docs`` of the bundle). No file is required."""
    problems: dict[str, str] = {}
    return RunFolder(
        bundle_root=bundle_root,
        output_dir=output_dir,
        run=read_json(_run_file(output_dir), problems),
        epochs=_read_epochs(output_dir / "history.json", problems),
        rows=read_rows(output_dir / "cases.csv", problems),
        summary=read_json(output_dir / "summary.json", problems),
        parity=read_json(_models_dir(bundle_root, output_dir) / "parity.json", problems),
        metadata=read_json(bundle_root / "configs" / "metadata.json", problems),
        licence=_read_text(bundle_root / "LICENSE", problems),
        data_licence=_read_text(bundle_root / "docs" / "data_license.txt", problems),
        large_files=_read_large_files(bundle_root, problems),
        overlays=_find_overlays(output_dir / "overlays", problems),
        sites=read_json(output_dir / "sites.json", {}),  # an evaluation of one site has none, which is no problem
        problems=problems,
    )


def read_json(path: Path, problems: dict[str, str]) -> dict[str, object]:
    """Return the object in a JSON file, an empty one when there is none; ``problems`` gets the file's name then."""
    text = _read_text(path, problems)
    if path.name in problems:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        problems[path.name] = "is not valid JSON"
        return {}
    if not isinstance(content, dict):
        problems[path.name] = "holds no JSON object"
    return mapping_of(content)


def read_rows(path: Path, problems: dict[str, str]) -> list[dict[str, str]]:
    """Return the rows of a table of cases; ``problems`` gets the file's name when there are none."""
    text = _read_text(path, problems)
    if path.name in problems:
        return []
    try:
        found = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        problems[path.name] = f"is not valid CSV ({error})"
        return []
    rows = [{key: value for key, value in row.items() if isinstance(key, str) and value} for row in found]
    rows = [row for row in rows if "case" in row]
    if not rows:
        problems[path.name] = "holds no case"
    return rows


def _run_file(output_dir: Path) -> Path:
    """Return the record of the training, or of the evaluation where only that was run."""
    training, evaluation = output_dir / "run.json", output_dir / "evaluation.json"
    return evaluation if evaluation.is_file() and not training.is_file() else training


def _models_dir(bundle_root: Path, output_dir: Path) -> Path:
    """Return ``models`` beside ``eval``, where a run outside the bundle's folder keeps them, else the bundle's."""
    beside = output_dir.absolute().parent / "models"
    return beside if beside.is_dir() else bundle_root / "models"


def _read_text(path: Path, problems: dict[str, str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        problems[path.name] = "is missing"
    except OSError as error:
        problems[path.name] = f"could not be read ({error.strerror})"
    return ""


def _read_epochs(path: Path, problems: dict[str, str]) -> list[dict[str, object]]:
    epochs = [mapping_of(epoch) for epoch in list_of(read_json(path, problems).get("epochs"))]
    if not epochs and path.name not in problems:
        problems[path.name] = "holds no finished epoch yet"
    return epochs


def _read_large_files(bundle_root: Path, problems: dict[str, str]) -> list[dict[str, object]]:
    name = "large_files.yml"
    text = _read_text(bundle_root / name, problems)
    if name in problems:
        return []
    import yaml  # comes with sam2 (hydra); imported late, since only this file needs it

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        problems[name] = "is not valid YAML"
        return []
    return [mapping_of(entry) for entry in list_of(mapping_of(content).get("large_files"))]


def _find_overlays(folder: Path, problems: dict[str, str]) -> list[Path]:
    found = sorted(folder.glob("*.png")) if folder.is_dir() else []
    if not found:
        problems["overlays"] = "has no picture" if folder.is_dir() else "is missing"
    return found

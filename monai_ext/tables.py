# SPDX-License-Identifier: Apache-2.0
"""The CSV files of a run, written and read."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.files import atomic_write

NEEDED = ("case", "class", "dice", "hd95_mm", "nsd")


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; None becomes an empty field."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_cases(path: Path) -> list[dict[str, Any]]:
    """Return the rows of another run's ``cases.csv``.

    Raises:
        InputError: if it cannot be read or is no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); set compare_to to another run's cases.csv.") from error
    missing = [column for column in NEEDED if not rows or column not in rows[0]]
    if missing:
        raise InputError(f"{path}: no rows with {', '.join(missing)}; set compare_to to another run's cases.csv.")
    return rows

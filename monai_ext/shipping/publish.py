# SPDX-License-Identifier: Apache-2.0
"""Moves finished files to where they are found, leaving those alone that are there already."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path


def publish(staged: Path, folder: Path, last: str) -> dict[str, str]:
    """Move each file of ``staged`` into ``folder``; one with the same content is kept as it is.

    Each file appears whole. Killed in between it leaves whole files of the old and the new release; as ``last`` has the
    sums of all others, that shows, and the next call completes it.

    Args:
        staged: folder with files, on the same disk as ``folder``.
        folder: to move them to.
        last: name of the file that comes when all others are there.

    Returns:
        File name -> ``new``, ``replaced`` or ``kept``, in the order they were moved.
    """
    done = {}
    for file in sorted(staged.iterdir(), key=lambda path: (path.name == last, path.name)):
        target = folder / file.name
        if target.is_file() and filecmp.cmp(file, target, shallow=False):
            done[file.name] = "kept"
            continue
        done[file.name] = "replaced" if target.exists() else "new"
        os.replace(file, target)
    return done

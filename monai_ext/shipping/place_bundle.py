# SPDX-License-Identifier: Apache-2.0
"""Puts a bundle where it will be used, unless that would change one that is there."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from pathlib import Path

from monai_ext.errors import InputError


def place_bundle(new: Path, target: Path, files: Sequence[str]) -> bool:
    """Rename a new bundle's folder to ``target``; one that is there is left alone.

    Args:
        new: the bundle, on the same disk as ``target``.
        target: where it goes.
        files: its files, by their paths in it.

    Returns:
        Whether it is new. False: a bundle with all these files, unchanged, is there; further files (weights, results)
        may be.

    Raises:
        InputError: something else is there, or a bundle of which files were changed or are missing.
    """
    if not os.path.lexists(target):
        try:
            os.rename(new, target)
        except OSError as error:
            raise InputError(
                f"{target}: could not be made ({error.strerror}); free the place or choose another."
            ) from error
        return True
    if not target.is_dir():
        raise InputError(f"{target}: is no folder; remove it, or choose another --bundle_dir.")
    other = [file for file in files if not _same(new / file, target / file)]
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise InputError(
            f"{target}: differs from this release in {', '.join(other[:3])}{more}; nothing was changed. Choose another "
            "--bundle_dir, or put that folder aside first."
        )
    return False


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and filecmp.cmp(new, old, shallow=False)

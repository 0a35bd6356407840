# SPDX-License-Identifier: Apache-2.0
"""What is left to do of a large collection whose inference was stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.data._sections import paths_of
from monai_ext.data._share_out import share_out
from monai_ext.scan_files import is_raster

logger = logging.getLogger(__name__)

SOURCES = ("image", "reference", "points", "truth")  # entries of an item that name the files it is read from


def undone(
    data: Sequence[dict[str, Any]],
    output_dir: str | Path,
    files: Sequence[str],
    made_from: Sequence[str | Path] = (),
    skip_done: bool | str = True,
) -> list[dict[str, Any]]:
    """Return the items whose results are not all there, in their order.

    A result is written whole or not at all, so a file that is there is whole. It counts unless a scan or the weights
    have changed since. Knobs are not looked at: with other ones take another folder.

    Under torchrun the processes share out the looking, and all get the same list, which a sampler can share out.

    Args:
        data: items with ``case`` and ``image``, as `load_datalist` or `load_pair_list` give them.
        output_dir: folder of the results.
        files: names of all files of a case, with ``{case}`` and ``{ending}``: ``.png`` for pictures, else ``.nii.gz``.
        made_from: weights; results that are older do not count.
        skip_done: False returns everything. ``"true"`` and ``"false"`` count as booleans.

    Example:
        >>> import tempfile
        >>> undone([{"case": "a", "image": "a.nii.gz"}], tempfile.mkdtemp(), ["{case}{ending}"])
        [{'case': 'a', 'image': 'a.nii.gz'}]
    """
    items = list(data)
    if str(skip_done).lower() != "true":
        return items
    newest = max((_changed(path) for path in made_from), default=0.0)

    def look(share: Sequence[dict[str, Any]]) -> list[bool]:
        return [_is_done(item, Path(output_dir), files, newest) for item in share]

    done = share_out(items, look)
    left = [item for item, there in zip(items, done, strict=True) if not there]
    logger.info("%s: %d of %d cases are done, %d are left", output_dir, len(items) - len(left), len(items), len(left))
    return left


def _is_done(item: Mapping[str, Any], folder: Path, files: Sequence[str], newest: float) -> bool:
    sources = [path for key in SOURCES if isinstance(item.get(key), (str, list)) for path in paths_of(item[key])]
    ending = ".png" if is_raster(Path(paths_of(item["image"])[0])) else ".nii.gz"
    results = [folder / file.format(case=item["case"], ending=ending) for file in files]
    try:
        oldest = min(os.stat(path).st_mtime for path in results)
    except FileNotFoundError:
        return False
    return oldest >= max(newest, *(_changed(path) for path in sources))


def _changed(path: str | Path) -> float:
    """Return when a file was changed; what is not there is for others to complain of."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0

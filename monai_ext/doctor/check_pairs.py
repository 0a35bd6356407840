# SPDX-License-Identifier: Apache-2.0
"""Checks of files that belong together: a label lies on its image's grid, modalities lie on each other's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .finding import Finding, finding
from .geometry import corner_shift, is_usable, same_place

KEPT = 0.9  # part of the foreground's volume that a resampled label must keep


@dataclass(frozen=True)
class Grid:
    """Shape and place of a file that was read; ``affine`` is None for pictures."""

    file: str
    shape: tuple[int, ...]
    affine: np.ndarray | None


def check_grids(reference: Grid, other: Grid, is_label: bool) -> list[Finding]:
    """Return a finding for ``other`` if it does not lie on the grid of ``reference``."""
    shapes = f"{_size(other)} voxels against {_size(reference)} of {reference.file}"
    if reference.affine is None or other.affine is None:
        what = "" if other.shape == reference.shape else shapes
        remedy = "export it again at the size of its image; do not stretch a label by interpolation"
        return [finding("grid_mismatch", other.file, what, remedy=remedy)] if what else []
    if not is_usable(reference.affine) or not is_usable(other.affine):
        return []  # bad_spacing says so already
    if other.shape != reference.shape:
        what = shapes
    elif not same_place(reference.affine, other.affine, reference.shape):
        shift = corner_shift(reference.affine, other.affine, reference.shape)
        what = f"same shape as {reference.file}, but its affine puts a corner {shift:.3g} mm away"
    else:
        return []
    if not is_label:
        remedy = f"resample it to the grid of {reference.file}"
        return [finding("grid_mismatch", other.file, what, remedy=remedy)]
    return [finding("grid_mismatch", other.file, what, repair=_repair_of(reference, other))]


def has_no_place(affine: np.ndarray) -> bool:
    """Tell whether the affine is one that programs write when they know nothing: unit axes at the origin."""
    return bool(np.allclose(np.abs(affine), np.eye(4), atol=1e-6))


def check_channels(images: list[tuple[str, int, int]]) -> list[Finding]:
    """Return a finding for each image that differs from the majority.

    Args:
        images: (file, spatial dimensions, channels) of every readable item.
    """
    kinds = [(dims, channels) for _, dims, channels in images]
    if len(set(kinds)) < 2:
        return []
    usual = max(sorted(set(kinds)), key=kinds.count)
    pictures = all(dims == 2 and channels in (1, 3) for dims, channels in kinds)  # grey can be read as colour
    return [
        finding(
            "inconsistent_channels",
            file,
            f"{_kind(dims, channels)}; most images here: {_kind(*usual)}",
            severity="warning" if pictures else "",
        )
        for file, dims, channels in images
        if (dims, channels) != usual
    ]


def _repair_of(reference: Grid, other: Grid) -> str:
    if other.affine is not None and has_no_place(other.affine) and other.shape == reference.shape:
        return "its header holds no position: take the image's"
    return f"resample to the image's grid with nearest neighbour, if {KEPT:.0%} of the foreground lies inside it"


def _size(grid: Grid) -> str:
    return " x ".join(map(str, grid.shape))


def _kind(dims: int, channels: int) -> str:
    return f"{dims}-D with {channels} channel{'s' if channels > 1 else ''}"

# SPDX-License-Identifier: Apache-2.0
"""Two scans brought to one grid, with a matrix between their worlds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms.prepare_label import name_of

LABELS = {"image": "image_label", "reference": "reference_label"}


class PairOnOneGridd(RandomizableTransform):
    """Bring the moving scan ``image`` to the grid of the fixed scan ``reference``, which is cut to a size before.

    The fixed scan keeps its voxels: it is cut, or continued by its least value, alike on both ends of an axis; with
    ``random_center`` what is cut off is shared out between the ends at random. The moving scan is read where ``matrix``
    (4, 4), from the fixed to the moving scan's RAS mm, leads (linear; its least value beyond it); without ``matrix``
    both lie in one world. Labels ``image_label`` and ``reference_label`` go along, by the nearest voxel, 0 beyond.

    Args:
        spatial_size: voxels of the grid along each axis; None for the fixed scan's own.
        random_center: keep a part at a random place where the fixed scan is larger, not its middle.

    Returns:
        The item with all of it on one grid, and ``moving_mask`` (1, *spatial), true where the moving scan has voxels.

    Raises:
        ValueError: a size that is not positive.
        InputError: by the call, for scans with other numbers of axes or channels.

    Example:
        >>> scan = MetaTensor(torch.rand(1, 4, 6, 6), affine=torch.eye(4))
        >>> pair = PairOnOneGridd(spatial_size=(4, 4, 8))({"image": scan, "reference": scan})
        >>> pair["image"].shape, torch.allclose(pair["image"][..., 1:7], scan[:, :, 1:5], atol=1e-5)
        (torch.Size([1, 4, 4, 8]), True)
    """

    def __init__(self, spatial_size: Sequence[int] | None = None, random_center: bool = False) -> None:
        super().__init__()
        if spatial_size is not None and min(spatial_size, default=0) < 1:
            raise ValueError(f"spatial_size must be positive or None, got {spatial_size}.")
        self.spatial_size = None if spatial_size is None else tuple(spatial_size)
        self.random_center = random_center

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        moving, fixed = (_with_affine(result[key]) for key in ("image", "reference"))
        size = self.spatial_size or tuple(fixed.shape[1:])
        if moving.ndim != fixed.ndim or len(moving) != len(fixed) or len(size) != fixed.ndim - 1:
            raise InputError(
                f"{name_of(moving)} and {name_of(fixed)}: scans must have the same channels and {len(size)} axes, got "
                f"{tuple(moving.shape)} and {tuple(fixed.shape)}."
            )
        first = self._starts(fixed.shape[1:], size)
        result["reference"] = grid = _cut(fixed, first, size, float(fixed.min()))
        matrix = torch.as_tensor(result.get("matrix", torch.eye(4))).double()
        result["image"], result["moving_mask"] = _read(moving, matrix, grid, "bilinear")
        if LABELS["reference"] in result:
            result[LABELS["reference"]] = _cut(_with_affine(result[LABELS["reference"]]), first, size, 0.0)
        if LABELS["image"] in result:
            result[LABELS["image"]] = _read(_with_affine(result[LABELS["image"]]), matrix, grid, "nearest")[0]
        return result

    def _starts(self, sides: Sequence[int], size: Sequence[int]) -> list[int]:
        """Return the first voxel to keep along each axis, negative where the scan is continued."""
        spare = [have - want for have, want in zip(sides, size, strict=True)]
        if not self.random_center:
            return [n // 2 for n in spare]
        return [int(self.R.randint(n + 1)) if n > 0 else n // 2 for n in spare]


def _with_affine(scan: Tensor) -> MetaTensor:
    if isinstance(scan, MetaTensor):
        return scan
    return MetaTensor(scan, affine=torch.eye(4, dtype=torch.float64))


def _cut(scan: MetaTensor, first: Sequence[int], size: Sequence[int], value: float) -> MetaTensor:
    last = [have - start - want for have, start, want in zip(scan.shape[1:], first, size, strict=True)]
    # from the last axis on; negative margins cut
    margins = [-n for ends in zip(reversed(first), reversed(last), strict=True) for n in ends]
    affine = scan.affine.detach().cpu().double().clone()
    affine[:3, 3] += affine[:3, : len(first)] @ torch.tensor(first, dtype=torch.float64)
    cut = F.pad(scan.as_tensor().float(), margins, value=value)
    return MetaTensor(cut, affine=affine, meta=_named(scan))


def _read(scan: MetaTensor, matrix: Tensor, grid: MetaTensor, mode: str) -> tuple[MetaTensor, Tensor]:
    """Return the scan on the grid, and where it has voxels."""
    voxels = torch.linalg.solve(scan.affine.cpu().double(), matrix @ grid.affine)
    theta = _normal(scan.shape[1:]) @ voxels @ torch.linalg.inv(_normal(grid.shape[1:]))
    theta = theta[:3].flip(0)[:, [2, 1, 0, 3]].float()[None]  # torch names the last axis first
    places = F.affine_grid(theta, [1, 1, *grid.shape[1:]], align_corners=False)
    outside = 0.0 if mode == "nearest" else float(scan.min())
    plain = scan.as_tensor().float()[None] - outside
    values = F.grid_sample(plain, places, mode=mode, padding_mode="zeros", align_corners=False)[0] + outside
    inside = (places.abs() <= 1).all(dim=-1)
    return MetaTensor(values, affine=grid.affine, meta=_named(scan)), inside


def _normal(size: Sequence[int]) -> Tensor:
    """From voxels to torch's positions, -1 and 1 at the outer faces."""
    sides = torch.tensor(list(size), dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.diag(2 / sides)
    matrix[:3, 3] = 1 / sides - 1
    return matrix


def _named(scan: MetaTensor) -> dict[str, Any]:
    return {key: scan.meta[key] for key in ("filename_or_obj",) if key in scan.meta}

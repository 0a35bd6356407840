# SPDX-License-Identifier: Apache-2.0
"""Applies a stored registration to images, labels and points."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration.chain import TransformChain
from monai_ext.registration.itk_files import FLIP, read_transform
from monai_ext.registration.resample import resample
from monai_ext.registration.world_grid import WorldGrid

SPACES = ("RAS", "LPS")
LARGEST_MISS_MM = 0.1


class AppliedRegistration:
    """A registration read from its file, ready for images, labels and points.

    A registration maps points of the *fixed* image to the *moving* one. That is what brings the moving *image* to the
    fixed grid (each fixed voxel asks where its value lies), and what takes *points* marked in the fixed image to the
    moving one. Points marked in the moving image need the inverse, as does bringing the fixed image to the moving
    grid: for the latter make this of the inverse's file.

    Args:
        transform: a file that `write_transform` or ITK wrote (``.tfm``, ``.h5``), or a chain; fixed -> moving.

    Raises:
        InputError: the file cannot be used.

    Example:
        >>> shift = torch.eye(4)
        >>> shift[0, 3] = 1  # what lies at x in the fixed image lies at x + 1 mm in the moving one
        >>> applied = AppliedRegistration(TransformChain([shift]))
        >>> moving = MetaTensor(torch.arange(3.0).reshape(1, 3, 1, 1), affine=torch.eye(4))
        >>> applied.image(moving, reference=moving).flatten().tolist()
        [1.0, 2.0, 0.0]
        >>> applied.to_moving(torch.zeros(1, 3)).tolist(), applied.to_fixed(torch.zeros(1, 3)).tolist()
        ([[1.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0]])
    """

    def __init__(self, transform: str | Path | TransformChain) -> None:
        self.transform = transform if isinstance(transform, TransformChain) else read_transform(transform)

    def image(self, moving: MetaTensor, reference: MetaTensor, padding_value: float = 0.0) -> MetaTensor:
        """Bring a moving image (C, X, Y, Z) to the grid of the reference, usually the fixed image; linear, float32.

        Args:
            moving: with its affine to RAS mm.
            reference: (C, X, Y, Z) whose grid the result has; its values do not matter.
            padding_value: where the moving image does not reach, -1024 for CT.
        """
        return self._resampled(moving, reference, "linear", padding_value)

    def label(self, moving: MetaTensor, reference: MetaTensor, padding_value: float = 0.0) -> MetaTensor:
        """Bring labels (C, X, Y, Z) to the grid of the reference: the nearest voxel's, of the same type."""
        return self._resampled(moving, reference, "nearest", padding_value)

    def to_moving(self, points: Tensor, space: str = "RAS") -> Tensor:
        """Take points (N, 3) of the fixed image to the moving one, by the transform itself.

        Args:
            points: mm of ``space``.
            space: ``RAS`` (NIfTI) or ``LPS`` (DICOM, ITK), of what goes in and what comes out.

        Raises:
            InputError: points of another form, not finite, or in an unknown space.
        """
        return _flipped(self.transform(_checked(points, space)).cpu(), space)

    def to_fixed(self, points: Tensor, space: str = "RAS") -> Tensor:
        """Take points (N, 3) of the moving image to the fixed one, by the inverse.

        The inverse is solved at each point, which is more exact than an inverse stored on a grid.

        Raises:
            InputError: as `to_moving`, or a point that nothing leads to, since the transform folds or ends there.
        """
        target = _checked(points, space)
        found = self.transform.source_of(target).cpu()
        missed = (self.transform(found).cpu() - target).norm(dim=1)
        if len(missed) and float(missed.max()) > LARGEST_MISS_MM:
            row = int(missed.argmax())
            raise InputError(
                f"point {points[row].tolist()} (row {row}) has no place in the fixed image: the nearest solution is "
                f"{float(missed[row]):.2f} mm off, where the transform folds or ends; leave the point out."
            )
        return _flipped(found, space)

    def _resampled(self, moving: MetaTensor, reference: MetaTensor, mode: str, padding_value: float) -> MetaTensor:
        grid = WorldGrid.of(reference)
        values = resample(moving, WorldGrid.of(moving), self.transform, grid, mode, padding_value)
        # all that says where the result lies is the reference's; only the name is the moving image's
        name = {key: moving.meta[key] for key in ("filename_or_obj",) if key in moving.meta}
        place = {key: value for key, value in reference.meta.items() if key != "affine"}
        return MetaTensor(values, affine=grid.affine, meta={**place, **name})


def _checked(points: Tensor, space: str) -> Tensor:
    """Return points in RAS mm, in double precision."""
    if space not in SPACES:
        raise InputError(f"space must be one of {', '.join(SPACES)}, got {space!r}.")
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"points must be rows of 3 numbers (mm), got {tuple(points.shape)}.")
    if not points.isfinite().all():
        row = int((~points.isfinite().all(dim=1)).nonzero()[0, 0])
        raise InputError(f"points must be finite, got {points[row].tolist()} in row {row}.")
    return _flipped(points, space)


def _flipped(points: Tensor, space: str) -> Tensor:
    return points if space == "RAS" else points @ FLIP[:3, :3]

# SPDX-License-Identifier: Apache-2.0
"""Transforms in ITK's files, which 3D Slicer, ITK-SNAP, SimpleITK and ANTs open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.registration.chain import TransformChain
from monai_ext.registration.displacement import WorldDisplacement
from monai_ext.registration.world_grid import WorldGrid

TEXT_SUFFIXES = (".tfm", ".txt")
FIELD_SUFFIXES = (".h5", ".hdf5")

# the one place where worlds meet: ITK's is LPS, all of ours is RAS; the flip is its own inverse
FLIP = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


def write_transform(path: str | Path, transform: TransformChain) -> None:
    """Write a map as ITK reads it, whole or not at all.

    A chain of matrices becomes one ``AffineTransform``, a single field a ``DisplacementFieldTransform``, and all else
    a ``CompositeTransform``, whose last part ITK applies first. As all transforms in ITK, it maps points of the fixed
    image to the moving one, in LPS mm.

    Args:
        path: ``.tfm`` or ``.txt`` (text) for matrices, ``.h5`` for whatever has a field.
        transform: in RAS mm.

    Raises:
        InputError: a suffix that does not hold such a transform.

    Example:
        >>> write_transform("affine.tfm", TransformChain([torch.eye(4)]))  # doctest: +SKIP
    """
    import SimpleITK as sitk  # noqa: N813

    path = Path(path)
    suffixes = FIELD_SUFFIXES if transform.matrix is None else TEXT_SUFFIXES + FIELD_SUFFIXES
    if path.suffix.lower() not in suffixes:
        what = "a displacement field" if transform.matrix is None else "an affine transform"
        raise InputError(
            f"{path}: {what} is written as {' or '.join(suffixes)}, not {path.suffix or 'without suffix'}."
        )
    with atomic_write(path) as temporary:
        sitk.WriteTransform(to_itk(transform), str(temporary))


def read_transform(path: str | Path) -> TransformChain:
    """Read an affine map (any kind that ITK knows), a displacement field, or a composite of them.

    Raises:
        InputError: the file is missing, is no transform, or holds a kind that is none of these.

    Example:
        >>> read_transform("composite.h5")(torch.zeros(1, 3))  # doctest: +SKIP
    """
    import SimpleITK as sitk  # noqa: N813

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the transform that `register` wrote.")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: cannot be read as an ITK transform ({reason}); give a .tfm or .h5 file.") from error
    if transform.GetDimension() != 3:
        raise InputError(f"{path}: the transform has {transform.GetDimension()} dimensions, and 3 are needed.")
    return TransformChain(_parts(transform, path))


def to_itk(transform: TransformChain) -> Any:
    """Return the SimpleITK transform of a map."""
    import SimpleITK as sitk  # noqa: N813

    if transform.matrix is not None:
        return _itk_affine(transform.matrix)
    parts = [_itk_field(p) if isinstance(p, WorldDisplacement) else _itk_affine(p) for p in transform.parts]
    if len(parts) == 1:
        return parts[0]
    composite = sitk.CompositeTransform(3)
    for part in reversed(parts):
        composite.AddTransform(part)
    return composite


def _itk_affine(matrix: Tensor) -> Any:
    import SimpleITK as sitk  # noqa: N813

    lps = FLIP @ matrix @ FLIP
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].flatten().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def _itk_field(field: WorldDisplacement) -> Any:
    import SimpleITK as sitk  # noqa: N813

    values = field.values.cpu() * FLIP.diagonal()[:3, None, None, None]
    # ITK's first index is the fastest, and a vector's components lie together: (3, X, Y, Z) -> (Z, Y, X, 3)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.permute(3, 2, 1, 0).numpy()), isVector=True)
    lps = FLIP @ field.grid.affine
    spacing = lps[:3, :3].norm(dim=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return sitk.DisplacementFieldTransform(image)  # takes the image's voxels over and leaves it empty


def _parts(transform: Any, path: Path) -> list[Tensor | WorldDisplacement]:
    import SimpleITK as sitk  # noqa: N813

    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        each = [transform.GetNthTransform(i) for i in reversed(range(transform.GetNumberOfTransforms()))]
        return [part for some in each for part in _parts(some, path)]
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return [_field_of(transform.GetDisplacementField())]
    if transform.IsLinear():
        return [_matrix_of(transform)]
    raise InputError(
        f"{path}: {transform.GetName()} is not supported; turn it into a displacement field "
        "(SimpleITK.TransformToDisplacementField) and store that."
    )


def _matrix_of(transform: Any) -> Tensor:
    """Return the matrix of any linear kind (Euler, versor, similarity, ...), from where it takes four points."""
    corners = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    images = torch.tensor([transform.TransformPoint(corner) for corner in corners.tolist()], dtype=torch.float64)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = (images[1:] - images[0]).T
    matrix[:3, 3] = images[0]
    return FLIP @ matrix @ FLIP


def _field_of(image: Any) -> WorldDisplacement:
    import SimpleITK as sitk  # noqa: N813

    values = torch.from_numpy(sitk.GetArrayFromImage(image)).double().permute(3, 2, 1, 0)
    affine = torch.eye(4, dtype=torch.float64)
    direction = torch.tensor(image.GetDirection(), dtype=torch.float64).reshape(3, 3)
    affine[:3, :3] = direction * torch.tensor(image.GetSpacing(), dtype=torch.float64)
    affine[:3, 3] = torch.tensor(image.GetOrigin(), dtype=torch.float64)
    return WorldDisplacement(
        (values * FLIP.diagonal()[:3, None, None, None]).contiguous(), WorldGrid(image.GetSize(), FLIP @ affine)
    )

# SPDX-License-Identifier: Apache-2.0
"""Where in a scan the body is."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.registration import TransformChain, WorldGrid, resample
from monai_ext.shipping.volume_files import read_label


def body_mask(scan: MetaTensor, name: Path, threshold: float | None = None, file: Path | None = None) -> Tensor:
    """Return bool (X, Y, Z), True inside the body.

    Args:
        scan: (C, X, Y, Z) as the network gets it.
        name: of the scan, for messages.
        threshold: intensities of the scan above this are body, and so is what they enclose in a slice across the body
            (lungs, bowel). None: everything is body.
        file: a mask in any grid of the scan's world, other than 0 inside; takes the threshold's place.

    Raises:
        InputError: nothing is left, or the file is no mask.

    Example:
        >>> scan = MetaTensor(torch.zeros(1, 5, 5, 5), affine=torch.eye(4))
        >>> scan[:, 1:4, 1:4, 1:4] = 1
        >>> scan[:, 2, 2, 2] = 0  # air inside
        >>> int(body_mask(scan, Path("scan.nii"), threshold=0.5).sum())
        27
    """
    if file is not None:
        mask = read_label(file)
        inside = resample(mask, WorldGrid.of(mask), TransformChain([]), WorldGrid.of(scan), "nearest")[0] != 0
        reason = f"{file}: marks no voxel of {name}; give a mask of this scan, other than 0 inside the body."
    elif threshold is not None:
        inside = _filled(scan.as_subclass(Tensor).amax(dim=0) > threshold, scan.affine)
        reason = f"{name}: no voxel is above body_threshold {threshold:g}; lower it, or give a mask."
    else:
        inside, reason = torch.ones(scan.shape[1:], dtype=torch.bool), ""
    if not inside.any():
        raise InputError(reason)
    return inside


def _filled(inside: Tensor, affine: Tensor) -> Tensor:
    """Fill what is enclosed in each slice across the axis that runs most nearly along the body."""
    axis = int(affine[2, :3].abs().argmax())
    slices = [torch.from_numpy(binary_fill_holes(x.numpy())) for x in inside.unbind(axis)]
    return torch.stack(slices, dim=axis)

# SPDX-License-Identifier: Apache-2.0
"""Label maps as the published protocol scores them, with the slice axis found in the scan's own grid."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor

from monai_ext.data.slices import check_plane
from monai_ext.metrics.published_protocol import published_protocol


def paper_maps(pred: Tensor, label: Tensor, plane: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what is scored of two label maps (1, *spatial), None when that is nothing."""
    return published_protocol(pred, label, slice_axis(label, plane))


def slice_axis(label: Tensor, plane: str) -> int | None:
    """Return the axis of (1, X, Y, Z) that the plane's slices are stacked along, None for a picture.

    Example:
        >>> import torch
        >>> slice_axis(torch.zeros(1, 4, 4, 4), "axial")
        2
    """
    wanted = check_plane(plane)
    if label.ndim != 4:
        return None
    if not isinstance(label, MetaTensor):
        return wanted
    body_axes = io_orientation(label.affine.cpu().numpy())[:, 0]  # of each array axis the nearest of R, A, S
    return int(np.argmax(body_axes == wanted))

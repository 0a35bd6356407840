# SPDX-License-Identifier: Apache-2.0
"""What a user's prompts must look like."""

from __future__ import annotations

from torch import Tensor


def check_prompts(batch: int, boxes: Tensor | None, points: Tensor | None, point_labels: Tensor | None) -> None:
    """Refuse prompts that do not go with a batch of images.

    Args:
        batch: number of images.
        boxes: must be (B, 4) or None.
        points: must be (B, N, 2) or None.
        point_labels: must be (B, N), and there if and only if points are.

    Raises:
        ValueError: naming the form that is wanted.
    """
    if boxes is not None and boxes.shape != (batch, 4):
        raise ValueError(f"boxes must be ({batch}, 4), one for each image, got {tuple(boxes.shape)}.")
    if (points is None) != (point_labels is None):
        raise ValueError("points and point_labels belong together: give both or neither.")
    if points is not None and point_labels is not None:
        fits = points.ndim == 3 and points.shape[::2] == (batch, 2) and point_labels.shape == points.shape[:2]
        if not fits or points.shape[1] == 0:
            raise ValueError(
                f"points must be ({batch}, N, 2) and point_labels ({batch}, N) with at least one point, got "
                f"{tuple(points.shape)} and {tuple(point_labels.shape)}."
            )

# SPDX-License-Identifier: Apache-2.0
"""Two views of one grey image, for contrastive learning."""

from __future__ import annotations

from monai.transforms import (
    Compose,
    ConcatItemsd,
    CopyItemsd,
    DeleteItemsd,
    RandFlipd,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleCropd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    Resized,
    ScaleIntensityRanged,
    Transform,
)

VIEW = "view"


def simclr_views(
    image_size: int = 224, crop_scale: float = 0.2, jitter: float = 0.4, blur_prob: float = 0.5, key: str = "image"
) -> Compose:
    """Compose MONAI transforms that make two views of an image, one after the other in its channels.

    Views are drawn apart from each other: crop and resize, flips, quarter turns, brightness, contrast, blur. They are
    SimCLR's (https://arxiv.org/abs/2002.05709) without what needs colour, and with turns, since slices have no gravity.

    Args:
        image_size: side of the views.
        crop_scale: least part of the area that a crop keeps. Its two sides are drawn apart, each from the square root
            of this to all.
        jitter: largest relative change of brightness and of contrast.
        blur_prob: how often a view is blurred, with a sigma of 0.1 to 2 pixels.
        key: of the image (C, H, W), values 0 to 1; it becomes (2 * C, image_size, image_size), of the same range.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> import torch
        >>> simclr_views(image_size=32)({"image": torch.rand(1, 40, 50)})["image"].shape
        torch.Size([2, 32, 32])
    """
    if not 0 < crop_scale <= 1:
        raise ValueError(f"crop_scale must be in (0, 1], got {crop_scale}.")
    if not 0 <= jitter < 1 or not 0 <= blur_prob <= 1:
        raise ValueError(f"jitter must be in [0, 1) and blur_prob in [0, 1], got {jitter} and {blur_prob}.")

    def view(name: str) -> list[Transform]:
        return [
            RandScaleCropd(keys=[name], roi_scale=crop_scale**0.5, max_roi_scale=1.0, random_size=True),
            Resized(keys=[name], spatial_size=(image_size, image_size), mode="bilinear", anti_aliasing=True),
            RandFlipd(keys=[name], prob=0.5, spatial_axis=0),
            RandFlipd(keys=[name], prob=0.5, spatial_axis=1),
            RandRotate90d(keys=[name], prob=0.75, max_k=3),  # each of the four turns equally often
            RandScaleIntensityd(keys=[name], prob=1.0, factors=jitter),
            RandScaleIntensityFixedMeand(keys=[name], prob=1.0, factors=jitter),
            RandGaussianSmoothd(keys=[name], prob=blur_prob, sigma_x=(0.1, 2.0), sigma_y=(0.1, 2.0)),
            ScaleIntensityRanged(keys=[name], a_min=0.0, a_max=1.0, b_min=0.0, b_max=1.0, clip=True),
        ]

    return Compose(
        [
            CopyItemsd(keys=[key], names=[VIEW]),
            *view(key),
            *view(VIEW),
            ConcatItemsd(keys=[key, VIEW], name=key),
            DeleteItemsd(keys=[VIEW]),
        ]
    )

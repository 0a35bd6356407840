# SPDX-License-Identifier: Apache-2.0
"""A noisy image and the clean one, for learning to tell them apart."""

from __future__ import annotations

from monai.transforms import Compose, CopyItemsd, RandGaussianNoised, RandGaussianSmoothd, ScaleIntensityRanged


def denoising_pair(noise_sigma: float = 0.1, noise_clip: bool = False, blur_prob: float = 0.0) -> Compose:
    """Compose MONAI transforms that put noise on ``image`` and keep the clean one as ``label``.

    Args:
        noise_sigma: standard deviation of Gaussian noise on an image with values from 0 to 1. A network that changes
            nothing has a mean square error of its square.
        noise_clip: bring values back to the range from 0 to 1 after all.
        blur_prob: how often a Gaussian blur follows the noise.

    Raises:
        ValueError: a negative deviation, or a probability outside of 0 to 1.

    Example:
        >>> import torch
        >>> item = denoising_pair()({"image": torch.zeros(1, 8, 8)})
        >>> bool(item["label"].any()), bool(item["image"].any())
        (False, True)
    """
    if noise_sigma < 0:
        raise ValueError(f"noise_sigma must be at least 0, got {noise_sigma}.")
    if not 0 <= blur_prob <= 1:
        raise ValueError(f"blur_prob must be in [0, 1], got {blur_prob}.")
    steps = [
        CopyItemsd(keys=["image"], names=["label"]),
        RandGaussianNoised(keys=["image"], prob=1.0, std=noise_sigma, sample_std=False),
        RandGaussianSmoothd(keys=["image"], prob=blur_prob, sigma_x=(0.6, 1.4), sigma_y=(0.6, 1.4)),
    ]
    if noise_clip:
        steps.append(ScaleIntensityRanged(keys=["image"], a_min=0.0, a_max=1.0, b_min=0.0, b_max=1.0, clip=True))
    return Compose(steps)

# SPDX-License-Identifier: Apache-2.0
"""Intensities of any scanner brought into the range that networks expect."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, NormalizeIntensity, ScaleIntensityRange, ScaleIntensityRangePercentiles
from torch import Tensor

MODES = ("percentile", "window", "zscore", "unit", "none")


class ScaleScand(MapTransform):
    """Scale intensities by one of five rules; the result is finite even for a constant image.

    - ``percentile``: the ``lower`` to ``upper`` percentile (0.5 and 99.5) becomes 0 to 1, clipped: MR, unknown units;
    - ``window``: ``lower`` to ``upper`` becomes 0 to 1, clipped: CT, in Hounsfield units (default -160 to 240);
    - ``zscore``: mean 0 and standard deviation 1, of the voxels other than 0 if ``nonzero``;
    - ``unit``: the darkest to the brightest value that the picture's format can hold becomes 0 to 1;
    - ``none``: as it is.

    Args:
        keys: of the images.
        mode: see above.
        lower: percentile or intensity that becomes 0.
        upper: percentile or intensity that becomes 1.
        channel_wise: each channel by itself (percentile and zscore).
        nonzero: leave voxels of value 0 out of the z-score, which keeps an empty background at 0.

    Example:
        >>> ct = torch.tensor([[[-500.0, 0.0, 50.0]]])
        >>> ScaleScand(keys=["image"], mode="window", lower=-100, upper=100)({"image": ct})["image"]
        metatensor([[[0.0000, 0.5000, 0.7500]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        mode: str = "percentile",
        lower: float | None = None,
        upper: float | None = None,
        channel_wise: bool = True,
        nonzero: bool = False,
    ) -> None:
        super().__init__(keys)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}.")
        defaults = {"percentile": (0.5, 99.5), "window": (-160.0, 240.0)}.get(mode, (0.0, 1.0))
        self.mode = mode
        self.lower = defaults[0] if lower is None else lower
        self.upper = defaults[1] if upper is None else upper
        if not self.lower < self.upper:
            raise ValueError(f"lower must be less than upper, got {self.lower} and {self.upper}.")
        self.scale = _scaler(mode, self.lower, self.upper, channel_wise, nonzero)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(result):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Divide by zero")  # a constant image becomes 0
                # a copy, since MONAI's z-score works in place
                result[key] = self.scale(result[key].to(torch.float32, copy=self.mode == "zscore"))
        return result


def _scaler(mode: str, lower: float, upper: float, channel_wise: bool, nonzero: bool) -> Callable[[Tensor], Any]:
    if mode == "percentile":
        return ScaleIntensityRangePercentiles(lower, upper, 0.0, 1.0, clip=True, channel_wise=channel_wise)
    if mode == "window":
        return ScaleIntensityRange(lower, upper, 0.0, 1.0, clip=True)
    if mode == "zscore":
        return NormalizeIntensity(nonzero=nonzero, channel_wise=channel_wise)
    return _to_unit if mode == "unit" else _unchanged


def _to_unit(image: Tensor) -> Tensor:
    white = float(image.meta.get("white", 255.0)) if isinstance(image, MetaTensor) else 255.0
    return image / white


def _unchanged(image: Tensor) -> Tensor:
    return image

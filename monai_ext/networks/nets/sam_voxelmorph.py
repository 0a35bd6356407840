# SPDX-License-Identifier: Apache-2.0
"""VoxelMorph that is also told how much each place resembles its neighbourhood in the other image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks.warp import DVF2DDF
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor

from monai_ext.field_warp import FieldWarp
from monai_ext.networks.blocks.correlation_readout import CorrelationReadout

ENCODER_CHANNELS = (16, 32, 32, 32)
DECODER_CHANNELS = (32, 32, 32, 32)
FINAL_CHANNELS = (32, 16, 16)


class SAMVoxelMorph(nn.Module):
    """Displace one image towards another, from both and from the correlation of their embeddings.

    The last learned step of SAME++ (https://arxiv.org/abs/2311.14986): VoxelMorph's U-Net (Balakrishnan et al. 2019,
    https://arxiv.org/abs/1809.05231), whose second level, at half resolution, where the cells of the local embedding
    lie, is also given what `LocalCorrelation` makes of the embeddings. It predicts a stationary velocity, which
    scaling and squaring turns into a displacement without folds.

    ::

        images ── 16 ──┬──────────────────────────────────────────┬── 32 ── 16 ── 16 ── velocity ── displacement
                       └──┬── 32 ──┬──────────────────────┬── 32 ─┘
        correlation ──────┘        └── 32 ──┬────┬── 32 ──┘
                                            └─32─┴─32 (an eighth, and below it a sixteenth)

    Images of any size are continued behind their ends to whole multiples of 16 voxels for the U-Net; its velocity is
    cut back before it is integrated.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of both images together.
        encoder_channels: at each resolution; the image is halved behind each.
        decoder_channels: as many, from the coarsest resolution up.
        final_channels: of the convolutions at full resolution before the velocity.
        use_correlation: take the correlation; without it this is the plain VoxelMorph.
        integration_steps: of scaling and squaring.
        readout_sigma: add to the velocity what a `CorrelationReadout` of this Gaussian, in cells, makes of the
            features (our addition); None: no such part.

    Shape:
        image (B, in_channels, *spatial): the moving image's channels, then the fixed one's, on one grid. features
        (B, 3 ** spatial_dims, *cells): the correlation of fixed with moving; cells of two voxels each from the first
        voxel on, and maybe some behind the last. prealign (B, spatial_dims, *spatial): a displacement with which the
        moving image was already brought to this grid. -> the displacement (B, spatial_dims, *spatial); in training
        mode [displacement, velocity].

    Displacements are in voxels, one channel an axis in the tensor's order, and lead from the fixed image into the
    moving one, as MONAI's ``Warp`` has it. With ``prealign`` the result leads into the image before it:
    ``u(x) + prealign(x + u(x))``; beyond the edge the outermost displacements continue. Train without it.

    Raises:
        ValueError: an argument out of its range, or shapes that do not fit.

    Example:
        >>> network = SAMVoxelMorph(spatial_dims=2).eval()
        >>> network(torch.rand(1, 2, 20, 36), torch.rand(1, 9, 10, 18)).shape
        torch.Size([1, 2, 20, 36])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 2,
        encoder_channels: Sequence[int] = ENCODER_CHANNELS,
        decoder_channels: Sequence[int] = DECODER_CHANNELS,
        final_channels: Sequence[int] = FINAL_CHANNELS,
        use_correlation: bool = True,
        integration_steps: int = 7,
        readout_sigma: float | None = None,
    ) -> None:
        super().__init__()
        _check_widths(spatial_dims, in_channels, encoder_channels, decoder_channels, final_channels)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.correlation_channels = 3**spatial_dims if use_correlation else 0
        self.multiple = 2 ** len(encoder_channels)

        def conv(before: int, after: int) -> nn.Module:
            return Conv[Conv.CONV, spatial_dims](before, after, kernel_size=3, padding=1)

        into = [in_channels, *encoder_channels[:-1]]
        into[1] += self.correlation_channels
        self.encoder = nn.ModuleList(map(conv, into, encoder_channels))
        below = [encoder_channels[-1], *decoder_channels[:-1]]
        skips = [0, *reversed(encoder_channels[1:])]
        joined = [deep + skip for deep, skip in zip(below, skips, strict=True)]
        self.decoder = nn.ModuleList(map(conv, joined, decoder_channels))
        last = [decoder_channels[-1] + encoder_channels[0], *final_channels]
        self.final = nn.ModuleList(conv(before, after) for before, after in pairwise(last))
        self.flow = conv(last[-1], spatial_dims)
        for name, weight in self.flow.named_parameters():  # training starts from hardly any displacement
            nn.init.normal_(weight, std=1e-5 if name == "weight" else 0.0)
        self.readout = None
        if readout_sigma is not None:
            if not use_correlation:
                raise ValueError("readout_sigma reads out the correlation, which use_correlation=False leaves out.")
            self.readout = CorrelationReadout(spatial_dims, readout_sigma)
        self.pool = Pool[Pool.MAX, spatial_dims](2)
        self.integration = DVF2DDF(num_steps=integration_steps)
        self.integration.warp_layer = FieldWarp(padding_mode="zeros")
        self.warp = FieldWarp()

    def forward(
        self, image: Tensor, features: Tensor | None = None, prealign: Tensor | None = None
    ) -> Tensor | list[Tensor]:
        velocity = self.velocity(image, features)
        displacement = self.integrate(velocity)
        if prealign is not None:
            displacement = self.compose(prealign, displacement)
        return [displacement, velocity] if self.training else displacement

    def velocity(self, image: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the velocity (B, spatial_dims, *spatial), in voxels per unit of time."""
        self._check(image, features)
        sides = image.shape[2:]
        whole = [side + (-side) % self.multiple for side in sides]
        x = _continued(image, whole)
        own = (slice(None), slice(None), *(slice(side) for side in sides))
        if features is None:
            return self.flow(self._describe(x, None))[own]
        found = self.flow(self._describe(x, _continued(features, [side // 2 for side in whole])))[own]
        return found if self.readout is None else found + self.readout(features)[own]

    def integrate(self, velocity: Tensor) -> Tensor:
        """Follow a velocity for a unit of time; the negative velocity gives the inverse displacement."""
        with torch.autocast(velocity.device.type, enabled=False):
            return self.integration(_at_least_float(velocity))

    def compose(self, first: Tensor, then: Tensor) -> Tensor:
        """Return the displacement of going where ``then`` leads, and from there where ``first`` leads."""
        with torch.autocast(then.device.type, enabled=False):
            return then + self.warp(_at_least_float(first), then)

    def _describe(self, x: Tensor, features: Tensor | None) -> Tensor:
        skips = []
        for level, conv in enumerate(self.encoder):
            if level == 1 and features is not None:
                x = torch.cat([x, features.to(x.dtype)], dim=1)
            skips.append(_activate(conv(x)))
            x = self.pool(skips[-1])
        for conv in self.decoder:
            x = F.interpolate(_activate(conv(x)), scale_factor=2.0, mode="nearest")
            x = torch.cat([x, skips.pop()], dim=1)
        for conv in self.final:
            x = _activate(conv(x))
        return x

    def _check(self, image: Tensor, features: Tensor | None) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        sides = image.shape[2:]
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            raise ValueError(
                f"image must be (B, {self.in_channels}, {self.spatial_dims} axes), the moving one's channels and then "
                f"the fixed one's, got {tuple(image.shape)}."
            )
        if (features is not None) != bool(self.correlation_channels):
            wanted = "needs features" if self.correlation_channels else "takes no features"
            raise ValueError(f"a network with use_correlation={bool(self.correlation_channels)} {wanted}.")
        if features is not None:
            most = [(side + (-side) % self.multiple) // 2 for side in sides]
            expected = (len(image), self.correlation_channels, *((side + 1) // 2 for side in sides))
            fits = features.ndim == image.ndim and features.shape[:2] == expected[:2]
            if not fits or any(
                not side // 2 <= cells <= limit
                for side, cells, limit in zip(sides, features.shape[2:], most, strict=True)
            ):
                raise ValueError(f"features must be {expected} to fit the image, got {tuple(features.shape)}.")


def _continued(x: Tensor, sides: Sequence[Any]) -> Tensor:
    """Repeat the last voxels up to given sides."""
    behind = [0, 0] * len(sides)
    for axis, side in enumerate(sides):
        behind[-1 - 2 * axis] = side - x.shape[2 + axis]
    return F.pad(x, behind, mode="replicate")


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_widths(spatial_dims: int, in_channels: int, *widths: Sequence[int]) -> None:
    encoder, decoder, _ = widths
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    if in_channels < 2 or in_channels % 2:
        raise ValueError(f"in_channels must be even, half of them of each image, got {in_channels}.")
    if len(encoder) < 2 or len(decoder) != len(encoder):
        raise ValueError(
            "encoder_channels and decoder_channels must have the same length, at least 2, got "
            f"{list(encoder)} and {list(decoder)}."
        )
    if min(width for each in widths for width in (*each, 1)) < 1:
        raise ValueError(f"widths must be at least 1, got {[list(each) for each in widths]}.")

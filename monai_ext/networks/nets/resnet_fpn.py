# SPDX-License-Identifier: Apache-2.0
"""The network of self-supervised anatomical embedding: an anisotropic ResNet with a fine and a coarse head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.layers.factories import Pool
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.blocks.anisotropic_res_block import AnisotropicResBlock, conv_norm
from monai_ext.networks.blocks.pyramid_head import PyramidHead
from monai_ext.networks.layers.reach import Reach

LOCAL_STRIDE = (2, 2, 2)  # voxels a cell along z, y and x; in 2-D the last two
GLOBAL_STRIDE = (4, 16, 16)

# kernel of the convolutions and stride of the first one, for each stage
_STAGES = (
    ((1, 3, 3), (1, 2, 2)),
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (2, 2, 2)),
)


class ResNetFPN3d(nn.Module):
    """Describe each place of a volume by a local and a global unit vector (Yan et al. 2022).

    Self-supervised anatomical embedding, https://arxiv.org/abs/2012.02383. A ResNet-18 whose stages go down faster
    in the plane (y, x) than across it (z); its three finer levels are added into the local embedding, and its last
    one alone is the global embedding. The first spatial axis of a volume is z.

    ::

        image ─ stem ─ layer1 ─ pool ─┬─ layer2 ─┬─ layer3 ─┬─ layer4 ─ global head ─ global
                                      └──────────┴──────────┴─ local head ─ local

    Cell ``i`` of an axis with stride s stands for the place ``s i + (s - 1) / 2`` in voxels. That holds for any size,
    but cells are whole only if sides are multiples of (4, 16, 16), in 2-D of (16, 16): pad before, and drop what
    describes the padding.

    Args:
        spatial_dims: 3, or 2 for the same without z.
        in_channels: of the image.
        base_channels: width of the stem and of the first stage, doubled from stage to stage; 64 is published.
        embedding_dim: channels of each embedding; 128 is published.
        lateral_kernel: 1 (published), 3, or None for no lateral convolutions in the local (and semantic) head, as
            the method's description has it.
        semantic_head: add a second local head, trained with organ labels by a later method (UAE-S).
        stage_channels: widths of the four stages, instead of those that follow from ``base_channels``.
        norm: name (and arguments) of MONAI's normalisation layer.

    Shape:
        (B, in_channels, D, H, W) -> ``local`` (B, embedding_dim, D // 2, H / 2, W / 2), ``global`` (B, embedding_dim,
        D / 4, H / 16, W / 16), and ``semantic`` like ``local`` if asked for. All have unit length along the channels.
        A traced network returns them as a tuple, since TorchScript's dictionaries are not for tracing.

    Raises:
        ValueError: an argument out of its range; an image of another number of axes or channels.

    Example:
        >>> network = ResNetFPN3d(base_channels=4, embedding_dim=8).eval()
        >>> {name: tuple(x.shape) for name, x in network(torch.rand(1, 1, 8, 32, 32)).items()}
        {'local': (1, 8, 4, 16, 16), 'global': (1, 8, 2, 2, 2)}
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        base_channels: int = 64,
        embedding_dim: int = 128,
        lateral_kernel: int | None = 1,
        semantic_head: bool = False,
        stage_channels: Sequence[int] | None = None,
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        widths = tuple(stage_channels) if stage_channels else tuple(base_channels * 2**stage for stage in range(4))
        _check(spatial_dims, {"in_channels": in_channels, "embedding_dim": embedding_dim}, (base_channels, *widths))
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.embedding_dim = embedding_dim
        self.norm = norm
        self.encoder = _Encoder(spatial_dims, in_channels, base_channels, widths, norm)
        self.local_head = PyramidHead(spatial_dims, widths[:3], embedding_dim, lateral_kernel)
        self.global_head = PyramidHead(spatial_dims, widths[3:], embedding_dim)
        if semantic_head:
            self.semantic_head = PyramidHead(spatial_dims, widths[:3], embedding_dim, lateral_kernel)
        self.apply(_initialise)

    @property
    def strides(self) -> dict[str, tuple[int, ...]]:
        """Voxels a cell of each embedding, along each axis."""
        own = {"local": LOCAL_STRIDE, "global": GLOBAL_STRIDE}
        if hasattr(self, "semantic_head"):
            own["semantic"] = LOCAL_STRIDE
        return {name: stride[-self.spatial_dims :] for name, stride in own.items()}

    @property
    def halo(self) -> dict[str, tuple[int, ...]]:
        """Voxels around a block of whole cells on which their embeddings depend, along each axis, in ``eval()``.

        Cells of a tile that is cut with as many voxels more on each side are those of the whole volume.

        Raises:
            InputError: a normalisation takes its statistics from the whole image.
        """
        _check_reach(self)
        *fine, coarse = self.encoder.reach()
        reach = {"local": self.local_head.reach(fine), "global": self.global_head.reach([coarse])}
        if hasattr(self, "semantic_head"):
            reach["semantic"] = self.semantic_head.reach(fine)
        return {name: each.halo for name, each in reach.items()}

    @property
    def encoder_settings(self) -> dict[str, object]:
        """What embeddings depend on and the weights do not show."""
        return {"network": "ResNetFPN3d", "strides": self.strides, "norm": self.norm}

    def forward(self, image: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        self._check_image(image)
        *fine, coarse = self.encoder(image)
        embeddings = {"local": self.local_head(fine), "global": self.global_head([coarse])}
        if hasattr(self, "semantic_head"):
            embeddings["semantic"] = self.semantic_head(fine)
        return tuple(embeddings.values()) if torch.jit.is_tracing() else embeddings

    def _check_image(self, image: Tensor) -> None:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        if image.ndim != self.spatial_dims + 2 or image.shape[1] != self.in_channels:
            sides = "D, H, W" if self.spatial_dims == 3 else "H, W"
            raise ValueError(f"image must be (B, {self.in_channels}, {sides}), got {tuple(image.shape)}.")


class _Encoder(nn.Module):
    """The ResNet; gives the features of its four stages."""

    def __init__(
        self, spatial_dims: int, in_channels: int, base_channels: int, widths: Sequence[int], norm: str | tuple
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims

        def own(sides: tuple[int, ...]) -> tuple[int, ...]:
            return sides[-spatial_dims:]

        self.stem = conv_norm(in_channels, base_channels, own((3, 7, 7)), own((1, 1, 1)), norm)
        # halves z between the first two stages
        self.pool = Pool[Pool.MAX, 3]((2, 1, 1)) if spatial_dims == 3 else nn.Identity()
        before = (base_channels, *widths)
        layers = [
            nn.Sequential(
                AnisotropicResBlock(before[index], width, own(kernel), own(stride), norm),
                AnisotropicResBlock(width, width, own(kernel), own((1, 1, 1)), norm),
            )
            for index, (width, (kernel, stride)) in enumerate(zip(widths, _STAGES, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def reach(self) -> list[Reach]:
        """Return how far the cells of the four stages see."""
        c1 = _reach(self.layer1, Reach.of_voxels(self.spatial_dims).through(self.stem[0])).through(self.pool)
        c2 = _reach(self.layer2, c1)
        c3 = _reach(self.layer3, c2)
        return [c1, c2, c3, _reach(self.layer4, c3)]

    def forward(self, image: Tensor) -> list[Tensor]:
        c1 = self.pool(self.layer1(F.relu(self.stem(image), inplace=True)))
        c2 = self.layer2(c1)
        c3 = self.layer3(c2)
        return [c1, c2, c3, self.layer4(c3)]


def _reach(stage: nn.Sequential, before: Reach) -> Reach:
    for block in stage:
        if isinstance(block, AnisotropicResBlock):
            before = block.reach(before)
    return before


def _check_reach(network: ResNetFPN3d) -> None:
    for module in network.modules():
        spans = isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.InstanceNorm3d))
        if spans or (isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)) and module.running_mean is None):
            raise InputError(
                f"norm {network.norm!r} takes its statistics from the whole image, so that a tile's embeddings differ "
                "from the volume's; embed volumes whole, or train with norm batch."
            )


def _check(spatial_dims: int, single: dict[str, int], widths: Sequence[int]) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    for name, value in single.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if len(widths) != 5 or min(widths) < 1:
        raise ValueError(
            f"base_channels must be at least 1 and stage_channels four such widths, got {widths[0]} and "
            f"{list(widths[1:])}."
        )


def _initialise(module: nn.Module) -> None:
    """Kaiming for the encoder, whose convolutions have no bias; Xavier and zero for the heads."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        if module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

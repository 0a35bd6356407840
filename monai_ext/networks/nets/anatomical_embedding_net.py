# SPDX-License-Identifier: Apache-2.0
"""Self-supervised anatomical embedding: a local and a global unit vector for each place of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.checkpoints import load_anatomical_embedding, load_inflated_resnet
from monai_ext.networks.layers.recording import is_recorded
from monai_ext.networks.nets.embeddings import Embeddings
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d


class AnatomicalEmbeddingNet(ResNetFPN3d):
    """The network of SAM, self-supervised anatomical embedding (Yan et al. 2022, https://arxiv.org/abs/2012.02383).

    ::

        image ─ x pixel_scale + pixel_shift ─ pad ─ ResNet ─┬─ levels 1 to 3 ─ local head ──┬─ / length ─ local
        0 to 1                                              └─ level 4 ─────── global head ─┴─ / length ─ global

    Scaling to the published range and padding to whole cells happen inside, so that an exported file is right by
    itself. Padding is put at the end of each axis, hence a cell's place in the image does not depend on it; cells
    behind the image describe nothing. The weights carry the names of `ResNetFPN3d`, published ones load.

    Args:
        spatial_dims: 3, or 2 for the same without z.
        in_channels: of the image.
        base_channels: width of the stem; 64 is published, 16 trains on a CPU.
        embedding_dim: channels of each embedding; 128 is published.
        lateral_kernel: 1 (published), 3, or None for no lateral convolutions in the local head.
        semantic_head: add the third head of the later method UAE-S.
        stage_channels: widths of the four stages, instead of those that follow from ``base_channels``.
        norm: name (and arguments) of MONAI's normalisation layer.
        pixel_scale: the image is multiplied by it; 255 brings 0 to 1 to the published range.
        pixel_shift: and then moved by it.
        padding_value: of the image, for what is added at the end of an axis; 0 is air in the published range.
        pretrained_2d: file of a 2-D ResNet-18 that `load_pretrained` starts the encoder from if it has nothing better.

    Shape:
        image (B, in_channels, D, H, W), values as the preprocessing gives them, 0 to 1, axes z, y, x ->
        `Embeddings` with ``local`` (B, embedding_dim, D'/2, H'/2, W'/2), ``global`` (B, embedding_dim, D'/4, H'/16,
        W'/16) and maybe ``semantic`` like ``local``, where D', H' and W' are the sides rounded up to multiples of 4, 16
        and 16. Traced or exported, a tuple in this order.

    Raises:
        ValueError: an argument out of its range; an image of another number of axes or channels.

    Example:
        >>> network = AnatomicalEmbeddingNet(base_channels=4, embedding_dim=8).eval()
        >>> {name: tuple(x.shape) for name, x in network(torch.rand(1, 1, 7, 30, 32)).items()}
        {'local': (1, 8, 4, 16, 16), 'global': (1, 8, 2, 2, 2)}
    """

    exports_any_size = True  # sizes inside are computed from the image's, symbolically

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
        pixel_scale: float = 255.0,
        pixel_shift: float = -50.0,
        padding_value: float = 0.0,
        pretrained_2d: str | Path | None = None,
    ) -> None:
        super().__init__(
            spatial_dims, in_channels, base_channels, embedding_dim, lateral_kernel, semantic_head, stage_channels, norm
        )
        self.pixel_scale = pixel_scale
        self.pixel_shift = pixel_shift
        self.padding_value = padding_value
        self.pretrained_2d = pretrained_2d
        self.find_unused_parameters = semantic_head  # without organ labels that head gets no gradient

    @property
    def encoder_settings(self) -> dict[str, object]:
        """What embeddings depend on and the weights do not show."""
        own = {"pixel_scale": self.pixel_scale, "pixel_shift": self.pixel_shift, "padding_value": self.padding_value}
        return {**super().encoder_settings, **own}

    def forward(self, image: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        self._check_image(image)
        found = super().forward(self._pad(image) * self.pixel_scale + self.pixel_shift)
        if isinstance(found, tuple) or torch.compiler.is_dynamo_compiling():
            return found
        return tuple(found.values()) if is_recorded() else Embeddings(found)

    def load_pretrained(self, path: str | Path | None) -> AnatomicalEmbeddingNet:
        """Load a whole trained network, the authors' or ours; without one start from ``pretrained_2d``.

        Raises:
            InputError: a file is missing, or belongs to another network.
        """
        return load_anatomical_embedding(self, path) if path else load_inflated_resnet(self, self.pretrained_2d)

    def _pad(self, image: Tensor) -> Tensor:
        """Add to the end of each axis what makes its cells whole."""
        sides = zip(image.shape[2:], self.strides["global"], strict=True)
        missing = [(side + step - 1) // step * step - side for side, step in sides]
        return F.pad(image, [n for end in reversed(missing) for n in (0, end)], value=self.padding_value)

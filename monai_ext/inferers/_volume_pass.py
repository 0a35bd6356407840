# SPDX-License-Identifier: Apache-2.0
"""One volume on its way through a network that embeds it, whole or tile by tile."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from tqdm import tqdm

from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from monai_ext.evaluating import evaluating
from monai_ext.inferers._forward_memory import ForwardMemory
from monai_ext.inferers._release_memory import release_memory
from monai_ext.inferers._tiles import Tile, TilePlan, whole_blocks
from monai_ext.inferers.slice_wise import precision


@dataclass(frozen=True)
class VolumePass:
    """A volume, the network, and how they come together.

    Args:
        image: (C, *size), on any device.
        case: name for messages.
        network: also if it is wrapped for several processes or compiled.
        strides: of the network: name of each embedding and voxels a cell along each axis.
        device: of the network.
        amp: mixed precision.
        dtype: in which embeddings are kept.
    """

    image: Tensor
    case: str
    network: nn.Module
    strides: Mapping[str, tuple[int, ...]]
    device: torch.device
    amp: bool
    dtype: torch.dtype

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each axis that are the volume's own."""
        return tuple(self.image.shape[1:])

    @property
    def block(self) -> tuple[int, ...]:
        """Voxels along each axis of a cell of the global embedding."""
        return self.strides["global"]

    @property
    def padded(self) -> tuple[int, ...]:
        """Voxels along each axis up to whole cells."""
        return whole_blocks(self.size, self.block)

    @property
    def padding_value(self) -> float:
        """With what image the volume is continued behind its end."""
        return float(getattr(unwrap(self.network), "padding_value", 0.0))

    def memory(self) -> ForwardMemory:
        """Return what forward passes take."""
        # what is compiled would be compiled for the small images too
        plain = unwrap(self.network)
        with evaluating(plain):
            return ForwardMemory(
                lambda shape: self._forward(plain, self._blank(shape)),
                len(self.image),
                self.block,
                channels_last=self._channels_last,
            )

    def embed(self, plan: TilePlan) -> dict[str, Tensor]:
        """Run the network and return maps (C, *cells) of the volume's own cells, where the network is.

        Raises:
            InputError: embeddings are not finite.
            ValueError: the network gives others than it announces.
        """
        maps: dict[str, Tensor] = {}
        hidden = len(plan) == 1 or not sys.stderr.isatty()
        with evaluating(self.network):
            for tile in tqdm(plan, desc=f"embedding {self.case}", unit="tile", disable=hidden):
                if self.device.type == "cpu" and len(plan) > 1:
                    release_memory()
                self._embed_tile(maps, tile)
        return maps

    def _embed_tile(self, maps: dict[str, Tensor], tile: Tile) -> None:
        with torch.inference_mode():
            found = self._forward(self.network, self._cut(tile))
        for name, x in found.items():
            self._keep(maps, name, x, tile)

    def _cut(self, tile: Tile) -> Tensor:
        """Return a tile (1, C, *sides), continued behind the volume's end."""
        sides = [stop - first for first, stop in zip(tile.first, tile.stop, strict=True)]
        cut = self._blank((1, len(self.image), *sides))
        there = [slice(a, min(b, size)) for a, b, size in zip(tile.first, tile.stop, self.size, strict=True)]
        part = _part(self.image, there)
        _part(cut[0], [slice(0, side) for side in part.shape[1:]]).copy_(part)
        return cut

    @property
    def _channels_last(self) -> bool:
        """On a CPU channels come last in memory, which convolutions keep to: they are faster and make no copies."""
        return self.device.type == "cpu"

    def _blank(self, shape: Sequence[int]) -> Tensor:
        """Return an image of nothing but padding."""
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        layout = last if self._channels_last else torch.contiguous_format
        blank = torch.empty(tuple(shape), device=self.device, memory_format=layout)
        return blank.fill_(self.padding_value)

    def _forward(self, network: nn.Module, tile: Tensor) -> Mapping[str, Tensor]:
        with precision(self.device, self.amp):
            found = network(tile)
        if not isinstance(found, Mapping) or set(found) != set(self.strides):
            names = sorted(found) if isinstance(found, Mapping) else type(found).__name__
            raise ValueError(f"the network must give {sorted(self.strides)}, as its strides say, got {names}.")
        return found

    def _keep(self, maps: dict[str, Tensor], name: str, found: Tensor, tile: Tile) -> None:
        """Copy the cells of a tile's core to their place."""
        strides = self.strides[name]
        cells = [-(-side // stride) for side, stride in zip(self.size, strides, strict=True)]
        if name not in maps:
            maps[name] = found.new_empty((found.shape[1], *cells), dtype=self.dtype)
        # the last cells may describe nothing but the continuation
        there = [
            slice(first // stride, min(stop // stride, side))
            for first, stop, stride, side in zip(tile.core_first, tile.core_stop, strides, cells, strict=True)
        ]
        here = [
            slice(own.start - first // stride, own.stop - first // stride)
            for own, first, stride in zip(there, tile.first, strides, strict=True)
        ]
        core = _part(found[0], here)
        if not bool(torch.isfinite(core).all()):
            raise InputError(f"{self.case}: embeddings are NaN or infinite; look at the scan and the weights.")
        _part(maps[name], there).copy_(core)


def _part(maps: Tensor, spans: Sequence[slice]) -> Tensor:
    """Return a part of maps (C, ...) along all axes but that of the channels."""
    for axis, span in enumerate(spans, 1):
        maps = maps.narrow(axis, span.start, span.stop - span.start)
    return maps

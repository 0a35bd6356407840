# SPDX-License-Identifier: Apache-2.0
"""Finds one real network input: what the bundle's own preprocessing and inferer would give the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn as nn
from monai.bundle import ConfigParser
from torch import Tensor

from monai_ext.data import load_datalist
from monai_ext.errors import InputError
from monai_ext.shipping.bundle_network import build

LARGEST_SIDE = 96  # voxels along an axis of a volume that is compared on


def sample_input(parser: ConfigParser, network: nn.Module, image: Path | None) -> tuple[Tensor, str]:
    """Return one input of the network, (1, C, H, W) or (1, C, D, H, W), and a text that says what it is.

    Of a network that takes whole volumes, by metadata.json, it is the middle of the preprocessed volume.

    Args:
        parser: the bundle's inference config.
        network: in evaluation mode.
        image: file to take it from. None: the first test image of ``dataset_dir`` if that exists, else noise.

    Raises:
        InputError: the image is missing or the bundle's preprocessing refuses it.
    """
    if image is not None and not image.exists():
        raise InputError(f"{image}: there is no such image.")
    item = _first_of_dataset(parser) if image is None else _item_of(image)
    if item is None:
        shape = _described_shape(parser, network)
        text = f"random values, seed 0, {'x'.join(map(str, shape))} (no --image given and no dataset_dir found)"
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)), text
    volume = build(parser, "preprocessing")(item)["image"]
    names = item["image"] if isinstance(item["image"], list) else [item["image"]]
    shown = ", ".join(Path(name).name for name in names)
    if len(_described(parser).get("spatial_shape", [])) == 3:
        middle = _middle(volume)
        return middle, f"{shown} ({'x'.join(map(str, middle.shape))}, the middle of the volume)"
    recorder = _Recorder(network)
    with torch.no_grad():
        build(parser, "inferer")(volume[None], recorder)
    if recorder.image is None:
        raise InputError(f"{item['image']}: the inferer gave the network nothing; is the image empty?")
    size = "x".join(map(str, recorder.image.shape))
    where = " of a volume, its slice of highest contrast" if volume.ndim == 4 else ""
    return recorder.image, f"{shown} ({size}{where})"


class _Recorder(nn.Module):
    """Stands in for the network: keeps the one input with most contrast, answers with zeros, computes nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        self.eval()
        self.image: Tensor | None = None
        self.channels = 0
        self.contrast = -1.0

    def forward(self, images: Tensor) -> Tensor:
        images = torch.as_tensor(images).detach().float()
        if not self.channels:
            self.channels = self.network(images[:1]).shape[1]
        contrasts = images.flatten(1).std(dim=1)
        best = int(contrasts.argmax())
        if float(contrasts[best]) > self.contrast:
            # a plain tensor: exporters do not know MONAI's
            self.image = torch.tensor(images[best : best + 1].cpu().numpy())
            self.contrast = float(contrasts[best])
        return images.new_zeros(images.shape[0], self.channels, *images.shape[2:])

    def segment(self, images: Tensor, **prompts: Any) -> SimpleNamespace:
        """Answer an inferer that speaks to networks that prompt themselves; the exported file takes no prompts."""
        boxes = images.new_full((images.shape[0], 4), torch.nan)
        return SimpleNamespace(logits=self(images), boxes=boxes, prompts=["null"] * images.shape[0])


def _item_of(image: Path) -> dict[str, Any]:
    """Return the first item of a folder (a DICOM series, a data set) or data list, or the image itself."""
    if image.is_dir() or image.suffix == ".json":
        return load_datalist(image, "inference")[0]
    return {"image": str(image)}


def _first_of_dataset(parser: ConfigParser) -> dict[str, Any] | None:
    """Return the first item of the config's ``dataset_dir``, if that exists."""
    folder = Path(str(build(parser, "dataset_dir"))) if "dataset_dir" in parser.get() else None
    return load_datalist(folder, "inference")[0] if folder is not None and folder.exists() else None


def _middle(volume: Tensor) -> Tensor:
    """Return the middle of a volume (C, D, H, W), not more than is quickly compared, as a batch of one."""
    starts = [max(0, (side - LARGEST_SIDE) // 2) for side in volume.shape[1:]]
    box = (slice(None), *(slice(start, start + LARGEST_SIDE) for start in starts))
    return torch.tensor(volume[box].cpu().numpy()).float()[None]  # a plain tensor: exporters do not know MONAI's


def _described(parser: ConfigParser) -> dict[str, Any]:
    """Return what metadata.json says of the input."""
    return parser.get("_meta_", {}).get("network_data_format", {}).get("inputs", {}).get("image", {})


def _described_shape(parser: ConfigParser, network: nn.Module) -> tuple[int, ...]:
    """Return the input's shape by metadata.json; a free side becomes the ``image_size``, or 256; 48 in a volume."""
    described = _described(parser)
    stated = described.get("spatial_shape", [])
    channels = int(getattr(network, "in_channels", described.get("num_channels", 3)))
    if len(stated) == 3:
        return (1, channels, *(int(side) if str(side).isdigit() else 48 for side in stated))
    side = getattr(network, "image_size", None)
    if side is None and "image_size" in parser.get():
        side = build(parser, "image_size")
    sides = list(side) if isinstance(side, (list, tuple)) else [side or 256] * 2
    for axis, told in enumerate(stated[:2]):
        sides[axis] = int(told) if str(told).isdigit() else sides[axis]
    return (1, channels, *sides)

# SPDX-License-Identifier: Apache-2.0
"""Draws a case as image, truth and prediction side by side, with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from monai.utils import convert_to_numpy
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from monai_ext.data.slices import check_plane, stack_view, upright
from monai_ext.report.palette import class_colour

OPACITY = 0.45
BAR = 18
GAP = 6
INK, PAPER = (230, 230, 230), (20, 20, 20)


@dataclass(frozen=True)
class Sample:
    """One slice as it is displayed: ``image`` (H, W, 3) uint8 and label maps (H, W) by the name of their panel."""

    title: str
    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    aspect: float


def take_sample(title: str, output: Mapping[str, Any], plane: str) -> Sample:
    """Return the slice of a case that shows most of the true object, or of the prediction where there is no truth.

    Args:
        title: the case's name.
        output: ``image`` (C, *spatial) and label maps or probabilities ``label``, ``pred`` (1, *spatial), of one
            grid; ``label`` may be missing. Volumes with an affine are turned to RAS.
        plane: of the slice of a volume.

    Raises:
        ValueError: when the grids differ.
    """
    keys = [key for key in ("image", "label", "pred") if isinstance(output.get(key), Tensor)]
    tensors = {key: _turned(output[key]) for key in keys}
    shapes = {key: tuple(tensor.shape[1:]) for key, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"image, label and pred must be of one grid, got {shapes}.")
    is_volume = tensors["image"].ndim == 4
    panels = {"label": "truth", "pred": "prediction"}
    stacks = {key: upright(stack_view(_plain(tensor), plane), is_volume) for key, tensor in tensors.items()}
    labels = {panels[key]: _labels(stack[:, 0]) for key, stack in stacks.items() if key != "image"}
    sizes = [(found > 0).flatten(1).sum(1) for found in labels.values()]
    filled = next((size for size in sizes if size.any()), None)
    count = len(stacks["image"])
    index = count // 2 if filled is None else int(filled.argmax())
    return Sample(
        title=f"{title}  {plane} {index + 1}/{count}" if is_volume else title,
        image=_colours(stacks["image"][index], is_volume),
        maps={name: convert_to_numpy(found[index]) for name, found in labels.items()},
        aspect=_aspect(tensors["image"], plane) if is_volume else 1.0,
    )


def draw(samples: Sequence[Sample], panel: int = 256) -> Image.Image:
    """Draw one row per sample; ``panel`` is the longest side of a picture in pixels."""
    rows = [_draw_row(sample, panel) for sample in samples]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _turned(value: Tensor) -> Tensor:
    is_volume = value.ndim == 4
    return Orientation("RAS", labels=None)(value) if is_volume and isinstance(value, MetaTensor) else value


def _plain(value: Tensor) -> Tensor:
    value = value.as_tensor() if isinstance(value, MetaTensor) else value
    return value.detach().cpu().float()


def _labels(maps: Tensor) -> Tensor:
    """Return label maps as integers; probabilities are cut at 0.5."""
    return (maps.round() if torch.equal(maps, maps.round()) else maps > 0.5).to(torch.uint8)


def _aspect(volume: Tensor, plane: str) -> float:
    """Return how much higher than wide a pixel of the slice is."""
    if not isinstance(volume, MetaTensor):
        return 1.0
    sizes = torch.linalg.vector_norm(volume.affine[:3, :3].double(), dim=0)
    across, down = (sizes[axis].item() for axis in range(3) if axis != check_plane(plane))
    return down / across if across > 0 and down > 0 else 1.0


def _colours(image: Tensor, is_volume: bool) -> np.ndarray:
    """Return a slice (C, H, W) as (H, W, 3) uint8: a picture of three channels in colour, else its middle channel."""
    channels = image if len(image) == 3 and not is_volume else image[len(image) // 2][None].expand(3, -1, -1)
    values = np.nan_to_num(convert_to_numpy(channels).transpose(1, 2, 0))
    low, high = np.percentile(values, (0.5, 99.5))
    return (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def _draw_row(sample: Sample, panel: int) -> Image.Image:
    height, width = sample.image.shape[:2]
    scale = panel / max(height * sample.aspect, width)
    size = (max(1, round(width * scale)), max(1, round(height * sample.aspect * scale)))
    panels = {"image": Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR)}
    panels.update({name: _paint(panels["image"], labels, size) for name, labels in sample.maps.items()})
    row = Image.new("RGB", (len(panels) * (size[0] + GAP) + GAP, size[1] + BAR + GAP), PAPER)
    pen, font = ImageDraw.Draw(row), ImageFont.load_default()
    for number, (name, picture) in enumerate(panels.items()):
        left = GAP + number * (size[0] + GAP)
        text = sample.title if number == 0 else name
        while len(text) > 1 and pen.textlength(text, font) > size[0]:
            text = text[:-1]
        pen.text((left, 3), text, INK, font)
        row.paste(picture, (left, BAR))
    return row


def _paint(image: Image.Image, labels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Lay the classes over the image: see-through inside, solid along their borders."""
    shown = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    table = np.array([(0, 0, 0), *(class_colour(index) for index in range(1, 256))], np.float32)
    padded = np.pad(shown, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([near != shown for near in neighbours], axis=0) & (shown > 0)
    opacity = np.where(border, 1.0, np.where(shown > 0, OPACITY, 0.0))[..., None]
    mixed = np.asarray(image, np.float32) * (1 - opacity) + table[shown] * opacity
    return Image.fromarray(mixed.round().astype(np.uint8))

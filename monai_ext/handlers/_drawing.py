# SPDX-License-Identifier: Apache-2.0
"""Draws a case as image, truth and prediction side by side, with Pillow alone."""

from __future__ import annotations

import logging
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
from monai_ext.errors import InputError
from monai_ext.report.palette import class_colour
from monai_ext.report.prompt_record import PromptRecord, SlicePrompt, parse_prompts

logger = logging.getLogger(__name__)

OPACITY = 0.45
BAR = 18
GAP = 6
INK, PAPER = (230, 230, 230), (20, 20, 20)
LINE, EDGE = (255, 255, 255), (0, 0, 0)  # of prompts: white dashes on black, which is no class's colour
DASH, SPACE, ARM = 5, 3, 4


@dataclass(frozen=True)
class Sample:
    """One slice as it is displayed: ``image`` (H, W, 3) uint8 and label maps (H, W) by the name of their panel.

    ``prompt`` is what the network was given with it, where that was recorded.
    """

    title: str
    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    aspect: float
    prompt: SlicePrompt | None = None


def take_sample(title: str, output: Mapping[str, Any], plane: str) -> Sample:
    """Return the slice of a case that shows most of the true object, or of the prediction where there is no truth.

    Args:
        title: the case's name.
        output: ``image`` (C, *spatial) and label maps or probabilities ``label``, ``pred`` (1, *spatial), of one
            grid; ``label`` may be missing. Volumes with an affine are turned to RAS. A record of prompts in the
            metadata of ``pred`` (JSON, under ``prompts``) is drawn if it is of this plane.
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
        prompt=_prompt(output.get("pred"), plane if is_volume else "", index),
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


def draw_grid(rows: Sequence[Sequence[Sample]], panel: int = 256) -> Image.Image:
    """Draw one row of pictures for each row of samples; ``panel`` is the longest side of a picture in pixels."""
    drawn = [[draw([sample], panel) for sample in row] for row in rows]
    width = max(picture.width for row in drawn for picture in row)
    height = max(picture.height for row in drawn for picture in row)
    sheet = Image.new("RGB", (width * max(map(len, drawn)), height * len(drawn)), PAPER)
    for top, row in enumerate(drawn):
        for left, picture in enumerate(row):
            sheet.paste(picture, (left * width, top * height))
    return sheet


def grey_or_rgb(picture: Tensor) -> np.ndarray:
    """Return (C, H, W) as (H, W, 3) uint8; of another number of channels than three the middle one is shown."""
    return _colours(_plain(picture), is_volume=False)


def _turned(value: Tensor) -> Tensor:
    is_volume = value.ndim == 4
    return Orientation("RAS", labels=None)(value) if is_volume and isinstance(value, MetaTensor) else value


def _plain(value: Tensor) -> Tensor:
    value = value.as_tensor() if isinstance(value, MetaTensor) else value
    return value.detach().cpu().float()


def _labels(maps: Tensor) -> Tensor:
    """Return label maps as integers; probabilities are cut at 0.5."""
    return (maps.round() if torch.equal(maps, maps.round()) else maps > 0.5).to(torch.uint8)


def _prompt(pred: object, plane: str, index: int) -> SlicePrompt | None:
    """Return the prompt of a slice from the metadata of the prediction; a record that cannot be read is none."""
    text = pred.meta.get("prompts") if isinstance(pred, MetaTensor) else None
    if isinstance(text, list | tuple) and len(text) == 1:  # a batch of one, not taken apart
        text = text[0]
    try:
        record = parse_prompts(text) if isinstance(text, str) and text else PromptRecord("", "", {})
    except InputError as error:
        logger.debug("prompts are not drawn: their record %s", error)
        return None
    return record.slices.get(index) if plane in ("", record.plane) else None


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
    if sample.prompt is not None and "prediction" in panels:
        _mark(panels["prediction"], sample.prompt, (height, width))
    row = Image.new("RGB", (len(panels) * (size[0] + GAP) + GAP, size[1] + BAR + GAP), PAPER)
    pen, font = ImageDraw.Draw(row), ImageFont.load_default()
    for number, (name, picture) in enumerate(panels.items()):
        left = GAP + number * (size[0] + GAP)
        said = f": {sample.prompt.text}" if sample.prompt is not None and name == "prediction" else ""
        text = sample.title if number == 0 else name + said
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


def _mark(picture: Image.Image, prompt: SlicePrompt, shape: tuple[int, int]) -> None:
    """Draw box and points of a slice of ``shape`` (rows, columns) into its picture."""
    pen, down, across = ImageDraw.Draw(picture), picture.height / shape[0], picture.width / shape[1]
    if prompt.box is not None:
        left, top, right, bottom = prompt.box
        sides = round(left * across), round(top * down), round((right + 1) * across) - 1, round((bottom + 1) * down) - 1
        x0, y0, x1, y1 = (min(max(side, 1), size - 2) for side, size in zip(sides, picture.size * 2, strict=True))
        x1, y1 = max(x0, x1), max(y0, y1)
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=EDGE, width=3)
        for x in range(x0, x1 + 1, DASH + SPACE):
            pen.line([(x, y0), (min(x + DASH - 1, x1), y0)], LINE)
            pen.line([(x, y1), (min(x + DASH - 1, x1), y1)], LINE)
        for y in range(y0, y1 + 1, DASH + SPACE):
            pen.line([(x0, y), (x0, min(y + DASH - 1, y1))], LINE)
            pen.line([(x1, y), (x1, min(y + DASH - 1, y1))], LINE)
    for column, row, is_object in prompt.points:
        x, y = round((column + 0.5) * across), round((row + 0.5) * down)
        for colour, width in ((EDGE, 1), (LINE, 0)):
            pen.rectangle((x - ARM - width, y - width, x + ARM + width, y + width), colour)
            if is_object:
                pen.rectangle((x - width, y - ARM - width, x + width, y + ARM + width), colour)

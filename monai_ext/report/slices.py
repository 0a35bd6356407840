# SPDX-License-Identifier: Apache-2.0
"""The data of the slice viewer: all slices of a view in one picture, with overlays that can be laid over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from monai_ext.report.cases import ScoredCase
from monai_ext.report.loaded import LoadedCase, load_case
from monai_ext.report.paint import (
    Colour,
    class_palette,
    display_size,
    error_map,
    error_palette,
    palette_address,
    photo_address,
    resize,
    to_bytes,
)
from monai_ext.report.prompt_marks import place_marks
from monai_ext.report.prompt_record import SlicePrompt

if TYPE_CHECKING:
    import numpy as np

View = dict[str, object]
Frame = tuple[Callable[[], LoadedCase], str, int]
_SIZES = ((208, 128), (176, 112), (144, 80), (112, 64), (80, 48))  # longest side in pixels, most slices


def volume_view(loaded: LoadedCase, plane: str, title: str, budget: int) -> View | None:
    """Return one plane of a volume in the finest size whose pictures stay below ``budget`` characters.

    Returns:
        what ``viewer.js`` reads, or None when even the coarsest size is too large.
    """
    for side, most in _SIZES:
        count = loaded.image.count(plane)
        indices = sorted(
            {round(index * (count - 1) / max(1, min(count, most) - 1)) for index in range(min(count, most))}
        )
        frames = [(lambda: loaded, plane, index) for index in indices]
        view = _make_view(title, frames, side, loaded.image.edges(plane))
        if size_of(view) <= budget:
            return view
    return None


def pictures_view(cases: Sequence[ScoredCase], title: str, budget: int) -> View | None:
    """Return 2-D cases as the slices of one view, each with its name; see `volume_view`."""
    for side, most in _SIZES:
        # opened one by one: many large pictures at once would not fit into memory
        view = _make_view(title, [(partial(load_case, case), "axial", 0) for case in cases[:most]], side, "")
        if size_of(view) <= budget:
            return view
    return None


def size_of(view: View) -> int:
    """Return the number of characters of the view's pictures."""
    return sum(len(str(view.get(layer) or "")) for layer in ("image", "truth", "prediction", "error"))


def _make_view(title: str, frames: list[Frame], side: int, edges: str) -> View:
    import numpy as np

    tiles, captions, prompts = [], [], []
    for load, plane, index in frames:
        loaded = load()
        tiles.append(_tile(loaded, plane, index, side))
        captions.append(loaded.image.caption(plane, index) or loaded.case.name)
        prompts.append((loaded.prompt_of(plane, index), loaded.image.frame(plane, index).shape))
    width = max(tile["image"].shape[1] for tile in tiles)
    height = max(tile["image"].shape[0] for tile in tiles)
    columns = max(1, math.ceil(math.sqrt(len(tiles) * height / width)))
    view: View = {
        "title": title,
        "width": width,
        "height": height,
        "columns": columns,
        "count": len(tiles),
        "edges": list(edges),
        "captions": captions,
        "profile": [_error_share(tile) for tile in tiles],
        "image": photo_address(_sheet([tile["image"] for tile in tiles], width, height, columns)),
    }
    if any(prompt is not None for prompt, _ in prompts):
        view["prompts"] = [
            None if prompt is None else _marks(prompt, shape, tile["image"], (width, height))
            for (prompt, shape), tile in zip(prompts, tiles, strict=True)
        ]
    palettes: dict[str, list[Colour]] = {
        "truth": class_palette(),
        "prediction": class_palette(),
        "error": error_palette(),
    }
    for layer, palette in palettes.items():
        maps = [tile.get(layer) for tile in tiles]
        if any(found is not None for found in maps):
            empty = np.zeros((1, 1), np.uint8)
            sheet = _sheet([empty if found is None else found for found in maps], width, height, columns)
            view[layer] = palette_address(sheet, palette)
    return view


def _tile(loaded: LoadedCase, plane: str, index: int, side: int) -> dict[str, np.ndarray]:
    frame = loaded.image.frame(plane, index)
    size = display_size(frame.shape, loaded.image.size_mm(plane), side)
    tile = {"image": resize(to_bytes(frame, loaded.window), size, smooth=True)}
    maps = {layer: scan.frame(plane, index) for layer, scan in loaded.labels.items()}
    if len(maps) == 2:
        maps["error"] = error_map(maps["truth"], maps["prediction"])
    tile.update({layer: resize(found, size, smooth=False) for layer, found in maps.items()})
    return tile


def _marks(prompt: SlicePrompt, shape: tuple[int, ...], tile: np.ndarray, field: tuple[int, int]) -> dict[str, object]:
    """Return a prompt in the pixels of its field, which has the tile in its middle."""
    size = (tile.shape[1], tile.shape[0])
    offset = ((field[0] - size[0]) // 2, (field[1] - size[1]) // 2)
    return place_marks(prompt, shape, size, offset).as_data()


def _error_share(tile: dict[str, np.ndarray]) -> float | None:
    """Return the wrong pixels as a share of the pixels that truth or prediction call an object."""
    if "error" not in tile:
        return None
    objects = ((tile["truth"] > 0) | (tile["prediction"] > 0)).sum()
    return round(float((tile["error"] > 0).sum() / objects), 3) if objects else 0.0


def _sheet(tiles: list[np.ndarray], width: int, height: int, columns: int) -> np.ndarray:
    """Lay tiles in rows, each in the middle of its field, on black."""
    import numpy as np

    depth = max((tile.ndim for tile in tiles), default=2)
    shape = (math.ceil(len(tiles) / columns) * height, columns * width)
    sheet = np.zeros(shape if depth == 2 else (*shape, 3), np.uint8)
    for number, tile in enumerate(tiles):
        top = number // columns * height + (height - tile.shape[0]) // 2
        left = number % columns * width + (width - tile.shape[1]) // 2
        pixels = tile[..., None] if depth == 3 and tile.ndim == 2 else tile
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = pixels
    return sheet

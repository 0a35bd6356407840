# SPDX-License-Identifier: Apache-2.0
"""One picture of all demo volumes, so that a look tells whether they are what one wants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from monai_ext.demo.grid import VoxelGrid

_TILE = 240  # pixels, 1 mm each, so that voxels of any shape are drawn in proportion
_CAPTION = 18
_COLUMNS = 5
_COLOURS = np.array([[0, 0, 0], [86, 180, 233], [230, 159, 0], [240, 240, 240]], dtype=np.uint8)


class Preview:
    """Collects an axial slice of each volume and lays them out with captions.

    Args:
        height: RAS z in mm of the slices.
    """

    def __init__(self, height: float) -> None:
        self.height = height
        self.tiles: list[tuple[str, Image.Image]] = []

    def add(self, caption: str, image: NDArray, grid: VoxelGrid) -> None:
        """Add a scan (X, Y, Z), its window set by its own bright voxels."""
        plane = self._plane(image, grid).astype(np.float32)
        grey = np.clip(plane / max(float(np.percentile(plane, 99.5)), 1e-6), 0, 1) * 255
        self._place(caption, Image.fromarray(grey.astype(np.uint8)).convert("RGB"), grid)

    def add_label(self, caption: str, label: NDArray[np.uint8], grid: VoxelGrid) -> None:
        """Add a label map (X, Y, Z) in colours."""
        self._place(caption, Image.fromarray(_COLOURS[self._plane(label, grid)]), grid)

    def render(self) -> NDArray[np.uint8]:
        """Return the sheet (rows, columns, 3)."""
        rows = -(-len(self.tiles) // _COLUMNS)
        sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "black")
        draw = ImageDraw.Draw(sheet)
        for index, (caption, tile) in enumerate(self.tiles):
            x, y = index % _COLUMNS * _TILE, index // _COLUMNS * (_TILE + _CAPTION)
            draw.text((x + 6, y + 3), caption, fill="white")
            sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + _CAPTION + (_TILE - tile.height) // 2))
        return np.asarray(sheet)

    def _plane(self, volume: NDArray, grid: VoxelGrid) -> NDArray:
        """Return rows from anterior to posterior, columns from the subject's left to right."""
        index = int(np.argmin(np.abs(grid.centres(2) - self.height)))
        return np.ascontiguousarray(volume[:, ::-1, index].T)

    def _place(self, caption: str, picture: Image.Image, grid: VoxelGrid) -> None:
        size = [max(1, min(_TILE, round(grid.shape[axis] * grid.spacing[axis]))) for axis in (0, 1)]
        self.tiles.append((caption, picture.resize((size[0], size[1]), Image.Resampling.NEAREST)))

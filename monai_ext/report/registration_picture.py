# SPDX-License-Identifier: Apache-2.0
"""A registration at one glance: both scans, checkerboards before and after, and the deformed grid."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from monai_ext.report.paint import to_bytes

if TYPE_CHECKING:
    import numpy as np
    from monai.data.meta_tensor import MetaTensor
    from PIL import Image
    from torch import Tensor

    from monai_ext.registration import WorldGrid

    Map = Callable[[Tensor], Tensor]

PICTURE_BYTES = 1 << 20
_SIDE = 160  # pixels of the longest side of a panel
_SQUARE, _MESH = 20, 10  # pixels between lines of the checkerboard and of the grid
_GAP, _BAR = 4, 16
_INK, _PAPER, _LINE = (230, 230, 230), (20, 20, 20), (255, 190, 60)
_TITLES = ("fixed", "moving, as it lies", "checkerboard before", "moving, registered", "checkerboard after", "grid")
# down and to the right on the picture, in RAS: the patient's right is on the left, the front of a profile too
_PLANES = {
    "axial": ((0, -1, 0), (-1, 0, 0)),
    "coronal": ((0, 0, -1), (-1, 0, 0)),
    "sagittal": ((0, 0, -1), (0, -1, 0)),
}


class _Panel(NamedTuple):
    """A plane of the world, as a volume of one slice."""

    grid: WorldGrid
    axes: Tensor  # (2, 3), down and to the right
    pixel_mm: float


def registration_picture(fixed: MetaTensor, moving: MetaTensor, transform: Map, body: Tensor) -> Image.Image:
    """Draw three planes through the middle of the body, one a row.

    Checkerboards show both scans in turn: where edges go on from square to square, they fit. The grid shows where the
    transform takes the fixed scan: its lines are straight, evenly spaced and level in the moving scan.

    Args:
        fixed: (C, X, Y, Z) in its grid.
        moving: alike, in its own grid.
        transform: from points (N, 3) of the fixed scan to the moving one's, RAS mm.
        body: bool (X, Y, Z), of the fixed scan.

    Example:
        >>> registration_picture(fixed, moving, transform, body).save("picture.png")  # doctest: +SKIP
    """
    import torch
    from PIL import Image, ImageDraw

    from monai_ext.registration import WorldGrid

    grid = WorldGrid.of(fixed)
    middle = grid.to_world(body.nonzero().double().mean(dim=0))
    corners = grid.to_world(torch.cartesian_prod(*(torch.tensor([-0.5, n - 0.5]) for n in grid.shape)))
    panels = [_panel(corners, middle, torch.tensor(plane, dtype=torch.float64)) for plane in _PLANES.values()]
    columns = [max(panel.grid.shape[1] for panel in panels)] * len(_TITLES)
    height = _BAR + sum(panel.grid.shape[0] + _GAP for panel in panels)
    sheet = Image.new("RGB", (sum(columns) + _GAP * (len(_TITLES) + 1), height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    windows = _window(fixed), _window(moving)
    top = _BAR
    for panel in panels:
        for column, pixels in enumerate(_row(panel, fixed, moving, transform, windows)):
            sheet.paste(Image.fromarray(pixels), (_GAP + column * (columns[0] + _GAP), top))
        top += panel.grid.shape[0] + _GAP
    for column, title in enumerate(_TITLES):
        pen.text((_GAP + column * (columns[0] + _GAP), 2), title, _INK)
    return sheet


def picture_bytes(picture: Image.Image, limit: int = PICTURE_BYTES) -> bytes:
    """Return a picture as PNG of less than ``limit`` bytes, smaller in pixels if it must be.

    Example:
        >>> from PIL import Image
        >>> picture_bytes(Image.new("RGB", (4, 4)))[:4]
        b'\\x89PNG'
    """
    from PIL import Image

    while True:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        if buffer.tell() < limit or min(picture.size) == 1:
            return buffer.getvalue()
        half = max(1, picture.width // 2), max(1, picture.height // 2)
        picture = picture.resize(half, Image.Resampling.LANCZOS)


def _panel(corners: Tensor, middle: Tensor, axes: Tensor) -> _Panel:
    """Return a plane through the middle that shows the whole box of the corners (8, 3)."""
    import torch

    from monai_ext.registration import WorldGrid

    spans = corners.max(dim=0).values - corners.min(dim=0).values
    pixel_mm = float(spans.max()) / _SIDE
    along = corners @ axes.T  # (8, 2)
    sides = [max(1, round(float(x) / pixel_mm)) for x in along.max(dim=0).values - along.min(dim=0).values]
    normal = torch.linalg.cross(axes[0], axes[1])
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.stack([*axes, normal], dim=1) * pixel_mm
    affine[:3, 3] = (along.min(dim=0).values + pixel_mm / 2) @ axes + (middle @ normal) * normal
    return _Panel(WorldGrid((*sides, 1), affine), axes, pixel_mm)


def _row(
    panel: _Panel, fixed: MetaTensor, moving: MetaTensor, transform: Map, windows: tuple[tuple[float, float], ...]
) -> list[np.ndarray]:
    """Return the panels of one plane, grey (rows, columns) or coloured (rows, columns, 3)."""
    import numpy as np

    here = to_bytes(_cut(panel, fixed, lambda x: x), windows[0])
    before = to_bytes(_cut(panel, moving, lambda x: x), windows[1])
    after = to_bytes(_cut(panel, moving, transform), windows[1])
    rows, columns = np.indices(here.shape) // _SQUARE
    odd = (rows + columns) % 2 == 1
    coloured = np.repeat((here // 2)[..., None], 3, axis=2)
    coloured[_mesh(panel, transform)] = _LINE
    return [here, before, np.where(odd, before, here), after, np.where(odd, after, here), coloured]


def _cut(panel: _Panel, scan: MetaTensor, transform: Map) -> np.ndarray:
    from monai_ext.registration import WorldGrid, resample

    values = resample(scan[:1], WorldGrid.of(scan), transform, panel.grid, "linear", float(scan.min()))
    return values[0, :, :, 0].numpy()


def _mesh(panel: _Panel, transform: Map) -> np.ndarray:
    """Say where (rows, columns) a line of the moving scan's even grid is crossed."""
    import torch

    rows, columns, _ = panel.grid.shape
    places = (transform(panel.grid.points()).cpu() @ panel.axes.T).reshape(rows, columns, 2)
    squares = (places / (_MESH * panel.pixel_mm)).floor()
    lines = torch.zeros(rows, columns, dtype=torch.bool)
    lines[1:] |= (squares[1:] != squares[:-1]).any(dim=-1)
    lines[:, 1:] |= (squares[:, 1:] != squares[:, :-1]).any(dim=-1)
    return lines.numpy()


def _window(scan: MetaTensor) -> tuple[float, float]:
    import numpy as np

    voxels = scan[0].cpu().numpy().ravel()
    low, high = np.percentile(voxels[:: 1 + voxels.size // 1_000_000], (0.5, 99.5)).tolist()
    return low, max(high, low + 1e-6)

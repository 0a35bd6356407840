# SPDX-License-Identifier: Apache-2.0
"""From slices to pictures: grey values, coloured overlays, error maps, PNG in a data address."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from monai_ext.errors import InputError
from monai_ext.report.palette import ERROR_COLOURS, class_colour

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Colour = tuple[int, int, int]


def read_window(text: str) -> tuple[float, float]:
    """Return the two intensities of a text such as ``-160,240``.

    Raises:
        InputError: it is none.
    """
    try:
        low, high = (float(part) for part in text.strip("()[] ").split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"window must be two numbers, the lower first, as in -160,240; got {text!r}.")
    return low, high


def to_bytes(frame: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return a slice as uint8, ``window`` being black and white; values that are not numbers are black."""
    import numpy as np

    low, high = window
    scaled = (np.nan_to_num(frame.astype(np.float32), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return 1 where an object was missed, 2 where there is none, 3 where the class is wrong, else 0.

    Example:
        >>> import numpy as np
        >>> error_map(np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1])).tolist()
        [0, 1, 2, 3]
    """
    import numpy as np

    wrong = truth != prediction
    kinds = np.where(prediction == 0, 1, np.where(truth == 0, 2, 3))
    return np.where(wrong, kinds, 0).astype(np.uint8)


def display_size(shape: Sequence[int], size_mm: tuple[float, float], limit: int) -> tuple[int, int]:
    """Return (width, height) in pixels: square in mm, the finer axis kept, no side above ``limit``."""
    width, height = size_mm
    finest = min(width / shape[1], height / shape[0])
    scale = min(1 / finest, limit / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize(frame: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """Return the uint8 frame in ``size`` (width, height); label maps must not be smoothed."""
    import numpy as np
    from PIL import Image

    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, method))


def class_palette() -> list[Colour]:
    """Return the colour of every label value, 0 first (never painted)."""
    return [(0, 0, 0), *(class_colour(index) for index in range(1, 256))]


def error_palette() -> list[Colour]:
    """Return the colour of every value of `error_map`."""
    return [(0, 0, 0), *ERROR_COLOURS]


def blend(grey: np.ndarray, labels: np.ndarray | None, palette: Sequence[Colour], opacity: float = 0.55) -> np.ndarray:
    """Return an RGB picture (rows, columns, 3) of ``grey`` (or RGB) with the labels painted over it."""
    import numpy as np

    base = np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey
    if labels is None:
        return base
    colours = np.asarray(palette, dtype=np.float32)[np.minimum(labels, len(palette) - 1)]
    mixed = base * (1 - opacity) + colours * opacity
    return np.where((labels > 0)[..., None], mixed, base).round().astype(np.uint8)


def png_address(pixels: np.ndarray) -> str:
    """Return uint8 pixels, grey or RGB, as a PNG in a data address."""
    from PIL import Image

    return _address(Image.fromarray(pixels), "PNG")


def palette_address(labels: np.ndarray, palette: Sequence[Colour]) -> str:
    """Return a label map as a PNG with a palette, background clear; the browser lays it over the image."""
    from PIL import Image

    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([part for colour in palette for part in colour])
    return _address(picture, "PNG", transparency=0)


def photo_address(pixels: np.ndarray, quality: int = 82) -> str:
    """Return many slices in one lossy picture: a quarter of the size of a PNG, and nobody measures in it."""
    from PIL import Image, features

    picture = Image.fromarray(pixels)
    if features.check("webp"):
        return _address(picture, "WEBP", quality=quality, method=4)
    return _address(picture, "JPEG", quality=quality)


def _address(picture: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

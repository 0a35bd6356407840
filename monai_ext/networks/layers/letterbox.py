# SPDX-License-Identifier: Apache-2.0
"""Any picture inside Segment Anything's square, and the way back for masks, boxes and points."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Letterbox(NamedTuple):
    """How a picture lies in a square of ``side`` x ``side`` pixels: its longer side fills it, the rest is padding.

    The picture is scaled to ``inner_height`` x ``inner_width`` and lies in the upper left corner, as in Segment
    Anything's ``ResizeLongestSide``. All numbers may be symbolic, so that a traced or exported network takes
    pictures of any size.

    Attributes:
        height: rows of the picture.
        width: columns of the picture.
        inner_height: rows it takes inside the square.
        inner_width: columns it takes inside the square.
        side: of the square.

    Example:
        >>> frame = Letterbox.of(torch.zeros(1, 3, 30, 60), side=32)
        >>> frame.inner_height, frame.inner_width
        (16, 32)
    """

    height: int
    width: int
    inner_height: int
    inner_width: int
    side: int

    @classmethod
    def of(cls, image: Tensor, side: int) -> Letterbox:
        """Fit the last two axes of ``image`` (..., H, W) into a square."""
        height, width = image.shape[-2], image.shape[-1]
        longest = _longest(height, width)
        # whole numbers only: floor(x * side / longest + 1/2), without the rounding errors of a float
        inner = [(2 * size * side + longest) // (2 * longest) for size in (height, width)]
        return cls(height, width, _at_least_one(inner[0]), _at_least_one(inner[1]), side)

    def fit(self, image: Tensor) -> Tensor:
        """Scale a picture (B, C, H, W) bilinearly to its place; padding is for `pad`."""
        return F.interpolate(image, size=(self.inner_height, self.inner_width), mode="bilinear", align_corners=False)

    def pad(self, pixels: Tensor) -> Tensor:
        """Fill up to the square with zeros, on the right and below."""
        return F.pad(pixels, (0, self.side - self.inner_width, 0, self.side - self.inner_height))

    def enlarge(self, masks: Tensor) -> Tensor:
        """Bring low-resolution masks of the square (B, K, h, h) to its pixels and cut the padding off."""
        masks = F.interpolate(masks, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return masks[..., : self.inner_height, : self.inner_width]

    def restore(self, masks: Tensor) -> Tensor:
        """Bring low-resolution masks of the square (B, K, h, h) to the picture (B, K, H, W), in SAM's two steps."""
        return F.interpolate(self.enlarge(masks), size=(self.height, self.width), mode="bilinear", align_corners=False)

    def restore_at_once(self, masks: Tensor) -> Tensor:
        """Bring low-resolution masks of the square to the picture in one step: one of their own size stays as it is.

        That needs a picture that ends between two cells of the masks; others go the way of `restore`.
        """
        cells = self.side // masks.shape[-1]
        if self.inner_height % cells or self.inner_width % cells:
            return self.restore(masks)
        masks = masks[..., : self.inner_height // cells, : self.inner_width // cells]
        return F.interpolate(masks, size=(self.height, self.width), mode="bilinear", align_corners=False)

    def crop(self, masks: Tensor) -> Tensor:
        """Cut low-resolution masks of the square (B, K, h, h) to the cells that show any of the picture."""
        cells = self.side // masks.shape[-1]
        rows, columns = -(-self.inner_height // cells), -(-self.inner_width // cells)
        return masks[..., :rows, :columns]

    def boxes_into(self, boxes: Tensor) -> Tensor:
        """Take boxes (..., 4), xmin, ymin, xmax, ymax as inclusive pixel indices of the picture, into the square.

        What is scaled are the outer edges of the pixels, so the box of a mask becomes the box of the scaled mask.
        (Segment Anything scales the indices, which cuts a scaled-up box short by nearly a pixel of the picture.)
        """
        ends = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        return (boxes + ends) * self._scales(boxes) - ends

    def boxes_back(self, boxes: Tensor) -> Tensor:
        """Take boxes of the square back to pixels of the picture; the inverse of `boxes_into`."""
        ends = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        return (boxes + ends) / self._scales(boxes) - ends

    def points_into(self, points: Tensor) -> Tensor:
        """Take points (..., 2), x and y as pixel indices of the picture, into the square: centre to centre."""
        return (points + 0.5) * self._scales(points) - 0.5

    def points_back(self, points: Tensor) -> Tensor:
        """Take points of the square back to pixels of the picture; the inverse of `points_into`."""
        return (points + 0.5) / self._scales(points) - 0.5

    def _scales(self, places: Tensor) -> Tensor:
        across, down = self.inner_width / self.width, self.inner_height / self.height
        return places.new_tensor([across, down]).repeat(places.shape[-1] // 2)


def _longest(height: int, width: int) -> Any:
    if isinstance(height, Tensor):  # the sizes of a traced image are tensors
        return torch.maximum(height, torch.as_tensor(width))
    return torch.sym_max(height, width)


def _at_least_one(size: Any) -> Any:
    return size.clamp(min=1) if isinstance(size, Tensor) else torch.sym_max(size, 1)

# SPDX-License-Identifier: Apache-2.0
"""DeSAM with drawings added to what it decodes: all of the network's cost, and masks of which the outcome is known."""

from __future__ import annotations

from typing import Any

import torch
from desam.network import DeSAM
from torch import Tensor

from monai_ext.networks.layers.mask_selection import Decode, Selection

INK = 20.0  # logits; random weights make up to 3


class DrawnDeSAM(DeSAM):
    """Ours, with a drawing of our choice on the mask of each prompt.

    Random weights make noise, of which every mask covers the image and needs the clean-up. What a trained network makes
    does not, or not always; drawings stand for it.

    Args:
        arguments: of `DeSAM`; ``num_classes`` stays 1.

    Attributes:
        drawings: logits (P, h, h) to add to the masks of the grid's prompts, or (1, h, h) for mode ``box``.
        selections: what `segment` selected, before it is brought to the size of the image.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.drawings: Tensor | None = None
        self.selections: list[Selection] = []

    def _grid_points(self, embedded: Any) -> Tensor:
        points = super()._grid_points(embedded)
        self._known = self._tokens(points)
        return points

    def _decode(self, image: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        masks, ious = super()._decode(image, prompts)
        if self.drawings is not None:
            masks = masks + self.drawings[[self._number(prompt) for prompt in prompts], None]
        return masks, ious

    def _select(self, ious: Tensor, decode: Decode, iou_thresh: float) -> Selection:
        self.selections.append(super()._select(ious, decode, iou_thresh))
        return self.selections[-1]

    def _number(self, prompt: Tensor) -> int:
        """Find out which of the grid's prompts it is."""
        return 0 if self.mode == "box" else int((self._known == prompt).flatten(1).all(dim=1).nonzero()[0])


def build_drawn_desam(sam_type: str, image_size: int, **arguments: Any) -> DrawnDeSAM:
    """Build the network with random weights and the published selection, whose region of 1000 pixels is scaled."""
    torch.manual_seed(0)
    small = 1000 * image_size**2 // 1024**2
    settings: dict[str, Any] = {"in_channels": 1, "selection": "official", "min_region": small, **arguments}
    network = DrawnDeSAM(sam_type=sam_type, image_size=image_size, **settings).eval()
    with torch.no_grad():
        for weight in network.mask_decoder.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return network


def believe_half(network: DeSAM, ious: Tensor) -> None:
    """Move the head's bias so that half of these IoUs (P,) come to lie above the threshold, none of them near it."""
    ordered = ious.sort().values
    middle = len(ious) // 2
    gaps = ordered.diff()[middle - 3 : middle + 3]
    place = middle - 3 + int(gaps.argmax())
    with torch.no_grad():
        bias = network.mask_decoder.iou_prediction_head.layers[-1].bias
        bias[0] += network.iou_thresh - (ordered[place] + ordered[place + 1]) / 2


def discs(grid: int, side: int, faulty: Tensor) -> Tensor:
    """Draw a disc around each point of a grid; faulty ones (P,) get a small hole and a small island.

    The boxes around them overlap too little to be duplicates.

    Returns:
        logits (P, side, side)
    """
    radius = 0.77 * side / grid  # 22 pixels of 256 for the published grid
    small, gap = max(radius / 11, 0.71), max(radius / 4, 2.0)  # at least a pixel each
    places = (torch.arange(grid) + 0.5) / grid * side
    centres = torch.stack([places.repeat(grid), places.repeat_interleave(grid)], dim=-1)  # (P, 2) x, y
    inwards = torch.nn.functional.normalize(side / 2 - centres + 0.1, dim=-1)
    islands = centres + (radius + gap + small) * inwards
    inside = _within(centres, radius, side)
    spoiled = (inside & ~_within(centres, small, side)) | _within(islands, small, side)
    return torch.where(torch.where(faulty[:, None, None], spoiled, inside), INK, -INK)


def _within(centres: Tensor, radius: float, side: int) -> Tensor:
    pixels = torch.arange(side) + 0.5
    across, down = (pixels - centres[:, axis : axis + 1] for axis in (0, 1))  # (P, side)
    return down[:, :, None].square() + across[:, None].square() < radius**2

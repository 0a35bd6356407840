# SPDX-License-Identifier: Apache-2.0
"""What goes into DeSAM and comes out of it beside tensors: embeddings, a user's prompts, all there is to know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from monai_ext.networks.layers.letterbox import Letterbox


class Embedded(NamedTuple):
    """What the encoder made of a batch, and how the images lie in its square.

    Attributes:
        features: (B, 256 + 3 D, g, g), the maps of `DeSAM.embedding_shapes` one behind the other.
        frame: of the images.
    """

    features: Tensor
    frame: Letterbox


class Decoupled(NamedTuple):
    """Everything that DeSAM can tell about a batch.

    Attributes:
        logits: (B, num_classes, H, W), the result.
        ious: (B, n), the IoU predicted for each of the n objects with the prompt that was used, NaN in mode ``box``,
            which predicts none; not limited to 0..1.
        boxes: (B, 4), a user's boxes in pixels of the image, NaN where none was given.
        prompts: per image ``grid`` (a point of the grid), ``none`` (no point of the grid was believed, the masks are
            empty), ``whole`` (the box around the whole image), ``box`` or ``points`` (given).
        places: per image the points of the grid whose masks were taken, each once, (x, y) in pixels of the image.
    """

    logits: Tensor
    ious: Tensor
    boxes: Tensor
    prompts: list[str]
    places: list[list[tuple[float, float]]]


class Answer(NamedTuple):
    """One image segmented: masks (1, n, h, h), their IoUs (1, n), and the rest as in `Decoupled`."""

    masks: Tensor
    ious: Tensor
    prompt: str
    places: list[tuple[float, float]]


class Given(NamedTuple):
    """A user's prompt of one image: points (1, N, 2) with labels (1, N), a box (1, 4)."""

    points: Tensor | None
    labels: Tensor | None
    box: Tensor | None


def each_of(
    embedded: Embedded, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None
) -> Iterator[tuple[Embedded, Given]]:
    """Take a batch apart; a box of NaN is none."""
    for row in range(embedded.features.shape[0]):
        own = [None if x is None else x[row : row + 1].to(embedded.features.device) for x in (points, labels, boxes)]
        if own[2] is not None and not bool(own[2].isfinite().all()):
            own[2] = None
        yield Embedded(embedded.features[row : row + 1], embedded.frame), Given(*own)

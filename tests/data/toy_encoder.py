# SPDX-License-Identifier: Apache-2.0
"""A tiny network with DeSAM's interface, and scans for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.inferers.prompted_toy import Found


class Embedded(NamedTuple):
    features: Tensor
    frame: tuple[int, int]


class ToyEncoder(nn.Module):
    """Encodes slices to a small grid; a mask is a projection of all its maps.

    Args:
        in_channels: of a slice with its neighbours.
        frozen: what it says of its encoder.
        offset: a setting that changes embeddings but is no weight.
        batch_effect: added to the features, times the size of the batch: the toy's exaggerated rounding error.
        pause: seconds that a batch takes.
        side: of the grid.

    Attributes:
        encoded: batch sizes of its encoder passes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        frozen: bool = True,
        offset: float = 0.0,
        batch_effect: float = 0.0,
        pause: float = 0.0,
        side: int = 4,
    ) -> None:
        super().__init__()
        self.frozen, self.offset, self.batch_effect = frozen, offset, batch_effect
        self.pause, self.side = pause, side
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, 6, 3, padding=1), nn.Dropout(0.5))
        self.deeper = nn.Conv2d(6, 3, 1)
        self.decoder = nn.Conv2d(9, 1, 1)
        self.encoded: list[int] = []

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, int, int]]:
        return {"neck": (6, self.side, self.side), "block_02": (3, self.side, self.side)}

    @property
    def encoder_settings(self) -> dict[str, object]:
        return {"offset": self.offset}

    @property
    def encoder_is_frozen(self) -> bool:
        return self.frozen

    def encoder_state(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.state_dict().items() if not name.startswith("decoder.")}

    def embed(self, image: Tensor) -> Embedded:
        time.sleep(self.pause)
        self.encoded.append(len(image))
        # one by one, since a convolution may round differently in another batch
        features = torch.cat([self._encode(picture[None]) for picture in image])
        return Embedded(features + self.batch_effect * len(image), (image.shape[-2], image.shape[-1]))

    def _encode(self, image: Tensor) -> Tensor:
        neck = self.encoder(F.adaptive_avg_pool2d(image, self.side)) + self.offset
        return torch.cat([neck, self.deeper(neck)], dim=1)

    def embedded(self, features: Tensor, image: Tensor) -> Embedded:
        return Embedded(features.float(), (image.shape[-2], image.shape[-1]))

    def segment(
        self,
        image: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        first_only: bool = False,
        embedded: Embedded | None = None,
    ) -> Found:
        seen = self.embed(image) if embedded is None else embedded
        logits = F.interpolate(self.decoder(seen.features.float()), size=seen.frame, mode="bilinear")
        name = "self" if points is None and boxes is None else "points"
        return Found(logits, logits, torch.full((len(logits), 4), torch.nan), [name] * len(logits))

    def load_pretrained(self, path: str | Path) -> ToyEncoder:
        self.load_state_dict(torch.load(path, weights_only=True))
        return self


def write_scan(folder: Path, name: str, slices: int = 5, seed: int = 0) -> dict[str, str]:
    """Write a volume of 6 x 7 voxels a slice, the first of which shows no object, and return its item."""
    generator = np.random.default_rng(seed)
    label = generator.integers(1, 3, (6, 7, slices)).astype(np.uint8)
    label[..., 0] = 0
    paths = {key: str(folder / key / f"{name}.nii.gz") for key in ("images", "labels")}
    for path, voxels in zip(paths.values(), (generator.random((6, 7, slices), np.float32), label), strict=True):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return {"image": paths["images"], "label": paths["labels"], "case": name}

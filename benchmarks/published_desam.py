# SPDX-License-Identifier: Apache-2.0
"""DeSAM as published, from an image's features to its mask, over the weights of ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from segment_anything.utils.amg import build_point_grid
from torch import Tensor

from benchmarks.drawn_desam import DrawnDeSAM
from benchmarks.published_pimm import PublishedPIMM
from benchmarks.published_selection import PublishedRecord, first_record, through_image

BATCH = 9


class PublishedDeSAM:
    """Grid-points or whole-box mode of the published code, written from a description of it.

    The prompts of the grid, 81 of them, are decoded in batches of 9; in mode ``box`` the same one as often. Each prompt
    has its copy of all features, the context blocks run on every copy, and the first record of the automatic mask
    generator is the result. Left out is what costs time and changes nothing: stability scores, and masks as run lengths
    and back.

    Args:
        network: ours, for one object; its weights and its drawings are shared.
    """

    def __init__(self, network: DrawnDeSAM) -> None:
        self.network = network
        self.prompt_encoder = network.prompt_encoder
        with torch.device("meta"):
            self.decoder = _Decoder(width=network.embedding_shapes[f"block_{network.context_blocks[0]:02d}"][0])
        self.decoder.load_state_dict(network.mask_decoder.state_dict(keep_vars=True), assign=True)

    def generate(self, features: Tensor) -> PublishedRecord:
        """Segment the image with features (1, 256 + 3 D, g, g); its mask has a quarter of the square's side."""
        maps, ious, masks = self.repeated(features, BATCH), [], []
        for start in range(0, self.network.grid**2, BATCH):
            logits, predicted = self.decode(maps, start)
            masks.append(through_image(logits, self.network.image_size)[:, 0])
            ious.append(torch.ones(BATCH) if self.network.mode == "box" else predicted[:, 0])
        return first_record(
            torch.cat(ious),
            torch.cat(masks),
            iou_thresh=self.network.iou_thresh,
            nms_thresh=self.network.nms_thresh,
            min_region=self.network.min_region,
        )

    def repeated(self, features: Tensor, times: int) -> list[Tensor]:
        """Take features apart, neck first, and copy them for each prompt, as the published predictor does."""
        parts = features.split([shape[0] for shape in self.network.embedding_shapes.values()], dim=1)
        return [part.repeat(times, 1, 1, 1) for part in parts]

    def decode(self, maps: Sequence[Tensor], start: int = 0) -> tuple[Tensor, Tensor]:
        """Decode as many prompts as there are copies of the image, from number ``start`` on."""
        count = len(maps[0])
        sparse, dense = self._prompts(start, count)
        masks, ious = self.decoder(maps, self.prompt_encoder.get_dense_pe(), sparse, dense)
        drawings = self.network.drawings
        if drawings is not None:
            masks = masks + (drawings if len(drawings) == 1 else drawings[start : start + count])[:, None]
        return masks, ious

    def _prompts(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        side = float(self.network.image_size)
        if self.network.mode == "box":
            return self.prompt_encoder(points=None, boxes=torch.tensor([[0.0, 0.0, side, side]] * count), masks=None)
        grid = build_point_grid(self.network.grid)[start : start + count]
        points = torch.from_numpy((grid * side).astype(np.float32))[:, None]
        return self.prompt_encoder(points=(points, torch.ones(count, 1)), boxes=None, masks=None)


class _Decoder(MaskDecoder):
    """The package's decoder, whose mask head is there and never runs, with the mask module in its place."""

    def __init__(self, width: int) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        super().__init__(transformer_dim=256, transformer=transformer)
        self.pimm = PublishedPIMM(width)

    def forward(self, maps: Sequence[Tensor], image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        neck, *levels = maps
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
        positions = torch.repeat_interleave(image_pe, len(tokens), dim=0)
        tokens, pixels = self.transformer(neck + dense, positions, tokens)
        embedding = pixels.transpose(1, 2).reshape(neck.shape)
        return self.pimm(embedding, levels), self.iou_prediction_head(tokens[:, 0])[:, :1]

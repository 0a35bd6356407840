# SPDX-License-Identifier: Apache-2.0
"""DeSAM: masks of Segment Anything's features that a bad prompt cannot spoil."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from desam.batch import Answer, Decoupled, Embedded, Given, each_of
from monai_ext.networks.blocks.pimm import PIMM
from monai_ext.networks.blocks.prim import PRIM, PromptFreeSide
from monai_ext.networks.blocks.se_res_block import BlockShare
from monai_ext.networks.checkpoints import load_desam
from monai_ext.networks.layers.check_prompts import check_prompts
from monai_ext.networks.layers.letterbox import Letterbox
from monai_ext.networks.layers.mask_selection import EMPTY_LOGIT, SELECTIONS, Selection, select
from monai_ext.networks.layers.pixels import build_stem, check_channels, inside, pixel_statistics, three_channels
from monai_ext.networks.layers.recording import is_recorded
from monai_ext.networks.nets.sam import (
    EMBEDDING,
    PATCH,
    PUBLISHED_TOKENS,
    build_mask_decoder,
    build_prompt_encoder,
    build_sam_encoder,
    preset_of,
)

MODES = ("points", "box")
TUNINGS = ("frozen", "full")


class _Image(NamedTuple):
    """What is computed once for each image, whatever the prompts."""

    side: PromptFreeSide
    contexts: tuple[BlockShare, ...]


class DeSAM(nn.Module):
    """Segmentation network of DeSAM (Gao et al. 2023, https://arxiv.org/abs/2306.00499).

    ::

                                        ┌ neck ─────> PRIM ─┬─> IoU of the prompt's mask
        image ─ E, frozen: may be       │    prompt ───┘    │
                computed beforehand ────┤            mask embedding
                                        └ three levels ─> PIMM ───> mask, the whole object whatever the prompt

    Normalisation, padding to the encoder's square and the way back to the image's size happen inside. The parts carry
    Segment Anything's names; what is DeSAM's own is in ``mask_decoder.pimm``.

    Called on an image in ``eval()``, the network prompts itself: in mode ``points`` with a grid of points, of which
    the one with the highest predicted IoU gives the mask (none, if that is not above ``iou_thresh``), in mode ``box``
    with the box around the whole image. `segment` knows the other rules of selection and takes prompts of a user.

    Args:
        in_channels: channels of the image. 1 is repeated to 3, 3 is taken as it is, any other number goes through
            a trainable 1x1 convolution that starts as the mean of the channels.
        num_classes: channels of the output. 1 is one object against background (published). n > 1, our extension, are
            n - 1 objects, each with a mask and an IoU of its own, and background where no mask is above a half.
        sam_type: ``vit_b``, ``vit_l``, ``vit_h``, or ``vit_tiny`` (ours, without published weights).
        image_size: side of the encoder's square, a multiple of 16; Segment Anything's own is 1024.
        pixel_mean: mean of the three channels that the encoder sees, in the unit of the image's values.
        pixel_std: their standard deviation.
        mode: ``points`` (grid-points mode, DeSAM-P) or ``box`` (whole-box mode, DeSAM-B).
        tuning: ``frozen`` (published: the encoder stays as it is) or ``full`` (it is trained, too, for want of
            pretrained weights).
        grid: points of the grid along each side of the image.
        iou_thresh: predicted IoU that a point of the grid must exceed to be believed.
        selection: rule by which `segment` makes one mask of the grid: ``top1``, ``official`` or ``vote``, see
            `monai_ext.networks.layers.mask_selection`.
        nms_thresh: with ``official``, overlap of boxes above which the lesser mask is dropped.
        min_region: holes and islands of fewer pixels (of the mask, whose side is a quarter of ``image_size``) are
            filled and dropped by `segment`; 0 leaves masks as they are, the published value is 1000.
        vote_prompts: how many of the best points vote.
        prompt_batch: points that go through the transformer together; a matter of memory alone.
        use_checkpoint: with ``tuning="full"``, trade time for memory in training.
        dropout: probability, in training, that the decoder gets a whole channel of the neck's map as zeros.

    Shape:
        image (B, in_channels, H, W), values as the preprocessing gives them, usually 0 to 1.
        In ``eval()``: logits (B, num_classes, H, W). In ``train()``: a list of masks (B, n, h, h), the logits of the
        n objects on the whole square at a quarter of its side, and, in mode ``points``, IoUs (B, n) and the points.

    Raises:
        ValueError: an argument that is none of the above, or an image with another number of channels.

    Example:
        >>> network = DeSAM(in_channels=1, sam_type="vit_tiny", image_size=64, grid=3).eval()
        >>> network(torch.rand(2, 1, 50, 70)).shape
        torch.Size([2, 1, 50, 70])
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    exports_any_size = True  # sizes inside are computed from the image's, symbolically

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        sam_type: str = "vit_b",
        image_size: int = 1024,
        pixel_mean: Sequence[float] = (0.485, 0.456, 0.406),
        pixel_std: Sequence[float] = (0.229, 0.224, 0.225),
        mode: str = "points",
        tuning: str = "frozen",
        grid: int = 9,
        iou_thresh: float = 0.5,
        selection: str = "top1",
        nms_thresh: float = 0.7,
        min_region: int = 0,
        vote_prompts: int = 9,
        prompt_batch: int = 9,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_choices(mode=(mode, MODES), tuning=(tuning, TUNINGS), selection=(selection, SELECTIONS))
        _check_at_least(1, num_classes=num_classes, grid=grid, vote_prompts=vote_prompts, prompt_batch=prompt_batch)
        _check_at_least(0, min_region=min_region, nms_thresh=nms_thresh)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.sam_type = sam_type
        self.image_size = image_size
        self.mode = mode
        self.tuning = tuning
        self.grid = grid
        self.iou_thresh = iou_thresh
        self.selection = selection
        self.nms_thresh = nms_thresh
        self.min_region = min_region
        self.vote_prompts = vote_prompts
        self.prompt_batch = prompt_batch
        # not in the state dict, as in Segment Anything: they are knobs, not weights
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.stem = build_stem(in_channels)

        objects = max(num_classes - 1, 1)
        preset = preset_of(sam_type)
        self.context_blocks = preset.context_blocks
        self.image_encoder = build_sam_encoder(sam_type, image_size, use_checkpoint)
        self.dropout = nn.Dropout2d(dropout)
        self.prompt_encoder = build_prompt_encoder(image_size).requires_grad_(False)
        decoder = build_mask_decoder(max(objects, PUBLISHED_TOKENS))
        self.mask_decoder = PRIM(decoder, objects if mode == "points" else 0, PIMM(preset.embed_dim, objects))
        if tuning == "frozen":
            self.image_encoder.requires_grad_(False)

    def forward(
        self, image: Tensor, points: Tensor | None = None, inner: Tensor | None = None, embedded: bool = False
    ) -> Tensor | list[Tensor]:
        """Segment images; in training give what the loss wants.

        Args:
            image: (B, in_channels, H, W); in training, with ``embedded``, the features of `Embedded` instead.
            points: (B, 2) x, y in pixels of the masks that training returns; None prompts the middle of the square.
            inner: (B, 2) rows and columns of each square image of a training batch that are no padding.
            embedded: whether the encoder has seen the images already.
        """
        if not self.training:
            seen = self.embed(image)
            masks = self._whole(seen.features)[0] if self.mode == "box" else self._best_of_grid(seen)
            return self._classes(seen.frame.restore(masks))
        features = image.float() if embedded else self.embed(image, inner).features
        if self.mode == "box":
            return [self._whole(features)[0]]
        if points is None:
            points = features.new_full((features.shape[0], 2), self.image_size / 8)
        place = 4.0 * points.to(features)[:, None]  # masks have a quarter of the square's side
        masks, ious = self._decode(self._image(features), self._tokens(place))
        return [masks, ious, points]

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Name and shape of each map that the encoder makes of an image: what a store of embeddings has to hold.

        ``neck`` is what every Segment Anything decoder reads; the others are the tokens after three blocks, shallow
        to deep.
        """
        side = self.image_size // PATCH
        width = preset_of(self.sam_type).embed_dim
        return {"neck": (EMBEDDING, side, side)} | {f"block_{i:02d}": (width, side, side) for i in self.context_blocks}

    @property
    def encoder_settings(self) -> dict[str, object]:
        """What embeddings depend on besides the weights of `encoder_state`."""
        pixels = {"pixel_mean": self.pixel_mean.flatten().tolist(), "pixel_std": self.pixel_std.flatten().tolist()}
        names = {"sam_type": self.sam_type, "image_size": self.image_size, "in_channels": self.in_channels}
        return {**names, **pixels, "blocks": list(self.context_blocks)}

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether training leaves embeddings as they are, so that they can be computed beforehand."""
        return self.tuning == "frozen" and self.stem is None

    def encoder_state(self) -> dict[str, Tensor]:
        """Return the weights that embeddings depend on."""
        return {n: w for n, w in self.state_dict().items() if n.startswith(("image_encoder.", "stem."))}

    def embed(self, image: Tensor, inner: Tensor | None = None) -> Embedded:
        """Run the encoder: (B, in_channels, H, W) -> its maps, and the images' frame.

        Args:
            image: of one size; the longer side is brought to ``image_size``.
            inner: (B, 2) rows and columns of each image that are no padding, of images of the square's size.
        """
        check_channels(image, self.in_channels)
        frame = Letterbox.of(image, self.image_size)
        pixels = (three_channels(frame.fit(image), self.stem) - self.pixel_mean) / self.pixel_std
        if inner is not None:
            pixels = pixels * inside(inner, pixels)
        # padding comes after the normalisation, as in Segment Anything: it is the mean pixel
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_is_frozen):
            neck, levels = self.image_encoder.levels(frame.pad(pixels), self.context_blocks)
        return Embedded(torch.cat([neck, *(level.permute(0, 3, 1, 2) for level in levels)], dim=1), frame)

    def embedded(self, features: Tensor, image: Tensor) -> Embedded:
        """Give features (B, 256 + 3 D, g, g) that `embed` made earlier their place in the image, whose size counts."""
        return Embedded(features.float(), Letterbox.of(image, self.image_size))

    def segment(
        self,
        image: Tensor | None = None,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        first_only: bool = False,
        embedded: Embedded | None = None,
    ) -> Decoupled:
        """Segment with everything there is to know about it; prompts of a user take the place of the network's own.

        Args:
            image: (B, in_channels, H, W); not needed with ``embedded``.
            boxes: (B, 4) in pixels of the image, xmin, ymin, xmax, ymax, inclusive; a row of NaN is no box.
            points: (B, N, 2) x, y in pixels of the image, of every image of the batch.
            point_labels: (B, N), 1 for the object, 0 for background, -1 for a place that holds no point.
            first_only: a mask without a prompt; DeSAM has none.
            embedded: what `embed` or `embedded` returned, to decode again and again without the encoder.

        Raises:
            ValueError: neither an image nor its embedding, prompts of another shape, or ``first_only``.
        """
        if first_only:
            raise ValueError('DeSAM has no mask without a prompt: prompt_source must be "self" or "truth".')
        if embedded is None:
            if image is None:
                raise ValueError("segment needs an image, or its embedding as `embedded`.")
            embedded = self.embed(image)
        batch = embedded.features.shape[0]
        check_prompts(batch, boxes, points, point_labels)
        found = [self._segment_one(one, own) for one, own in each_of(embedded, boxes, points, point_labels)]
        masks, ious, names, places = zip(*found, strict=True)
        # the published selection has been to the image's pixels and back already, and ends at the masks' own size
        restore = embedded.frame.restore_at_once if self.selection == "official" else embedded.frame.restore
        logits = self._classes(restore(torch.cat(masks)))
        used = logits.new_full((batch, 4), math.nan) if boxes is None else boxes.to(logits)
        return Decoupled(logits, torch.cat(ious), used, list(names), list(places))

    def load_pretrained(self, path: str | Path | None) -> DeSAM:
        """Load Segment Anything's published weights, fitted to ``image_size``; see `load_desam`."""
        load_desam(self, path)
        return self

    def _segment_one(self, embedded: Embedded, given: Given) -> Answer:
        if given.points is None and given.box is None:
            return self._grid_masks(embedded) if self.mode == "points" else self._whole_masks(embedded.features)
        frame = embedded.frame
        box = None if given.box is None else frame.boxes_into(given.box.float())
        place = None if given.points is None else frame.points_into(given.points.float())
        masks, ious = self._decode(self._image(embedded.features), self._tokens(place, given.labels, box))
        return Answer(masks, _known(ious, masks), "box" if given.points is None else "points", [])

    def _grid_masks(self, embedded: Embedded) -> Answer:
        """Let one image prompt itself with the grid; only those masks are decoded that the selection asks for."""
        grid = self._grid_points(embedded)
        image, prompts = self._image(embedded.features), self._tokens(grid)
        ious = self._rank(image.side, prompts)[0]  # (P, n)
        decode = cache(lambda index: self._decode(image, prompts[index : index + 1])[0][0])
        objects = range(ious.shape[1])
        chosen = [self._select(ious[:, k], _channel(decode, k), self.iou_thresh) for k in objects]
        best = [ious[c.index, k] if c.index >= 0 else ious[:, k].max() for k, c in enumerate(chosen)]
        taken = sorted({c.index for c in chosen if c.index >= 0})
        places = [(float(x), float(y)) for x, y in embedded.frame.points_back(grid[taken, 0])]
        masks = torch.stack([c.logits for c in chosen])[None]
        return Answer(masks, torch.stack(best)[None], "grid" if taken else "none", places)

    def _whole_masks(self, features: Tensor) -> Answer:
        masks, ious = self._whole(features)
        certain = [self._select(ious.new_ones(1), _channel(lambda _: masks[0], k), 0.0) for k in range(masks.shape[1])]
        return Answer(torch.stack([c.logits for c in certain])[None], _known(ious, masks), "whole", [])

    def _select(self, ious: Tensor, decode: Callable[[int], Tensor], iou_thresh: float) -> Selection:
        return select(
            self.selection,
            ious,
            decode,
            size=(self.image_size // 4,) * 2,
            iou_thresh=iou_thresh,
            nms_thresh=self.nms_thresh,
            min_region=self.min_region,
            top=self.vote_prompts,
        )

    def _best_of_grid(self, embedded: Embedded) -> Tensor:
        """Decode the most promising point of each image and object: -> (B, n, h, h). All images take one way."""
        image, prompts = self._image(embedded.features), self._tokens(self._grid_points(embedded))
        ious, index = self._rank(image.side, prompts).max(dim=1)  # (B, P, n) -> (B, n)
        masks = [self._decode(image, prompts[index[:, k]])[0][:, k : k + 1] for k in range(index.shape[1])]
        believed = (ious > self.iou_thresh)[..., None, None]
        return torch.where(believed, torch.cat(masks, dim=1), EMPTY_LOGIT)

    def _whole(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Decode with the box around the whole square."""
        side = float(self.image_size)
        return self._decode(self._image(features), self._tokens(box=features.new_tensor([[0.0, 0.0, side, side]])))

    def _image(self, features: Tensor) -> _Image:
        """Compute what does not depend on prompts."""
        neck, *levels = features.split([shape[0] for shape in self.embedding_shapes.values()], dim=1)
        with _full_precision(features):
            position = self.prompt_encoder.get_dense_pe()
        dense = self.prompt_encoder.no_mask_embed.weight[:, :, None, None]  # (1, 256, 1, 1), no mask is given
        side = self.mask_decoder.image_side(self.dropout(neck), position, dense)
        return _Image(side, self.mask_decoder.pimm.contexts(levels))

    def _decode(self, image: _Image, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Decode prompts (B, N, 256) in images, as many or one: -> masks (B, n, h, h) and IoUs (B, n) or (B, 0)."""
        ious, embedding = self.mask_decoder.predict(image.side, prompts)
        return self.mask_decoder.pimm.decode(embedding, image.contexts).float(), ious.float()

    def _rank(self, side: PromptFreeSide, prompts: Tensor) -> Tensor:
        """Predict the IoUs of all prompts (P, N, 256) in all images: -> (B, P, n)."""
        parts = prompts.split(self.prompt_batch)
        if not is_recorded():
            rows = [side.row(index) for index in range(side.source.shape[0])]
            return torch.stack([torch.cat([self.mask_decoder.predict(row, p)[0] for p in parts]) for row in rows])
        # a recorded graph cannot loop over images, whose number it does not know
        ious = [
            self.mask_decoder.predict(side.repeated(len(p)), p.repeat(side.source.shape[0], 1, 1))[0] for p in parts
        ]
        return torch.cat([iou.reshape(-1, len(p), iou.shape[-1]) for iou, p in zip(ious, parts, strict=True)], dim=1)

    def _grid_points(self, embedded: Embedded) -> Tensor:
        """Places of the grid's points in the square, (P, 1, 2) x, y, row by row; the padding gets none."""
        steps = (torch.arange(self.grid, device=embedded.features.device) + 0.5) / self.grid
        across, down = steps * embedded.frame.inner_width, steps * embedded.frame.inner_height
        return torch.stack([across.repeat(self.grid), down.repeat_interleave(self.grid)], dim=-1)[:, None]

    def _tokens(self, place: Tensor | None = None, labels: Tensor | None = None, box: Tensor | None = None) -> Tensor:
        """Encode points (B, N, 2), of the object where no labels (B, N) say otherwise, and boxes (B, 4)."""
        if place is not None and labels is None:
            labels = torch.ones_like(place[..., 0])
        points = None if place is None else (place, labels)
        with _full_precision(self.pixel_mean):
            return self.prompt_encoder(points=points, boxes=box, masks=None)[0]

    def _classes(self, logits: Tensor) -> Tensor:
        """Give several objects (B, n, H, W) a background, which wins below a half."""
        return logits if self.num_classes == 1 else torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def _channel(decode: Callable[[int], Tensor], channel: int) -> Callable[[int], Tensor]:
    return lambda index: decode(index)[channel]


def _known(ious: Tensor, masks: Tensor) -> Tensor:
    """Return the IoUs, NaN for each object where none is predicted."""
    return ious if ious.shape[1] else ious.new_full(masks.shape[:2], torch.nan)


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)  # coordinates need more than 8 bits


def _check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _check_at_least(lowest: float, **numbers: float) -> None:
    for name, value in numbers.items():
        if not lowest <= value < math.inf:
            raise ValueError(f"{name} must be at least {lowest}, got {value}.")

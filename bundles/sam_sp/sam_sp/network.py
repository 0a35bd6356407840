# SPDX-License-Identifier: Apache-2.0
"""SAM-SP: Segment Anything that prompts itself with its own first mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.networks.checkpoints import load_sam, plain_sam_state
from monai_ext.networks.layers.check_prompts import check_prompts
from monai_ext.networks.layers.letterbox import Letterbox
from monai_ext.networks.layers.lora import inject_lora, merge_lora
from monai_ext.networks.layers.mask_boxes import mask_boxes
from monai_ext.networks.layers.pixels import build_stem, check_channels, pixel_statistics, three_channels
from monai_ext.networks.layers.recording import is_recorded
from monai_ext.networks.nets.sam import (
    PUBLISHED_TOKENS,
    build_mask_decoder,
    build_prompt_encoder,
    build_sam_encoder,
)

TUNINGS = ("lora", "full", "frozen")
EMPTY_POLICIES = ("null", "full")
MULTICLASS_BOXES = ("union", "per_class")


class Embedded(NamedTuple):
    """What the encoder made of a batch, (B, 256, g, g), and how the images lie in its square."""

    embedding: Tensor
    frame: Letterbox


class SelfPrompted(NamedTuple):
    """Everything that SAM-SP can tell about a batch.

    Attributes:
        logits: (B, num_classes, H, W), the result.
        first_logits: (B, num_classes, H, W), the first mask, which had no prompt.
        boxes: (B, 4) float32, the last box used, as xmin, ymin, xmax, ymax in pixels of the image; NaN where none was.
        prompts: per image ``self`` (box of its own mask), ``null`` (none), ``box`` or ``points`` (given).
    """

    logits: Tensor
    first_logits: Tensor
    boxes: Tensor
    prompts: list[str]


class SAMSP(nn.Module):
    """Segmentation network of SAM-SP (Zhou et al. 2024, https://arxiv.org/abs/2408.12364).

    ::

                     ┌───────────── embedding, once ──────────────┐
        image ─ E + LoRA ── decode, no prompt ── first mask ── its box ── decode ── mask ─> logits
                                                   ^                        │
                                                   └────── distilled ───────┘  (training only)

    Normalisation, padding to the encoder's square and the way back to the image's size happen inside. Parts and
    parameters carry Segment Anything's names: with LoRA merged, the state dict is one of plain Segment Anything.
    Where its sources are silent the defaults are our choices; the model card lists them.

    Args:
        in_channels: channels of the image. 1 is repeated to 3, 3 is taken as it is, any other number goes through
            a trainable 1x1 convolution that starts as the mean of the channels.
        num_classes: channels of the output. 1 is one object against background (sigmoid) by the published decoder's
            first token; more are classes with background as class 0 (the largest wins), each a token of its own.
        sam_type: ``vit_b``, ``vit_l``, ``vit_h``, or ``vit_tiny`` (ours, without published weights).
        image_size: side of the encoder's square, a multiple of 16; Segment Anything's own is 1024.
        pixel_mean: mean of the three channels that the encoder sees, in the unit of the image's values.
        pixel_std: their standard deviation.
        tuning: what trains beside prompt encoder and mask decoder: ``lora`` (published), ``full`` (the whole encoder)
            or ``frozen`` (nothing of it).
        lora_rank: rank of the low-rank updates of query and value.
        lora_alpha: they are scaled by ``lora_alpha / lora_rank``; None means a scale of 1.
        lora_blocks: indices of the encoder's blocks that get them; None means all.
        n_iters: number of decodes. 2 is the published method, 1 is the first mask alone; more repeat the second step.
        mask_threshold: a pixel whose logit exceeds it is foreground of the box, with ``num_classes`` 1.
        box_margin: pixels of the encoder's square by which the box is enlarged on each side.
        empty_policy: what follows an empty mask: ``null`` (it is the result) or ``full`` (a box around everything).
        multiclass_box: with several classes, ``union`` (one box around all that is not background) or ``per_class``
            (a decode for each class found, which gives that class's channel).
        use_checkpoint: trade time for memory in training: recompute encoder blocks in the backward pass.
        dropout: probability, in training, that the decoder gets a whole channel of the embedding as zeros.

    Shape:
        image (B, in_channels, H, W), values as the preprocessing gives them, usually 0 to 1.
        In ``eval()``: logits (B, num_classes, H, W). In ``train()``: a list of these, the last mask at low resolution
        (B, num_classes, h, w), and the earlier ones likewise, the first first; without the square's padding.

    Raises:
        ValueError: an argument that is none of the above, or an image with another number of channels.

    Example:
        >>> network = SAMSP(in_channels=1, sam_type="vit_tiny", image_size=64).eval()
        >>> network(torch.rand(2, 1, 50, 70)).shape
        torch.Size([2, 1, 50, 70])
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    exports_any_size = True  # sizes inside are computed from the image's, symbolically
    find_unused_parameters = True  # the published decoder has parts for prompts and masks that this method never asks

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        sam_type: str = "vit_b",
        image_size: int = 1024,
        pixel_mean: Sequence[float] = (0.485, 0.456, 0.406),
        pixel_std: Sequence[float] = (0.229, 0.224, 0.225),
        tuning: str = "lora",
        lora_rank: int = 4,
        lora_alpha: float | None = None,
        lora_blocks: Sequence[int] | None = None,
        n_iters: int = 2,
        mask_threshold: float = 0.0,
        box_margin: float = 0.0,
        empty_policy: str = "null",
        multiclass_box: str = "union",
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, n_iters, box_margin, tuning, empty_policy, multiclass_box)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.sam_type = sam_type
        self.image_size = image_size
        self.n_iters = n_iters
        self.mask_threshold = mask_threshold
        self.box_margin = box_margin
        self.empty_policy = empty_policy
        self.multiclass_box = multiclass_box
        # not in the state dict, as in Segment Anything: they are knobs, not weights
        mean, std = pixel_statistics(pixel_mean, pixel_std)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", std, persistent=False)
        self.stem = build_stem(in_channels)

        self.image_encoder = build_sam_encoder(sam_type, image_size, use_checkpoint)
        self.dropout = nn.Dropout2d(dropout)
        self.prompt_encoder = build_prompt_encoder(image_size)
        self.mask_decoder = build_mask_decoder(PUBLISHED_TOKENS if num_classes == 1 else num_classes)
        if tuning != "full":
            self.image_encoder.requires_grad_(False)
        if tuning == "lora":
            inject_lora(self.image_encoder, lora_rank, lora_alpha, lora_blocks)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        embedded = self.embed(image)
        masks = [self._decode(embedded)]
        for _ in range(self.n_iters - 1):
            masks.append(self._decode_again(embedded, masks[-1])[0])
        logits = embedded.frame.restore(masks[-1])
        if not self.training:
            return logits
        last, *earlier = (embedded.frame.crop(mask) for mask in (masks[-1], *masks[:-1]))
        return [logits, last, *earlier]

    def embed(self, image: Tensor) -> Embedded:
        """Run the encoder, the one expensive step: (B, in_channels, H, W) -> (B, 256, g, g) and the images' frame."""
        check_channels(image, self.in_channels)
        frame = Letterbox.of(image, self.image_size)
        pixels = three_channels(frame.fit(image), self.stem)
        # padding comes after the normalisation, as in Segment Anything: it is the mean pixel
        embedding = self.image_encoder(frame.pad((pixels - self.pixel_mean) / self.pixel_std))
        return Embedded(self.dropout(embedding), frame)

    def segment(
        self,
        image: Tensor | None = None,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        first_only: bool = False,
        embedded: Embedded | None = None,
    ) -> SelfPrompted:
        """Segment with everything there is to know about it; prompts of a user take the place of the self-prompt.

        Args:
            image: (B, in_channels, H, W); not needed with ``embedded``.
            boxes: (B, 4) in pixels of the image, xmin, ymin, xmax, ymax, inclusive; a row of NaN is no box.
            points: (B, N, 2) x, y in pixels of the image, of every image of the batch.
            point_labels: (B, N), 1 for the object, 0 for background, -1 for a place that holds no point.
            first_only: give the first mask, which has no prompt, as the result.
            embedded: what `embed` returned, to decode again and again without the encoder.

        Raises:
            ValueError: neither an image nor its embedding, or prompts of another shape.
        """
        if embedded is None:
            if image is None:
                raise ValueError("segment needs an image, or its embedding as `embedded`.")
            embedded = self.embed(image)
        batch = embedded.embedding.shape[0]
        check_prompts(batch, boxes, points, point_labels)
        first = self._decode(embedded)
        masks, used = first, first.new_full((batch, 4), torch.nan)
        prompts = ["null"] * batch
        for _ in range(0 if first_only or points is not None else self.n_iters - 1):
            masks, used = self._decode_again(embedded, masks)
            prompts = ["self" if found else "null" for found in used[:, 0].isfinite().tolist()]
        given = torch.zeros(batch, dtype=torch.bool, device=first.device)
        if boxes is not None:
            boxes = embedded.frame.boxes_into(boxes.to(first.device, torch.float32))
            given |= boxes.isfinite().all(dim=1)
            used = torch.where(given[:, None], boxes, used)
        if points is not None and point_labels is not None:
            places = (embedded.frame.points_into(points.to(first.device, torch.float32)), point_labels.to(first.device))
            masks = self._decode_points(embedded, boxes, given, places)
            prompts = ["points"] * batch
        elif bool(given.any()):
            masks = masks.index_copy(0, given.nonzero()[:, 0], self._decode(_rows(embedded, given), used[given]))
            prompts = ["box" if own else name for own, name in zip(given.tolist(), prompts, strict=True)]
        frame = embedded.frame
        return SelfPrompted(frame.restore(masks), frame.restore(first), frame.boxes_back(used), prompts)

    def merge_lora(self) -> SAMSP:
        """Fold the low-rank updates into the projections, in place, for export; does nothing without them."""
        merge_lora(self)
        return self

    def plain_sam_state(self) -> dict[str, Tensor]:
        """Return merged weights under plain Segment Anything's names, for images of ``image_size``.

        With one class they load strictly into ``build_plain_sam(sam_type, image_size)``; a stem for other numbers of
        channels than 1 and 3 has no place there and is left out.
        """
        return plain_sam_state(self)

    def load_pretrained(self, path: str | Path | None) -> SAMSP:
        """Load Segment Anything's published weights, fitted to ``image_size``; see `load_sam`."""
        load_sam(self, path)
        return self

    def _decode(self, embedded: Embedded, boxes: Tensor | None = None) -> Tensor:
        """Decode once: -> logits (B, num_classes, 4g, 4g). The weights are the same for every prompt."""
        return self._decode_given(embedded, boxes, None)

    def _decode_given(self, embedded: Embedded, boxes: Tensor | None, points: tuple[Tensor, Tensor] | None) -> Tensor:
        with torch.autocast(embedded.embedding.device.type, enabled=False):  # coordinates need more than 8 bits
            sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=None)
            position = self.prompt_encoder.get_dense_pe()
        count = 1 if self.num_classes == 1 else None
        masks, _ = self.mask_decoder(embedded.embedding, position, sparse, dense, count)
        return masks.float()

    def _decode_points(
        self, embedded: Embedded, boxes: Tensor | None, boxed: Tensor, points: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Decode with points, and with boxes where there are any: the decoder must not see what is no box."""
        masks = self._decode_given(embedded, None, points)
        if boxes is None or not bool(boxed.any()):
            return masks
        some = (points[0][boxed], points[1][boxed])
        decoded = self._decode_given(_rows(embedded, boxed), boxes[boxed], some)
        return masks.index_copy(0, boxed.nonzero()[:, 0], decoded)

    def _decode_again(self, embedded: Embedded, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Decode with the boxes of the masks before; -> masks and boxes, NaN where a mask was empty and so stays."""
        per_class = self.num_classes > 1 and self.multiclass_box == "per_class"
        result, boxes = masks, masks.new_full((masks.shape[0], 4), torch.nan)
        for index in range(1, self.num_classes) if per_class else range(1):
            found, empty = mask_boxes(self._foreground(embedded.frame, masks.detach(), index))
            found = self._adjusted(embedded.frame, found, empty)
            keep = empty if self.empty_policy == "null" else torch.zeros_like(empty)
            decoded = self._decode_where(embedded, found, ~keep, masks)
            result = decoded if index == 0 else _with_channel(result, decoded, index)
            found = torch.where(keep[:, None], torch.nan, found)
            boxes = _around(boxes, found)
        return result, boxes

    def _foreground(self, frame: Letterbox, masks: Tensor, index: int) -> Tensor:
        """Pixels of the square that the box is to enclose (B, inner height, inner width); index 0 is any class."""
        pixels = frame.enlarge(masks)
        if self.num_classes == 1:
            return pixels[:, 0] > self.mask_threshold
        labels = pixels.argmax(dim=1)
        return labels > 0 if index == 0 else labels == index

    def _adjusted(self, frame: Letterbox, boxes: Tensor, empty: Tensor) -> Tensor:
        """Enlarge boxes by the margin, inside the image; around everything where a mask was empty."""
        last = [frame.inner_width - 1, frame.inner_height - 1]
        margin = boxes.new_tensor([-1.0, -1.0, 1.0, 1.0]) * self.box_margin
        boxes = (boxes + margin).clamp(min=0.0)
        boxes = torch.minimum(boxes, torch.stack([_scalar(boxes, size) for size in last]).repeat(2))
        side = self.image_size - 1.0
        return torch.where(empty[:, None], boxes.new_tensor([0.0, 0.0, side, side]), boxes)

    def _decode_where(self, embedded: Embedded, boxes: Tensor, wanted: Tensor, masks: Tensor) -> Tensor:
        """Decode the wanted images; the others keep the mask they have."""
        if self.training or is_recorded():
            # shapes must not depend on data; in training all processes then use the same parameters in each step
            return torch.where(wanted[:, None, None, None], self._decode(embedded, boxes), masks)
        if not bool(wanted.any()):
            return masks
        decoded = self._decode(_rows(embedded, wanted), boxes[wanted])
        return masks.index_copy(0, wanted.nonzero()[:, 0], decoded)


def _check_arguments(
    num_classes: int, n_iters: int, box_margin: float, tuning: str, empty_policy: str, multiclass_box: str
) -> None:
    if num_classes < 1 or n_iters < 1:
        raise ValueError(f"num_classes and n_iters must be at least 1, got {num_classes} and {n_iters}.")
    if not 0 <= box_margin < math.inf:
        raise ValueError(f"box_margin must be a number of pixels, 0 or more, got {box_margin}.")
    choices = {"tuning": (tuning, TUNINGS), "empty_policy": (empty_policy, EMPTY_POLICIES)}
    for name, (value, known) in {**choices, "multiclass_box": (multiclass_box, MULTICLASS_BOXES)}.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _rows(embedded: Embedded, wanted: Tensor) -> Embedded:
    return embedded if bool(wanted.all()) else Embedded(embedded.embedding[wanted], embedded.frame)


def _with_channel(masks: Tensor, decoded: Tensor, index: int) -> Tensor:
    return torch.cat([masks[:, :index], decoded[:, index : index + 1], masks[:, index + 1 :]], dim=1)


def _around(boxes: Tensor, more: Tensor) -> Tensor:
    """The box around two, where NaN is none."""
    return torch.cat([torch.fmin(boxes[:, :2], more[:, :2]), torch.fmax(boxes[:, 2:], more[:, 2:])], dim=1)


def _scalar(like: Tensor, value: int) -> Tensor:
    # a traced size is a tensor, and must stay one
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)

# SPDX-License-Identifier: Apache-2.0
"""SAMora: Segment Anything with low-rank experts learnt from unlabelled images, fused in each block."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.blocks.experts_block import SIGNALS
from monai_ext.networks.blocks.hierarchical_decoder import HierarchicalDecoder
from monai_ext.networks.blocks.hl_attention import HLAttention
from monai_ext.networks.checkpoints import check, load_sam
from monai_ext.networks.checkpoints.base_hash import base_hash
from monai_ext.networks.checkpoints.bound_weights import BoundWeights
from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.layers.letterbox import Letterbox
from monai_ext.networks.layers.pixels import build_stem, check_channels, pixel_statistics, three_channels
from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
from monai_ext.networks.nets.sam import (
    EMBEDDING,
    SamPreset,
    build_mask_decoder,
    build_prompt_encoder,
    build_published_encoder,
    preset_of,
)

logger = logging.getLogger(__name__)

LEVELS = ("image", "patch", "pixel")  # broadest first
SCOPES = ("full", "window")
DECODERS = ("samed", "hsam")
TASK = "samora_task"


class SAMora(nn.Module):
    """Segmentation network of SAMora, stage 2: fuses experts of stage 1 and decodes without a prompt.

    ::

        tokens ─ block ─────────────────────────── F ─ + ─> next block ... neck ─ decoder ─> logits
               ├ block + pixel expert ─┐               │
               ├ block + patch expert ─┴ HL ─┐         │
               └ block + image expert ───────┴ HL ─────┘

    Encoder, experts and prompt encoder are frozen; HL-Attn and the mask decoder train. With the defaults HL-Attn adds
    nothing at the start: the encoder then gives exactly what Segment Anything's does. It is no small module (42
    million weights for ``vit_b``; ``hl_dim`` makes it smaller), and several experts cost a pass each.

    The decoder is SAMed's, a mask token for each class, or H-SAM's, in which a second stage goes on from what that one
    says to the square's full resolution; the result is then the mean of both.

    Any subset of the experts may be used. With one there is nothing to fuse: it takes the place of the plain encoder
    in all blocks, as usual low-rank updates do, and only the decoder trains. Without any this is Segment Anything
    with a decoder for classes. Where its sources are silent the defaults are our choices; the model card lists them.

    Args:
        in_channels: channels of the image. 1 is repeated to 3, 3 is taken as it is, any other number goes through
            a trainable 1x1 convolution that starts as the mean of the channels.
        num_classes: channels of the output. 1 is one object against background (sigmoid), decoded as two classes
            whose difference is returned; more are classes with background as class 0 (the largest wins).
        sam_type: ``vit_b``, ``vit_l``, ``vit_h``, or ``vit_tiny`` (ours, without published weights).
        image_size: side of the encoder's square, a multiple of 16.
        pixel_mean: mean of the three channels that the encoder sees, in the unit of the image's values.
        pixel_std: their standard deviation. Both must be those that the experts were trained with.
        experts: some of ``image``, ``patch`` and ``pixel``; their order does not matter.
        lora_rank: rank of the experts' updates of query and value.
        lora_alpha: they are scaled by ``lora_alpha / lora_rank``; None means a scale of 1.
        lora_blocks: indices of the encoder's blocks that have them; None means all.
        expert_signal: what is fused: ``full``, the output of the block with an expert, or ``delta``, what the expert
            changes of it.
        hl_heads: heads of HL-Attn; None means those of the encoder, 1 is the paper's formula by the letter.
        hl_dim: channels of its queries and keys; None means those of the encoder.
        hl_blocks: indices of the blocks that fuse, the others stay plain; None means all that have experts.
        hl_scope: ``full`` attends over the whole image, ``window`` inside the windows of the block.
        hl_norm: normalise what goes into each level of HL-Attn.
        hl_out_proj: a further projection after each level.
        hl_residual: add each level's query to its result; the start is then not that of Segment Anything.
        hl_zero_init: start as Segment Anything, see above; False leaves all of HL-Attn random.
        decoder: ``samed``, or ``hsam`` with its second stage.
        hsam_noise: strength of the noise that the second stage adds in training, more where rare classes are.
        hsam_dropout: of its attention from classes to pixels, in training.
        train_prompt_encoder: train the prompt encoder, too (of which the null prompt alone is used).
        use_checkpoint: trade time for memory in training: recompute encoder blocks in the backward pass.
        dropout: probability, in training, that the decoder gets a whole channel of the embedding as zeros.

    Shape:
        image (B, in_channels, H, W), values as the preprocessing gives them, usually 0 to 1.
        In ``eval()``: logits (B, num_classes, H, W). In ``train()``: a list of these and of the decoder's own logits
        (B, max(num_classes, 2), h, w), one for each class and background, without the square's padding: a quarter of
        the square's resolution, at which the published loss is taken; with ``hsam`` those of the second stage follow,
        at all of it.

    Raises:
        ValueError: an argument that is none of the above, or an image with another number of channels.

    Example:
        >>> network = SAMora(in_channels=1, num_classes=3, sam_type="vit_tiny", image_size=64).eval()
        >>> network(torch.rand(2, 1, 50, 70)).shape
        torch.Size([2, 3, 50, 70])
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    exports_any_size = True  # sizes inside are computed from the image's, symbolically
    find_unused_parameters = True  # the published decoder predicts a quality that this method never asks for

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        sam_type: str = "vit_b",
        image_size: int = 512,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        experts: Sequence[str] = LEVELS,
        lora_rank: int = 4,
        lora_alpha: float | None = None,
        lora_blocks: Sequence[int] | None = None,
        expert_signal: str = "full",
        hl_heads: int | None = None,
        hl_dim: int | None = None,
        hl_blocks: Sequence[int] | None = None,
        hl_scope: str = "full",
        hl_norm: bool = False,
        hl_out_proj: bool = False,
        hl_residual: bool = False,
        hl_zero_init: bool = True,
        decoder: str = "samed",
        hsam_noise: float = 0.2,
        hsam_dropout: float = 0.2,
        train_prompt_encoder: bool = False,
        use_checkpoint: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, experts, expert_signal=expert_signal, hl_scope=hl_scope, decoder=decoder)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.sam_type, self.image_size = sam_type, image_size
        self.experts = tuple(level for level in LEVELS if level in experts)
        self.expert_signal, self.decoder = expert_signal, decoder
        # not in the state dict, as in Segment Anything: they are knobs, not weights
        for name, values in zip(("pixel_mean", "pixel_std"), pixel_statistics(pixel_mean, pixel_std), strict=True):
            self.register_buffer(name, values, persistent=False)
        # the encoder is built first: a seed then gives it the random weights that it gives a student of stage 1
        published = build_published_encoder(sam_type, image_size)
        self.image_encoder = ExpertsEncoder(published, self.experts, lora_rank, lora_alpha, lora_blocks, use_checkpoint)
        self.stem, self.dropout = build_stem(in_channels), nn.Dropout2d(dropout)
        self.prompt_encoder = build_prompt_encoder(image_size).requires_grad_(train_prompt_encoder)
        self.mask_decoder = build_mask_decoder(max(num_classes, 2))
        self.hl_attention = _build_fusions(
            self.image_encoder,
            _fused_blocks(self.experts, preset_of(sam_type).depth, lora_blocks, hl_blocks),
            hl_scope,
            preset_of(sam_type),
            num_heads=hl_heads,
            num_signals=len(self.experts),
            qk_dim=hl_dim,
            norm=hl_norm,
            out_proj=hl_out_proj,
            residual=hl_residual,
            zero_init=hl_zero_init,
        )
        self.second_decoder = _build_second_decoder(decoder, max(num_classes, 2), hsam_noise, hsam_dropout)
        if len(self.experts) == 1:
            self.image_encoder.select(self.experts[0])
        _tell(self.experts)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        frame = Letterbox.of(image, self.image_size)
        stages = self._decode(self._encode(image, frame))
        masks = _mean_of(stages)
        logits = frame.restore(masks if self.num_classes > 1 else masks[:, 1:] - masks[:, :1])
        return [logits, *map(frame.crop, stages)] if self.training else logits

    def load_pretrained(self, path: str | Path | None) -> SAMora:
        """Load Segment Anything's published weights, fitted to ``image_size``; before the experts. See `load_sam`.

        What the decoder has for each mask is left as initialised, however many classes there are.
        """
        load_sam(self, path, new_tokens=True)
        return self

    def load_experts(self, files: Mapping[str, str | Path | None] | None) -> SAMora:
        """Load experts of stage 1.

        Args:
            files: level -> file. A level without one leaves that expert as it is (it changes nothing if untrained),
                with a warning.

        Raises:
            InputError: a file is missing or damaged; belongs to another level, rank, alpha or frozen encoder; or this
                network was built without that expert.
        """
        given = {level: Path(path) for level, path in (files or {}).items() if path}
        for level, path in given.items():
            if level not in self.experts:
                known = ", ".join(self.experts) or "none"
                raise InputError(f"{path}: is given for the expert {level!r}; the network's are: {known}; set experts.")
            file = ExpertFile.read(path)
            file.load_into(self.image_encoder, level, str(path))
            logger.info("Loaded the %s expert (rank %d) from %s.", level, file.rank, path)
            if file.licence:
                logger.info("The licence of the %s expert says: %s", level, file.licence)
        untrained = [level for level in self.experts if level not in given]
        if untrained:
            logger.warning(
                "No file is given for the %s expert(s): untrained they add nothing to Segment Anything. Train them "
                "first, or leave them out of experts.",
                ", ".join(untrained),
            )
        return self

    def task_state(self) -> dict[str, Tensor]:
        """Return all weights but those of the frozen encoder: experts, HL-Attn, prompt and mask decoder, stem."""
        return {n: w for n, w in self.state_dict().items() if not n.startswith("image_encoder.") or "lora_" in n}

    def save_task(self, path: str | Path) -> None:
        """Write `task_state`, with the hash of the frozen encoder and the decoder that it belongs to.

        Raises:
            InputError: the name does not end in ``.safetensors``.
        """
        notes = {"decoder": self.decoder}
        BoundWeights(TASK, base_hash(self.image_encoder), self.task_state(), notes).write(path)

    def load_task(self, path: str | Path) -> SAMora:
        """Load what `save_task` wrote; nothing is changed if anything does not fit.

        Raises:
            InputError: the file is missing, damaged, of another network, or of another decoder or frozen encoder.
        """
        weights = BoundWeights.read(path, TASK)
        made_with = weights.notes.get("decoder", "samed")  # files of before there was a choice do not say
        if made_with != self.decoder:
            raise InputError(
                f"{path}: was saved with decoder {made_with!r}, this network's is {self.decoder!r}; set decoder."
            )
        check(weights.state, self.task_state(), str(path), "use the knobs of the network that it was saved from.")
        weights.check_base(self.image_encoder, str(path))
        self.load_state_dict(weights.state, strict=False)
        return self

    def _encode(self, image: Tensor, frame: Letterbox) -> Tensor:
        """Run the encoder with its experts: (B, in_channels, H, W) -> (B, 256, g, g)"""
        check_channels(image, self.in_channels)
        pixels = three_channels(frame.fit(image), self.stem)
        # padding comes after the normalisation, as in Segment Anything: it is the mean pixel
        pixels = frame.pad((pixels - self.pixel_mean) / self.pixel_std)
        return self.dropout(self.image_encoder(pixels, self.hl_attention, self.expert_signal))

    def _decode(self, embedding: Tensor) -> list[Tensor]:
        """Decode without a prompt: (B, 256, g, g) -> logits (B, max(num_classes, 2), 4g, 4g), then perhaps 16g, 16g"""
        with torch.autocast(embedding.device.type, enabled=False):  # positions need more than 8 bits
            sparse, dense = self.prompt_encoder(points=None, boxes=None, masks=None)
            position = self.prompt_encoder.get_dense_pe()
        first = self.mask_decoder.decode(embedding, position, sparse, dense)
        if self.second_decoder is None:
            return [first.masks.float()]
        return [first.masks.float(), self.second_decoder(embedding, position, first).float()]


def _check_arguments(num_classes: int, experts: Sequence[str], **choices: str) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if isinstance(experts, str) or len(set(experts)) < len(experts) or not set(experts) <= set(LEVELS):
        raise ValueError(f"experts must be some of {', '.join(LEVELS)}, each once, got {experts!r}.")
    for name, known in (("expert_signal", SIGNALS), ("hl_scope", SCOPES), ("decoder", DECODERS)):
        if choices[name] not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {choices[name]!r}.")


def _fused_blocks(
    experts: Sequence[str], depth: int, lora_blocks: Sequence[int] | None, hl_blocks: Sequence[int] | None
) -> list[int]:
    """Indices of the blocks that fuse their experts; none if there is nothing to fuse."""
    adapted = sorted(set(range(depth) if lora_blocks is None else lora_blocks))
    wanted = adapted if hl_blocks is None else sorted(set(hl_blocks))
    if not wanted or not set(wanted) <= set(adapted):
        raise ValueError(f"hl_blocks must be some of the blocks with experts, {adapted}, got {list(hl_blocks or ())}.")
    return wanted if len(experts) > 1 else []


def _build_fusions(
    encoder: ExpertsEncoder, blocks: Sequence[int], scope: str, preset: SamPreset, num_heads: int | None, **knobs: Any
) -> nn.ModuleDict:
    """HL-Attn of each block, by its index as text."""
    knobs |= {"dim": preset.embed_dim, "num_heads": preset.num_heads if num_heads is None else num_heads}
    fusions = nn.ModuleDict()
    for index in blocks:
        window: Any = encoder.blocks[index].attn.window_size if scope == "window" else 0  # type: ignore[union-attr]
        fusions[str(index)] = HLAttention(window_size=window, **knobs)
    return fusions


def _build_second_decoder(decoder: str, num_masks: int, noise: float, dropout: float) -> HierarchicalDecoder | None:
    """H-SAM's second stage; built last, so that a seed gives all other parts the same weights with either decoder."""
    return HierarchicalDecoder(num_masks, EMBEDDING, noise=noise, dropout=dropout) if decoder == "hsam" else None


def _mean_of(stages: Sequence[Tensor]) -> Tensor:
    """Mean of the stages' logits, at the resolution of the last."""
    if len(stages) == 1:
        return stages[0]
    low, full = stages
    return (F.interpolate(low, size=full.shape[2:], mode="bilinear", align_corners=False) + full) / 2


def _tell(experts: Sequence[str]) -> None:
    missing = [level for level in LEVELS if level not in experts]
    if missing:
        logger.info(
            "SAMora without the %s expert(s): %s.",
            ", ".join(missing),
            {
                0: "the plain encoder, only the decoder trains",
                1: f"nothing to fuse, the {' '.join(experts)} expert is used by itself, only the decoder trains",
                2: f"{' queries '.join(experts)} in one level of HL-Attn",
            }[len(experts)],
        )

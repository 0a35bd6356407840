# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's image encoder, frozen, with low-rank experts: one in use, or all of them fused in each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from monai_ext.networks.blocks.experts_block import SIGNALS, ExpertsBlock
from monai_ext.networks.layers.lora_experts import inject_experts, select_expert
from monai_ext.networks.nets.sam_encoder import SAMEncoder


class ExpertsEncoder(SAMEncoder):
    """Segment Anything's image encoder, frozen, with several low-rank experts on query and value of its blocks.

    As it is called with pixels alone it computes what the plain encoder does, with the expert that `select` put in
    use. With a ``fusion`` every block that has one computes O(x) = F(x) + HL-Attn(E(x) of all experts), see
    `ExpertsBlock`; the other blocks are plain there. That costs about a plain pass for each expert, and one for the
    fusion, and it cannot be merged into plain weights: it is not linear.

    Frozen weights keep Segment Anything's names; fusions are given, not kept here, so that their weights do not get
    among them.

    Args:
        encoder: the published encoder, whose parts are taken over (not copied).
        experts: their names, broadest first; may be none.
        rank: of their updates.
        alpha: updates are scaled by ``alpha / rank``; None means a scale of 1.
        blocks: indices of the blocks that get them; None means all.
        use_checkpoint: in training, recompute each block in the backward pass instead of keeping its activations.

    Shape:
        pixels (B, 3, S, S) with the side S the encoder was built for -> (B, 256, S / 16, S / 16)

    Raises:
        ValueError: the pixels have another side, or names or blocks that cannot be.

    Example:
        >>> from monai_ext.networks.blocks.hl_attention import HLAttention
        >>> published = ImageEncoderViT(img_size=64, embed_dim=8, depth=2, num_heads=2, use_rel_pos=True)
        >>> encoder, pixels = ExpertsEncoder(published, ("image", "pixel")), torch.rand(1, 3, 64, 64)
        >>> fusion = nn.ModuleDict({str(index): HLAttention(8, 2, num_signals=2) for index in range(2)})
        >>> torch.equal(encoder(pixels, fusion), encoder(pixels))  # the fusion is untrained
        True
    """

    def __init__(
        self,
        encoder: ImageEncoderViT,
        experts: Sequence[str],
        rank: int = 4,
        alpha: float | None = None,
        blocks: Sequence[int] | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__(encoder, use_checkpoint)
        self.experts = tuple(experts)
        self.blocks = nn.ModuleList(ExpertsBlock(block) for block in encoder.blocks)
        if self.experts:
            inject_experts(self, experts, rank, alpha, blocks)
        self.requires_grad_(False)

    def forward(
        self, pixels: Tensor, fusion: Mapping[str, nn.Module] | nn.ModuleDict | None = None, signal: str = "full"
    ) -> Tensor:
        """Encode.

        Args:
            pixels: (B, 3, S, S).
            fusion: index of a block, as text -> its `HLAttention`; None or empty for the plain encoder.
            signal: what of an expert is fused: ``full`` or ``delta``, see `ExpertsBlock.fused`.
        """
        if not fusion:
            return super().forward(pixels)
        fusions = dict(fusion.items())
        self._check_fusions(fusions, signal)
        self._check_size(pixels)
        tokens = self.patch_embed(pixels)  # (B, 3, S, S) -> (B, g, g, C)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        for index, block in enumerate(self.blocks):
            tokens = self._run(block, tokens, fusions.get(str(index)), signal)
        return self.neck(tokens.permute(0, 3, 1, 2))

    def select(self, name: str | None) -> ExpertsEncoder:
        """Put one expert in use where there is no fusion; None uses the frozen encoder alone.

        Raises:
            ValueError: there is no such expert.
        """
        if self.experts or name is not None:
            select_expert(self, name)
        return self

    def train_only(self, name: str) -> ExpertsEncoder:
        """Put one expert in use and let it train; all else is frozen.

        Raises:
            ValueError: there is no such expert.
        """
        self.select(name)
        for place, weight in self.named_parameters():
            weight.requires_grad_(f".experts.{name}." in place)
        return self

    def _run(self, block: nn.Module, tokens: Tensor, fusion: nn.Module | None, signal: str) -> Tensor:
        def fused(tokens: Tensor) -> Tensor:
            return block.fused(tokens, self.experts, fusion, signal)  # type: ignore[operator]

        run = block if fusion is None else fused
        if self.use_checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(run, tokens, use_reentrant=False)
        return run(tokens)

    def _check_fusions(self, fusions: Mapping[str, nn.Module], signal: str) -> None:
        if signal not in SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {signal!r}.")
        unknown = sorted(set(fusions) - {str(index) for index in range(len(self.blocks))})
        if unknown:
            raise ValueError(f"fusion must be for blocks 0 to {len(self.blocks) - 1}, got {unknown[0]!r}.")

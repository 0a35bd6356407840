# SPDX-License-Identifier: Apache-2.0
"""A block of Segment Anything's encoder that several experts look at, and the fusion of what they see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from segment_anything.modeling.image_encoder import Block
from torch import Tensor

from monai_ext.networks.blocks.experts_attention import ExpertsAttention
from monai_ext.networks.blocks.hl_attention import HLAttention
from monai_ext.networks.blocks.sam_block import SAMBlock

SIGNALS = ("full", "delta")


class ExpertsBlock(SAMBlock):
    """`SAMBlock` with the same parameters and, as it is called, the same result; beside that it can fuse experts.

    Args:
        block: the published block, whose parts are taken over (not copied).

    Shape:
        (B, H, W, C) -> (B, H, W, C)

    Example:
        >>> import torch
        >>> from monai_ext.networks.layers.lora_experts import inject_experts
        >>> block = ExpertsBlock(Block(dim=8, num_heads=2, use_rel_pos=True, window_size=4, input_size=(6, 6)))
        >>> _ = inject_experts(block, ("image", "patch", "pixel"))
        >>> tokens, fusion = torch.rand(1, 6, 6, 8), HLAttention(dim=8, num_heads=2)
        >>> torch.equal(block.fused(tokens, ("image", "patch", "pixel"), fusion), block(tokens))  # it is untrained
        True
    """

    attn: ExpertsAttention

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self.attn = ExpertsAttention(block.attn, block.window_size)

    def variants(self, tokens: Tensor, names: Sequence[str | None]) -> Iterator[Tensor]:
        """Yield the block's output with each named expert, one after the other; None is the block without any.

        The norm before the attention and the frozen projection are computed once. Each output, (B, H, W, C), is
        computed when it is asked for: stacked on the batch axis they would be copied more, and all be held.

        Raises:
            ValueError: there is no such expert.
        """
        shared = self.attn.share(self.norm1(tokens))
        for name in names:
            yield self._perceive(tokens + self.attn.attend(shared, name))

    def fused(self, tokens: Tensor, names: Sequence[str], fusion: HLAttention, signal: str = "full") -> Tensor:
        """Add to the block's output F what the fusion makes of its experts: O = F + HL-Attn(signals).

        Args:
            tokens: (B, H, W, C).
            names: of the experts, broadest first.
            fusion: of as many signals.
            signal: ``full``, the output E of the block with an expert, or ``delta``, E - F: what the expert changes.

        Raises:
            ValueError: another signal, or there is no such expert.
        """
        if signal not in SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {signal!r}.")
        finest_first = tuple(reversed(names))
        if signal == "full":
            outputs = self.variants(tokens, (*finest_first, None))
            fused = fusion(islice(outputs, len(names)))
            return next(outputs) + fused
        outputs = self.variants(tokens, (None, *finest_first))
        plain = next(outputs)
        return plain + fusion(output - plain for output in outputs)

# SPDX-License-Identifier: Apache-2.0
"""SAMora's encoder: a pass of the package's blocks for each expert against ours, and what an expert more costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.harness import Row, alternate, check_equal, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    import torch.nn as nn
    from segment_anything.modeling import ImageEncoderViT
    from torch import Tensor

    from monai_ext.networks.nets.experts_encoder import ExpertsEncoder

LEVELS = ("image", "patch", "pixel")
TARGETS = {"target_default": 1.5, "target_pinned": 1.2}
MEMORY_TARGET = 1.3  # of one plain pass


def measure(rounds: int, quick: bool) -> list[Row]:
    """Time at 512, memory at Segment Anything's own size, each in a process of its own."""
    small = {"sam_type": "vit_tiny", "side": 64} if quick else {"sam_type": "vit_b", "side": 512}
    large = small if quick else {**small, "side": 1024}
    rows = under_allocators("benchmarks.hl_attention:compare", {**small, "rounds": rounds}, quick)
    rows += under_allocators("benchmarks.hl_attention:count_experts", {**small, "rounds": rounds}, quick)
    for experts in (0, len(LEVELS)):
        rows += under_allocators("benchmarks.hl_attention:peak", {**large, "experts": experts}, quick)
    return rows


def compare(sam_type: str, side: int, rounds: int) -> list[Row]:
    """Four passes of the package's block and the fusion by whole matrices, in each block, against ours."""
    import torch

    published, ours, fusion = build_encoders(sam_type, side, len(LEVELS))
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = encode_as_published(published, image, fusion)
        equality = check_equal([expected], [ours(image, fusion)], 1e-4 / expected.abs().max().item())
        times = alternate(lambda: encode_as_published(published, image, fusion), lambda: ours(image, fusion), rounds)
    return [{"encoder": f"{sam_type} {side}, {len(LEVELS)} experts and HL-Attn", **times, **TARGETS, **equality}]


def count_experts(sam_type: str, side: int, rounds: int) -> list[Row]:
    """Time with none to three experts, beside the multiplications that each takes, both as a share of the plain pass.

    One expert alone is not fused: it takes the place of the plain block.
    """
    import torch

    image, seconds, work, rows = torch.randn(1, 3, side, side), [], [], []
    for experts in range(len(LEVELS) + 1):
        _, ours, fusion = build_encoders(sam_type, side, experts)
        with torch.no_grad():
            seconds.append(_fastest(ours, image, fusion, rounds))
        work.append(count_work(ours, side, experts))
        rows.append(
            {
                "experts": experts,
                "case": f"{sam_type} {side}",
                "rounds": rounds,
                "ms": round(1000 * seconds[-1], 1),
                "time_of_plain": round(seconds[-1] / seconds[0], 2),
                "work_gflop": round(work[-1] / 1e9, 1),
                "work_of_plain": round(work[-1] / work[0], 2),
            }
        )
    return rows


def peak(sam_type: str, side: int, experts: int) -> list[Row]:
    """Peak of resident memory while encoding one image, above that of the loaded encoder."""
    import torch

    _, ours, fusion = build_encoders(sam_type, side, experts)
    image = torch.randn(1, 3, side, side)
    reset_peak()
    loaded = memory_mb("VmRSS")
    with torch.no_grad():
        ours(image, fusion)
    return [
        {
            "memory": f"{sam_type} {side}, {experts} experts",
            "loaded_mb": round(loaded),
            "working_set_mb": round(memory_mb("VmHWM") - loaded),
            "peak_mb": round(memory_mb("VmHWM")),
            "target_of_plain": MEMORY_TARGET,
        }
    ]


def build_encoders(sam_type: str, side: int, experts: int) -> tuple[ImageEncoderViT, ExpertsEncoder, nn.ModuleDict]:
    """Build the package's encoder and ours around the same random weights and experts, and a fusion of them."""
    import torch
    import torch.nn as nn

    from monai_ext.networks.blocks.hl_attention import HLAttention
    from monai_ext.networks.nets.experts_encoder import ExpertsEncoder
    from monai_ext.networks.nets.sam import build_published_encoder, preset_of

    torch.manual_seed(0)
    published, preset, names = build_published_encoder(sam_type, side).eval(), preset_of(sam_type), LEVELS[:experts]
    ours = ExpertsEncoder(published, names).eval().select(names[0] if experts == 1 else None)
    for block, own in zip(published.blocks, ours.blocks, strict=True):
        block.attn.qkv = own.attn.qkv  # type: ignore[union-attr]
    fusion = nn.ModuleDict()
    if experts > 1:
        fusion.update(
            {
                str(index): HLAttention(preset.embed_dim, preset.num_heads, experts, zero_init=False)
                for index in range(preset.depth)
            }
        )
    for name, weight in ours.named_parameters():
        if "pos" in name or "lora_" in name:  # zero at first, in part
            nn.init.normal_(weight, std=0.02)
    return published, ours, fusion.requires_grad_(False)


def encode_as_published(encoder: ImageEncoderViT, image: Tensor, fusion: nn.ModuleDict) -> Tensor:
    """Run each block of the package once without and once with each expert, and fuse, as a reader would write it."""
    from monai_ext.networks.layers.lora_experts import select_expert

    tokens = encoder.patch_embed(image) + encoder.pos_embed
    for index, block in enumerate(encoder.blocks):
        outputs = []
        for name in (None, *LEVELS):
            select_expert(block, name)
            outputs.append(block(tokens))
        select_expert(block, None)
        plain, *higher, fused = outputs
        for level, signal in zip(fusion[str(index)].levels, higher[::-1], strict=True):
            fused = cross_attention(level, signal, fused)
        tokens = plain + fused
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def cross_attention(level: nn.Module, high: Tensor, low: Tensor) -> Tensor:
    """CrAttn of SAMora with the whole matrix of all queries by all keys, (B, H, W, C) each."""
    query, key, value = (
        part(x).flatten(1, 2).unflatten(-1, (level.num_heads, -1)).transpose(1, 2)
        for part, x in ((level.query, high), (level.key, low), (level.value, low))
    )
    attention = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return (attention.softmax(dim=-1) @ value).transpose(1, 2).flatten(2).reshape(high.shape)


def count_work(encoder: ExpertsEncoder, side: int, experts: int) -> float:
    """Floating-point operations of the blocks' matrix products; a window's padded keys count, its queries do not."""
    tokens = (side // 16) ** 2
    total = 0.0
    for block in encoder.blocks:
        width = block.attn.proj.in_features
        linear = 2 * tokens * width**2
        attention = 4 * tokens * (block.attn.window_size**2 or tokens) * width
        # of an expert alone, or of each beside the plain block: attention, its projection, the perceptron of 8 d^2
        passes = experts + 1 if experts > 1 else 1
        levels = max(experts - 1, 0)
        total += 3 * linear + passes * (9 * linear + attention)
        total += levels * (3 * linear + 4 * tokens**2 * width)
    return total


def _fastest(encoder: ExpertsEncoder, image: Tensor, fusion: nn.ModuleDict, rounds: int) -> float:
    encoder(image, fusion)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        encoder(image, fusion)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main("hl_attention", __doc__, measure, rounds=4)

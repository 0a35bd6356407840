# SPDX-License-Identifier: Apache-2.0
"""A training step of Segment Anything's encoder with LoRA: the package's, ours, and ours with checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.harness import Row, alternate, check_equal, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    from torch import Tensor

WAYS = ("published", "ours", "ours with use_checkpoint")
TARGETS = {"time": 0.95, "memory": 0.8}  # published / ours at least; ours / published at most


def measure(rounds: int, quick: bool) -> list[Row]:
    """Memory in one process a way, time in turns."""
    sizes = {"sam_type": "vit_tiny", "side": 64} if quick else {"sam_type": "vit_b", "side": 512}
    rows = []
    for way in WAYS:
        rows += under_allocators("benchmarks.sam_training:peak", {**sizes, "way": way}, quick)
    return rows + under_allocators("benchmarks.sam_training:compare", {**sizes, "rounds": rounds}, quick)


def peak(sam_type: str, side: int, way: str) -> list[Row]:
    """Peak of resident memory during two steps, batch 1, above that of the loaded encoder."""
    step = build_steps(sam_type, side)[way]
    reset_peak()
    loaded = memory_mb("VmRSS")
    for _ in range(2):
        step()
    grown = memory_mb("VmHWM") - loaded
    case = f"{sam_type} {side}"
    return [{"memory of a step": way, "case": case, "loaded_mb": round(loaded), "working_set_mb": round(grown)}]


def compare(sam_type: str, side: int, rounds: int) -> list[Row]:
    """Time each way against the published one.

    Gradients must be equal: asserted in float64, on a small image, since rounding is magnified on the way back.
    """
    exact = build_steps(sam_type, min(side, 96), "float64")
    gradients = {way: step() for way, step in exact.items()}
    equalities = {way: check_equal(gradients[WAYS[0]], gradients[way], 1e-9) for way in WAYS[1:]}
    del exact, gradients
    steps, rows = build_steps(sam_type, side), []
    for way, equality in equalities.items():
        times = alternate(steps[WAYS[0]], steps[way], rounds)
        target = {"target": TARGETS["time"] if way == WAYS[1] else None}
        rows.append(
            {"time of a step": f"{WAYS[0]} / {way}", "case": f"{sam_type} {side}", **times, **target, **equality}
        )
    return rows


def build_steps(sam_type: str, side: int, precision: str = "float32") -> dict[str, Callable[[], list[Tensor]]]:
    """Build the forward and backward pass of each way, over shared weights; each returns the gradients."""
    import torch
    import torch.nn as nn

    from benchmarks.published import build_sam_encoders

    dtype = getattr(torch, precision)
    published, ours = (n.train().to(dtype) for n in build_sam_encoders(sam_type, side, lora_rank=4))
    image = torch.randn(1, 3, side, side, dtype=dtype)
    direction = torch.randn(1, 256, side // 16, side // 16, dtype=dtype)  # of the gradient

    def step(encoder: nn.Module, use_checkpoint: bool) -> list[Tensor]:
        ours.use_checkpoint = use_checkpoint
        encoder.zero_grad()
        (encoder(image) * direction).sum().backward()
        return [w.grad for w in encoder.parameters() if w.grad is not None]

    return {
        WAYS[0]: lambda: step(published, False),
        WAYS[1]: lambda: step(ours, False),
        WAYS[2]: lambda: step(ours, True),
    }


if __name__ == "__main__":
    main("sam_training", __doc__, measure, rounds=3)

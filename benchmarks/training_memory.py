# SPDX-License-Identifier: Apache-2.0
"""A training step of SAM2-UNet: published, ours, and ours with gradient checkpointing; size of what is saved."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.harness import Row, alternate, check_equal, fresh_process, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    import torch.nn as nn
    from torch import Tensor

WAYS = ("published", "ours", "ours with use_checkpoint")


def measure(rounds: int, quick: bool) -> list[Row]:
    """Memory in one process a way, time in turns, sizes of the files."""
    sizes = {"backbone": "nano", "side": 64} if quick else {"backbone": "large", "side": 352}
    rows = []
    for way in WAYS:
        rows += under_allocators("benchmarks.training_memory:peak", {**sizes, "way": way}, quick)
    rows += under_allocators("benchmarks.training_memory:compare", {**sizes, "rounds": rounds}, quick)
    for backbone in ["nano"] if quick else ["tiny", "small", "base_plus", "large"]:
        arguments = {"backbone": backbone}
        rows.append(
            saved_sizes(backbone) if quick else fresh_process("benchmarks.training_memory:saved_sizes", arguments)
        )
    return rows


def peak(backbone: str, side: int, way: str) -> list[Row]:
    """Peak of resident memory during two optimiser steps, batch 1, above that of the loaded network."""
    import torch

    step, network = build_steps(backbone, side)[way]
    optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad])
    reset_peak()
    loaded = memory_mb("VmRSS")
    for _ in range(2):
        step()
        optimizer.step()
    grown = memory_mb("VmHWM") - loaded
    return [
        {
            "what": f"peak memory, {way}",
            "case": f"{backbone} {side}",
            "loaded_mb": round(loaded),
            "peak_growth_mb": round(grown),
        }
    ]


def compare(backbone: str, side: int, rounds: int) -> list[Row]:
    """Time the step against the published one, and without against with checkpointing; gradients must be equal.

    In float32 rounding is magnified on the way back through the blocks, to 1e-3 of the largest gradient, so equality
    is asserted in float64, on a small image.
    """
    exact = build_steps(backbone, min(side, 96), "float64")
    gradients = {way: step() for way, (step, _) in exact.items()}
    equalities = [check_equal(gradients[WAYS[0]], gradients[way], 1e-9) for way in WAYS[1:]]
    del exact, gradients
    steps = {way: step for way, (step, _) in build_steps(backbone, side).items()}
    rows = []
    for first, second, equality in zip(WAYS, WAYS[1:], equalities, strict=False):
        times = alternate(steps[first], steps[second], rounds)
        times["first_ms"], times["second_ms"] = times.pop("published_ms"), times.pop("ours_ms")
        rows.append({"what": f"step time, {first} / {second}", "case": f"{backbone} {side}", **times, **equality})
    return rows


def build_steps(
    backbone: str, side: int, precision: str = "float32"
) -> dict[str, tuple[Callable[[], list[Tensor]], nn.Module]]:
    """Build the forward and backward pass of each way, over one network; each returns the gradients."""
    import torch

    from benchmarks.published import build_pair
    from monai_ext.losses import StructureLoss

    dtype = getattr(torch, precision)
    published, network = (n.train().to(dtype) for n in build_pair(backbone))
    image, loss = torch.rand(1, 3, side, side, dtype=dtype), StructureLoss()
    target = (image[:, :1] > 0.5).to(dtype)

    def step(forward: nn.Module, use_checkpoint: bool) -> list[Tensor]:
        network.encoder.use_checkpoint = use_checkpoint  # type: ignore[union-attr]
        network.zero_grad()
        sum(loss(logits, target) for logits in forward(image)).backward()
        return [w.grad for w in network.parameters() if w.grad is not None]

    return {
        WAYS[0]: (lambda: step(published, False), network),
        WAYS[1]: (lambda: step(network, False), network),
        WAYS[2]: (lambda: step(network, True), network),
    }


def saved_sizes(backbone: str) -> Row:
    """Size of the whole state, of the file with what is trained, and of the adapters in it, in MB of 10^6 bytes."""
    from sam2_unet.network import SAM2UNet

    from monai_ext.networks.layers.trained_state import trained_state

    network = SAM2UNet(backbone=backbone)
    trained = trained_state(network)
    adapters = {name: weight for name, weight in trained.items() if "prompt_learn" in name}
    whole = sum(weight.numel() * weight.element_size() for weight in network.state_dict().values())
    return {
        "what": "size of files",
        "case": backbone,
        "whole_mb": round(whole / 1e6, 1),
        "trained_mb": _file_mb(trained),
        "adapters_mb": _file_mb(adapters),
    }


def _file_mb(state: dict[str, Tensor]) -> float:
    import torch

    file = io.BytesIO()
    torch.save(state, file)
    return round(len(file.getvalue()) / 1e6, 1)


if __name__ == "__main__":
    main("training_memory", __doc__, measure, rounds=3)

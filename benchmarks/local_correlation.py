# SPDX-License-Identifier: Apache-2.0
"""Correlation of two embeddings with 27 neighbours: unfolded (published) or by shifts in slabs (ours)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.harness import (
    ALLOCATORS,
    Row,
    alternate,
    check_equal,
    fresh_process,
    main,
    memory_mb,
    reset_peak,
    under_allocators,
)

if TYPE_CHECKING:
    from torch import Tensor

CASES = [((96, 80, 128), 128), ((192, 160, 256), 128)]  # the larger one takes 15 GB where it is unfolded
QUICK = [((16, 32, 48), 8)]


def measure(rounds: int, quick: bool) -> list[Row]:
    """Compare all sizes under both allocators; targets: a twentieth of the memory, no slower."""
    rows = []
    for size, channels in QUICK if quick else CASES:
        volume = {"size": size, "channels": channels}
        rows += under_allocators("benchmarks.local_correlation:compare", {**volume, "rounds": rounds}, quick)
        rows += [_memory(volume, allocator, quick) for allocator in (["default"] if quick else ALLOCATORS)]
    return rows


def compare(size: tuple[int, ...], channels: int, rounds: int) -> list[Row]:
    """Compare values and time."""
    fixed, moving = (_maps(size, channels, seed) for seed in (0, 1))
    equality = check_equal([published(fixed, moving)], [by_shifts(fixed, moving)], 1e-6)
    times = alternate(lambda: published(fixed, moving), lambda: by_shifts(fixed, moving), rounds, warm_up=False)
    return [{"case": _case(size, channels), **times, **equality}]


def peak_mb(function: str, size: tuple[int, ...], channels: int) -> float:
    """Peak of memory during one call beyond what was in use before, its result included."""
    run = {"published": published, "ours": by_shifts}[function]
    for sides in ([16] * 3, size):  # what the first call loads is not its memory
        fixed, moving = (_maps(tuple(sides), channels, seed) for seed in (0, 1))
        reset_peak()
        before = memory_mb("VmRSS")
        run(fixed, moving)
        taken = memory_mb("VmHWM") - before
    return max(taken, 0.0)


def by_shifts(fixed: dict[str, Tensor], moving: dict[str, Tensor]) -> Tensor:
    """Return what `published` returns."""
    from monai_ext.networks.layers.local_correlation import LocalCorrelation

    return LocalCorrelation(align_corners=True)(fixed, moving)


def published(fixed: dict[str, Tensor], moving: dict[str, Tensor]) -> Tensor:
    """Return local and resized global correlations, each from the unfolded moving embedding, multiplied in place."""
    import torch.nn.functional as F

    local, coarse = (_unfolded(fixed[name], moving[name]) for name in ("local", "global"))
    return local + F.interpolate(coarse, size=local.shape[2:], mode="trilinear", align_corners=True)


def _unfolded(fixed: Tensor, moving: Tensor) -> Tensor:
    import torch.nn.functional as F

    windows = F.pad(moving, (1,) * 6, mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    copies = windows.permute(0, 1, 5, 6, 7, 2, 3, 4).reshape(*fixed.shape[:2], 27, *fixed.shape[2:])
    return copies.mul_(fixed[:, :, None]).sum(dim=1)


def _maps(size: tuple[int, ...], channels: int, seed: int) -> dict[str, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    maps = {}
    for name, stride in (("local", (2, 2, 2)), ("global", (4, 16, 16))):
        cells = [side // step for side, step in zip(size, stride, strict=True)]
        maps[name] = torch.randn(1, channels, *cells, generator=generator)
        maps[name] /= maps[name].norm(dim=1, keepdim=True)
    return maps


def _memory(volume: dict[str, Any], allocator: str, quick: bool) -> Row:
    """Measure each side in a fresh process, since a heap keeps what was freed."""
    taken = {
        function: peak_mb(function, **volume)
        if quick
        else fresh_process("benchmarks.local_correlation:peak_mb", {"function": function, **volume}, allocator)
        for function in ("published", "ours")
    }
    row = {"allocator": "inherited" if quick else allocator, "case": _case(**volume)}
    row |= {f"{function}_mb": round(mb, 1) for function, mb in taken.items()}
    return {**row, "ratio": round(taken["published"] / max(taken["ours"], 0.1), 1)}


def _case(size: tuple[int, ...], channels: int) -> str:
    return f"{' x '.join(str(side) for side in size)}, {channels} channels"


if __name__ == "__main__":
    main("local_correlation", __doc__, measure, rounds=3)

# SPDX-License-Identifier: Apache-2.0
"""Embedding whole volumes in a memory budget, and a training step of the same network: layouts, bfloat16, what else."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row, alternate, check_equal, fresh_process, main, reset_peak, under_allocators
from benchmarks.harness import memory_mb as in_use

if TYPE_CHECKING:
    from torch import Tensor

    from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

PATCH_SPACING = 2.0


def measure(rounds: int, quick: bool) -> list[Row]:
    """Whole and tiled extraction by size and budget in a process each, then the training step."""
    network = {"base_channels": 8, "embedding_dim": 16} if quick else {"base_channels": 64, "embedding_dim": 128}
    head, torso = ((200, 40, 40), (216, 40, 40)) if quick else ((98, 116, 94), (300, 200, 200))
    budgets = {head: (None, 28) if quick else (None, 500), torso: (None, 28) if quick else (None, 4000, 2000)}
    rows = []
    for size, amounts in budgets.items():
        for budget in amounts:
            arguments = {"size": size, "memory_mb": budget, **network}
            rows += extract(**arguments) if quick else fresh_process("benchmarks.volume_extraction:extract", arguments)
    tiled = {"size": head, "memory_mb": budgets[head][1], "rounds": rounds, **network}
    rows += under_allocators("benchmarks.volume_extraction:tiled", tiled, quick)
    patch = {"size": (8, 32, 32) if quick else (32, 96, 96), "pairs": 2, "rounds": rounds, **network}
    rows += under_allocators("benchmarks.volume_extraction:step", patch, quick)
    return rows + under_allocators("benchmarks.volume_extraction:shares", patch, quick)


def extract(size: tuple[int, ...], memory_mb: float | None, base_channels: int, embedding_dim: int) -> list[Row]:
    """Time and peak memory of one volume, beyond the network and the volume."""
    import torch

    from monai_ext.inferers import VolumeEmbedder

    network, image = _network(base_channels, embedding_dim), torch.rand(1, *size)
    VolumeEmbedder()(image[:, :8, :16, :16], network)
    sides: list[tuple[int, ...]] = []
    network.register_forward_pre_hook(lambda _, inputs: sides.append(tuple(inputs[0].shape[2:])))
    reset_peak()
    before, start = in_use("VmRSS"), time.perf_counter()
    embedded = VolumeEmbedder(memory_mb=memory_mb)(image, network)
    seconds, peak = time.perf_counter() - start, in_use("VmHWM") - before
    passes = sides if memory_mb is None else sides[2:]  # the first two foretell the memory
    kept = sum(x.nbytes for x in (*embedded.fine, embedded.coarse)) / 1e6
    work = sum(prod(side) for side in passes) / prod(_padded(size))
    return [
        {
            "what": "extraction",
            "case": _case(size, base_channels),
            "memory_mb": "none" if memory_mb is None else memory_mb,
            "passes": len(passes),
            "work": round(work, 2),
            "seconds": round(seconds, 2),
            "peak_mb": round(peak - kept, 1),
            "embeddings_mb": round(kept, 1),
        }
    ]


def tiled(size: tuple[int, ...], memory_mb: float, base_channels: int, embedding_dim: int, rounds: int) -> list[Row]:
    """Whole against tiled extraction: equal, and what tiling costs."""
    import torch

    from monai_ext.inferers import VolumeEmbedder

    network, image = _network(base_channels, embedding_dim), torch.rand(1, *size)
    ways = [VolumeEmbedder(precision="float32", memory_mb=budget) for budget in (None, memory_mb)]
    whole, cut = (way(image, network) for way in ways)
    equality = check_equal([*whole.fine, whole.coarse], [*cut.fine, cut.coarse], 1e-4)
    times = alternate(lambda: ways[0](image, network), lambda: ways[1](image, network), rounds)
    return [
        {
            "what": "whole / tiled",
            "case": f"{_case(size, base_channels)}, {memory_mb:g} MB",
            **_named(times, "whole", "tiled"),
            **equality,
        }
    ]


def step(size: tuple[int, ...], pairs: int, base_channels: int, embedding_dim: int, rounds: int) -> list[Row]:
    """Forward and backward pass of the network: plain layout against channels last, and with bfloat16."""
    ways = {"plain": (False, False), "channels last": (True, False), "channels last, bfloat16": (True, True)}
    runs = {name: _step(_network(base_channels, embedding_dim), size, 2 * pairs, *way) for name, way in ways.items()}
    errors = _errors(base_channels, embedding_dim, ways)
    rows: list[Row] = []
    for name in list(ways)[1:]:
        times = _named(alternate(runs["plain"], runs[name], rounds), "plain", "ours")
        error = {"plain_error": errors["plain"], "our_error": errors[name]}
        case = f"{_case(size, base_channels)}, {pairs} pairs"
        rows.append({"what": f"training step, plain / {name}", "case": case, **times, **error})
    return rows


def _errors(base_channels: int, embedding_dim: int, ways: dict[str, tuple[bool, bool]]) -> Row:
    """How far the embeddings and gradients of small patches are from those in float64, as a share of these (median).

    Rounding is magnified on the way back, so both layouts are compared with the truth, not with each other.
    """
    small, found = (8, 32, 32), {}
    truth = _step(_network(base_channels, embedding_dim).double(), small, 2, False, False)()
    for name, way in ways.items():
        gradients = _step(_network(base_channels, embedding_dim), small, 2, *way)()
        parts = [(a - b).double().norm() / a.norm() for a, b in zip(truth, gradients, strict=True)]
        found[name] = float(f"{median(float(part) for part in parts):.3g}")
    assert max(found["plain"], found["channels last"]) < 1e-4, f"more than rounding: {found}"
    return found


def shares(size: tuple[int, ...], pairs: int, base_channels: int, embedding_dim: int, rounds: int) -> list[Row]:
    """How a training step's time is shared out between cutting patches, the network, and the loss."""
    import torch

    from monai_ext.losses import PatchPairInfoNCE

    network, objective = _network(base_channels, embedding_dim).train(), PatchPairInfoNCE()
    batch = _sampler(size)(pairs)
    image = batch["image"].to(memory_format=torch.channels_last_3d)
    places = {"affine": batch["affine"], "body": batch["body"]}
    outputs = {name: x.detach() for name, x in network(image).items()}

    def run_network() -> None:
        network.zero_grad()
        found = network(image)
        torch.autograd.backward(list(found.values()), [outputs[name] for name in found])

    def run_loss() -> None:
        objective({name: x.requires_grad_() for name, x in outputs.items()}, places).backward()

    sampler = _sampler(size)
    parts: dict[str, Callable[[], Any]] = {
        "cutting": partial(sampler, pairs),
        "network": run_network,
        "loss": run_loss,
    }
    taken = {name: _median_ms(run, rounds) for name, run in parts.items()}
    outside = 100 * (1 - taken["network"] / sum(taken.values()))
    return [
        {
            "what": "training step, shares",
            "case": f"{_case(size, base_channels)}, {pairs} pairs",
            **{f"{name}_ms": round(ms, 1) for name, ms in taken.items()},
            "outside_percent": round(outside, 1),
            "target_percent": 25,
        }
    ]


def _step(
    network: ResNetFPN3d, size: tuple[int, ...], patches: int, channels_last: bool, amp: bool
) -> Callable[[], list[Tensor]]:
    """Build a forward and backward pass, which returns what the network gave and the gradients."""
    import torch

    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    weight = next(network.parameters())
    image = torch.rand(patches, 1, *size, generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    image = image.to(memory_format=layout)
    network = network.train().to(memory_format=layout)

    def run() -> list[Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            found = network(image)
        generator = torch.Generator().manual_seed(2)
        directions = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in found.values()]
        torch.autograd.backward(list(found.values()), directions)
        return [*(x.detach() for x in found.values()), *(w.grad for w in network.parameters() if w.grad is not None)]

    return run


def _sampler(size: tuple[int, ...]) -> Callable[[int], dict[str, Any]]:
    """Return what cuts a number of pairs out of a scan twice as large as a patch."""
    import torch
    from monai.data import MetaTensor, list_data_collate

    from monai_ext.transforms import RandOverlapPatchPaird

    affine = torch.diag(torch.tensor([PATCH_SPACING] * 3 + [1.0]))
    scan = {"image": MetaTensor(torch.rand(1, *(2 * side for side in size)), affine=affine)}
    cut = RandOverlapPatchPaird(["image"], size, PATCH_SPACING, overlap_prob=1.0).set_random_state(0)

    def sample(pairs: int) -> dict[str, Any]:
        batch = list_data_collate([patch for _ in range(pairs) for patch in cut(scan)])
        return {"image": batch["image"].as_tensor(), "affine": batch["affine"], "body": batch["body"]}

    return sample


def _median_ms(run: Callable[[], Any], rounds: int) -> float:
    run()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return median(taken)


def _network(base_channels: int, embedding_dim: int) -> ResNetFPN3d:
    import torch

    from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

    torch.manual_seed(0)
    return ResNetFPN3d(base_channels=base_channels, embedding_dim=embedding_dim)


def _padded(size: tuple[int, ...]) -> tuple[int, ...]:
    from monai_ext.networks.nets.resnet_fpn import GLOBAL_STRIDE

    return tuple(-(-side // stride) * stride for side, stride in zip(size, GLOBAL_STRIDE, strict=True))


def _named(times: Row, first: str, second: str) -> Row:
    """Call the two contenders what they are."""
    return {
        "rounds": times["rounds"],
        f"{first}_ms": times["published_ms"],
        f"{second}_ms": times["ours_ms"],
        **{name: value for name, value in times.items() if name.startswith("ratio")},
    }


def _case(size: tuple[int, ...], base_channels: int) -> str:
    return f"{' x '.join(str(side) for side in size)}, {base_channels} base channels"


if __name__ == "__main__":
    main("volume_extraction", __doc__, measure, rounds=3)

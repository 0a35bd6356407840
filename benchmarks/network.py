# SPDX-License-Identifier: Apache-2.0
"""Whole SAM2-UNet at inference: the published forward pass against ours."""

from __future__ import annotations

from benchmarks.harness import Row, alternate, check_equal, main, under_allocators

CASES = [("large", 352, "fp32", 1.2, 1.0), ("large", 352, "bf16", 1.2, 1.0), ("tiny", 352, "fp32", 1.0, 2.0)]
QUICK = [("nano", 96, "fp32", 0.0, 1.0)]


def measure(rounds: int, quick: bool) -> list[Row]:
    """Compare all cases, each in a process of its own, under both allocators."""
    rows = []
    for backbone, side, precision, target, share in QUICK if quick else CASES:
        arguments = {"backbone": backbone, "side": side, "precision": precision}
        arguments |= {"rounds": max(1, round(rounds * share)), "target": target}
        rows += under_allocators("benchmarks.network:compare", arguments, quick)
    return rows


def compare(backbone: str, side: int, precision: str, rounds: int, target: float) -> list[Row]:
    """Compare the main output, and the time of all that either computes for it."""
    import torch

    from benchmarks.published import build_pair

    published, ours = (network.eval() for network in build_pair(backbone))
    image = torch.rand(1, 3, side, side)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        tolerance = 3e-2 if precision == "bf16" else 1e-5
        equality = check_equal([published(image)[0]], [ours(image)], tolerance)
        times = alternate(lambda: published(image)[0], lambda: ours(image), rounds)
    return [{"network": f"{backbone} {side} {precision}", **times, "target": target, **equality}]


if __name__ == "__main__":
    main("network", __doc__, measure, rounds=8)

# SPDX-License-Identifier: Apache-2.0
"""The Hiera trunk of the sam2 package against ours, at sizes with and without window padding."""

from __future__ import annotations

from benchmarks.harness import Row, alternate, check_equal, main, under_allocators

# backbone, side, precision, ratio to reach, rounds compared with those asked for
CASES = [
    ("large", 352, "fp32", 1.2, 1.0),
    ("large", 352, "bf16", 1.2, 1.0),
    ("large", 256, "fp32", 0.97, 1.0),
    ("large", 512, "fp32", 0.97, 0.5),
    ("tiny", 256, "fp32", 1.12, 4.0),
    ("tiny", 224, "fp32", 0.97, 4.0),
    ("tiny", 448, "fp32", 0.97, 2.0),
]
QUICK = [("nano", 96, "fp32", 0.0, 1.0), ("nano", 96, "bf16", 0.0, 1.0), ("nano", 224, "fp32", 0.0, 1.0)]


def measure(rounds: int, quick: bool) -> list[Row]:
    """Compare all cases, each in a process of its own, under both allocators."""
    rows = []
    for backbone, side, precision, target, share in QUICK if quick else CASES:
        arguments = {"backbone": backbone, "side": side, "precision": precision}
        arguments |= {"rounds": max(1, round(rounds * share)), "target": target}
        rows += under_allocators("benchmarks.trunk:compare", arguments, quick)
    return rows


def compare(backbone: str, side: int, precision: str, rounds: int, target: float) -> list[Row]:
    """Compare the two trunks, which share their weights, on one random image."""
    import torch

    from monai_ext.networks.nets.hiera import HieraEncoder, build_sam2_trunk

    torch.manual_seed(0)
    published = build_sam2_trunk(backbone).eval()
    ours = HieraEncoder(published).eval()
    image = torch.randn(1, 3, side, side)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        # bfloat16 rounds to 3 digits, and other summation orders round elsewhere
        tolerance = 3e-2 if precision == "bf16" else 1e-5
        equality = check_equal(published(image), ours(image), tolerance)
        times = alternate(lambda: published(image), lambda: ours(image), rounds)
    return [{"trunk": f"{backbone} {side} {precision}", **times, "target": target, **equality}]


if __name__ == "__main__":
    main("trunk", __doc__, measure, rounds=8)

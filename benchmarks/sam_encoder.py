# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's image encoder: the package's against ours, time in turns and memory in separate processes."""

from __future__ import annotations

from benchmarks.harness import Row, alternate, check_equal, main, memory_mb, reset_peak, under_allocators

# type, side, precision, ratio to reach (default allocator, pinned), rounds compared with those asked for
CASES = [
    ("vit_b", 1024, "fp32", (1.6, 1.0), 1.0),
    ("vit_b", 1024, "bf16", (1.4, 1.0), 1.0),
    ("vit_b", 512, "fp32", (1.3, 1.1), 3.0),
    ("vit_b", 512, "bf16", (1.0, 1.0), 3.0),
]
QUICK = [("vit_tiny", 96, "fp32", (0.0, 0.0), 1.0), ("vit_tiny", 64, "bf16", (0.0, 0.0), 1.0)]


def measure(rounds: int, quick: bool) -> list[Row]:
    """Time of all cases, then their memory, each in a process of its own, under both allocators."""
    rows = []
    cases = QUICK if quick else CASES
    for sam_type, side, precision, targets, share in cases:
        arguments = {"sam_type": sam_type, "side": side, "precision": precision}
        arguments |= {"rounds": max(1, round(rounds * share)), "targets": targets}
        rows += under_allocators("benchmarks.sam_encoder:compare", arguments, quick)
    for sam_type, side, precision, _, _ in cases:
        for way in ("published", "ours"):
            arguments = {"sam_type": sam_type, "side": side, "precision": precision, "way": way}
            rows += under_allocators("benchmarks.sam_encoder:peak", arguments, quick)
    return rows


def compare(sam_type: str, side: int, precision: str, rounds: int, targets: tuple[float, float]) -> list[Row]:
    """Compare the two encoders, which share their weights, on one random image."""
    import torch

    from benchmarks.published import build_sam_encoders

    published, ours = build_sam_encoders(sam_type, side)
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        exact = published(image)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            low = [published(image).float(), ours(image).float()]
            times = alternate(lambda: published(image), lambda: ours(image), rounds)
    if precision == "fp32":
        equality = check_equal([exact], [low[1]], 1e-4 / exact.abs().max().item())
    else:  # bfloat16 rounds to 3 digits: ours must not be farther from float32 than the package's own
        errors = [((x - exact).norm() / exact.norm()).item() for x in low]
        assert errors[1] <= 1.1 * errors[0], f"error {errors[1]:.3g} in bfloat16, the package's own {errors[0]:.3g}"
        equality = {"published_error": float(f"{errors[0]:.3g}"), "ours_error": float(f"{errors[1]:.3g}")}
    return [
        {
            "encoder": f"{sam_type} {side} {precision}",
            **times,
            "target_default": targets[0],
            "target_pinned": targets[1],
            **equality,
        }
    ]


def peak(sam_type: str, side: int, precision: str, way: str) -> list[Row]:
    """Peak of resident memory while encoding one image, above that of the loaded encoder."""
    import torch

    from benchmarks.published import build_sam_encoders

    published, ours = build_sam_encoders(sam_type, side)
    encoder, image = (published if way == "published" else ours), torch.randn(1, 3, side, side)
    reset_peak()
    loaded = memory_mb("VmRSS")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        encoder(image)
    return [
        {
            "memory": f"{sam_type} {side} {precision}, {way}",
            "loaded_mb": round(loaded),
            "working_set_mb": round(memory_mb("VmHWM") - loaded),
        }
    ]


if __name__ == "__main__":
    main("sam_encoder", __doc__, measure, rounds=4)

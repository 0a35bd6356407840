# SPDX-License-Identifier: Apache-2.0
"""Whole volumes: peak memory for N and 2 N slices, and slices per second against one slice after the other."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import ROOT, Row, alternate, check_equal, fresh_process, main, memory_mb, under_allocators

if TYPE_CHECKING:
    from sam2_unet.network import SAM2UNet
    from torch import Tensor

BUNDLE = ROOT / "bundles" / "sam2_unet"


def measure(rounds: int, quick: bool) -> list[Row]:
    """Memory of the inferer and of the whole bundle, then speed."""
    sizes = {"backbone": "nano", "side": 64} if quick else {"backbone": "tiny", "side": 256}
    rows = []
    for function in ("infer", "run_bundle"):
        for allocator in ("default",) if quick else ("default", "pinned"):
            rows += double(f"benchmarks.volume:{function}", sizes, 8 if quick else 64, allocator)
    speed = {**sizes, "slices": 8 if quick else 16, "rounds": rounds}
    return [*rows, *under_allocators("benchmarks.volume:compare", speed, quick)]


def double(function: str, sizes: Row, slices: int, allocator: str) -> list[Row]:
    """Measure N and 2 N slices in two processes."""
    rows = [fresh_process(function, {**sizes, "slices": n}, allocator) for n in (slices, 2 * slices)]
    growth = round(100 * (rows[1]["peak_mb"] / rows[0]["peak_mb"] - 1), 1)
    return [
        {"allocator": allocator, **row, "growth_percent": percent, "target_percent": 10}
        for row, percent in zip(rows, ("", growth), strict=True)
    ]


def infer(backbone: str, side: int, slices: int) -> Row:
    """Peak memory of a process that holds a volume and segments it."""
    import torch

    from monai_ext.inferers import SliceWiseInferer

    network, volume = _network(backbone), torch.rand(1, 1, side, side, slices)
    before, start = memory_mb("VmRSS"), time.perf_counter()
    SliceWiseInferer(batch_size=8)(volume, network)
    seconds = time.perf_counter() - start
    return {
        "what": "SliceWiseInferer",
        "case": f"{backbone} {side} x {side} x {slices}",
        "volume_mb": round(volume.numel() * 4 / 1e6, 1),
        "before_mb": round(before),
        "peak_mb": round(memory_mb("VmHWM")),
        "slices_per_second": round(slices / seconds, 2),
    }


def run_bundle(backbone: str, side: int, slices: int) -> Row:
    """Peak memory of a process that runs the bundle's inference.json on a NIfTI file."""
    import nibabel as nib
    import numpy as np
    import torch
    from monai.bundle import run

    with tempfile.TemporaryDirectory() as folder:
        torch.save(_network(backbone).state_dict(), f"{folder}/model.pt")
        voxels = np.random.default_rng(0).integers(0, 1000, (side, side, slices), dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), f"{folder}/scan.nii.gz")
        before, start = memory_mb("VmRSS"), time.perf_counter()
        run(
            run_id="inferring",
            config_file=str(BUNDLE / "configs" / "inference.json"),
            bundle_root=str(BUNDLE),
            logging_file=False,  # type: ignore[arg-type]
            dataset_dir=folder,
            output_dir=folder,
            ckpt_path=f"{folder}/model.pt",
            backbone=backbone,
            image_size=side,
            device="cpu",
        )
        seconds = time.perf_counter() - start
        written = list(Path(folder, "predictions").rglob("*.nii.gz"))
        assert len(written) == 1, f"expected one label map, found {len(written)}"
        assert nib.Nifti1Image.from_filename(written[0]).shape == (side, side, slices)
    return {
        "what": "inference.json",
        "case": f"{backbone} {side} x {side} x {slices}",
        "volume_mb": round(4 * side * side * slices / 1e6, 1),
        "before_mb": round(before),
        "peak_mb": round(memory_mb("VmHWM")),
        "slices_per_second": round(slices / seconds, 2),
    }


def compare(backbone: str, side: int, slices: int, rounds: int) -> list[Row]:
    """Slices per second of the inferer, and of a loop over slices that is written by hand."""
    import torch

    from monai_ext.inferers import SliceWiseInferer

    network, volume = _network(backbone), torch.rand(1, 1, side, side, slices)
    rows = []
    for batch_size in (1, 8):
        inferer = SliceWiseInferer(batch_size=batch_size, output="probabilities")
        with torch.no_grad():
            equality = check_equal([_loop(volume, network)], [inferer(volume, network)], 1e-5)
            times = alternate(lambda: _loop(volume, network), lambda: inferer(volume, network), rounds)  # noqa: B023
        rates = {
            "loop_slices_per_second": round(1000 * slices / times.pop("published_ms"), 2),
            "slices_per_second": round(1000 * slices / times.pop("ours_ms"), 2),
        }
        rows.append(
            {
                "what": f"loop / inferer, batch_size {batch_size}",
                "case": f"{backbone} {side}",
                **rates,
                **times,
                **equality,
            }
        )
    return rows


def _loop(volume: Tensor, network: SAM2UNet) -> Tensor:
    """Segment axial slices one by one, first row of each the front of the body, as the inferer does."""
    import torch

    found = [network(volume[..., z].transpose(2, 3).flip(2, 3)).sigmoid() for z in range(volume.shape[-1])]
    return torch.stack([x.flip(2, 3).transpose(2, 3) for x in found], dim=-1)


def _network(backbone: str) -> SAM2UNet:
    import torch
    from sam2_unet.network import SAM2UNet

    torch.manual_seed(0)
    return SAM2UNet(in_channels=1, backbone=backbone).eval()


if __name__ == "__main__":
    main("volume", __doc__, measure, rounds=5)

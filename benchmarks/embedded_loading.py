# SPDX-License-Identifier: Apache-2.0
"""A data loader over stored features: slices per second by number of workers, and memory over the epochs."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row, fresh_process, main

if TYPE_CHECKING:
    from torch import nn

    from monai_ext.data import EmbeddedSliceDataset

WORKERS = (0, 1, 2)
EPOCHS = 3


def measure(rounds: int, quick: bool) -> list[Row]:
    """A process for each number of workers; ``rounds`` is the number of epochs whose time counts."""
    sizes = {"sam_type": "vit_tiny", "image_size": 64} if quick else {"sam_type": "vit_b", "image_size": 1024}
    rows = []
    for workers in WORKERS:
        arguments: Row = {**sizes, "slices": 8 if quick else 32, "batch_size": 2 if quick else 8}
        arguments |= {"workers": workers, "epochs": max(EPOCHS, rounds + 1)}
        rows.append(load(**arguments) if quick else fresh_process("benchmarks.embedded_loading:load", arguments))
    return rows


def load(sam_type: str, image_size: int, slices: int, batch_size: int, workers: int, epochs: int) -> Row:
    """Run through the data loader as a trainer does, but for the network, which is not there.

    The first epoch, in which each slice is compared with its checksum, is told apart. The features are random numbers
    of the encoder's shapes. What is held is measured in the last batch of each epoch, workers included.
    """
    from monai.data import DataLoader

    from monai_ext.data import EpochSampler

    with tempfile.TemporaryDirectory() as folder:
        dataset = _build_dataset(sam_type, image_size, slices, Path(folder))
        sampler = EpochSampler(dataset)
        loader = DataLoader(dataset, sampler=sampler, batch_size=batch_size, num_workers=workers)
        sampler.set_epoch(0)  # computes the features
        seconds, held = [], []
        for epoch in range(1, epochs + 1):
            sampler.set_epoch(epoch)
            start, seen = time.perf_counter(), 0
            for number, batch in enumerate(loader, start=1):
                seen += len(batch["image"])
                if number == len(loader):
                    held.append(_held_mb())
            seconds.append(time.perf_counter() - start)
            assert seen == slices, f"{seen} of {slices} slices came"
        megabytes = batch["image"].nbytes / len(batch["image"]) / 1e6
    return {
        "data loader": f"{workers} workers",
        "case": f"{sam_type} {image_size}, {slices} slices, batches of {batch_size}",
        "slice_mb": round(megabytes, 2),
        "first_epoch_slices_per_second": round(slices / seconds[0], 1),
        "slices_per_second": round(slices / min(seconds[1:]), 1),
        "held_mb_first_epoch": round(held[0], 1),
        f"held_mb_epoch_{epochs}": round(held[-1], 1),
        "growth_percent": round(100 * (held[-1] / held[0] - 1), 1),
        "target_percent": 10,
    }


def _build_dataset(sam_type: str, image_size: int, slices: int, folder: Path) -> EmbeddedSliceDataset:
    import nibabel as nib
    import numpy as np

    from monai_ext.data import EmbeddedSliceDataset
    from monai_ext.transforms import LoadScand, RandPointPromptd

    side, item = image_size // 4, {"case": "scan"}
    label = np.zeros((side, side, slices), dtype=np.uint8)
    label[side // 4 : side // 2, side // 4 : side // 2] = 1
    for key, voxels in (("image", label.astype(np.float32)), ("label", label)):
        item[key] = str(folder / f"{key}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), item[key])
    return EmbeddedSliceDataset(
        [item],
        LoadScand(keys=["image", "label"]),
        RandPointPromptd(keys=["label"]),
        cache_dir=folder / "cache",
        network=_random_encoder(sam_type, image_size),
        embedding_cache="disk",
        embedding_dir=folder / "embeddings",
    )


def _random_encoder(sam_type: str, image_size: int) -> nn.Module:
    """Build a network that says of itself what DeSAM does, and whose features are random numbers."""
    from types import SimpleNamespace

    import torch
    from desam.network import DeSAM

    class RandomEncoder(DeSAM):
        def encoder_state(self) -> dict[str, torch.Tensor]:
            return {}

        def embed(self, image: torch.Tensor, inner: torch.Tensor | None = None) -> Any:
            shapes = list(self.embedding_shapes.values())
            return SimpleNamespace(features=torch.randn(len(image), sum(s[0] for s in shapes), *shapes[0][1:]))

    with torch.device("meta"):
        network = RandomEncoder(in_channels=1, sam_type=sam_type, image_size=image_size)
    return network.to_empty(device="cpu")


def _held_mb() -> float:
    """Memory of this process and its workers that is not a file's, in MB of 10^6 bytes; what they share counts once."""
    total = 0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total * 1024 / 1e6


if __name__ == "__main__":
    main("embedded_loading", __doc__, measure, rounds=2)

# SPDX-License-Identifier: Apache-2.0
"""Training DeSAM's decoder from stored features against the encoder in the loop: time, memory, and the same losses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.harness import Row, alternate, fresh_process, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    from desam.network import DeSAM
    from torch import Tensor

WAYS = ("encoder in the loop", "store")
TOLERANCES = {"float32": 1e-4, "float16": 1e-2}  # of each loss
STEPS = 20
Step = Callable[[list[int]], float]


class Slices(NamedTuple):
    """What is trained on: images (N, 1, S, S), labels (N, 1, S / 4, S / 4) and a point on or off each object."""

    images: Tensor
    labels: Tensor
    points: Tensor


def measure(rounds: int, quick: bool) -> list[Row]:
    """Time in turns, memory in a process a way, losses over 20 steps.

    The features are computed beforehand, in a process of their own.
    """
    sizes: Row = {"sam_type": "vit_tiny", "image_size": 64} if quick else {"sam_type": "vit_b", "image_size": 1024}
    smaller = sizes if quick else {**sizes, "image_size": 256}
    with tempfile.TemporaryDirectory() as folder:
        large: Row = {**sizes, "slices": 2, "folder": folder}
        fill(**large) if quick else fresh_process("benchmarks.desam_training:fill", large)
        rows = under_allocators("benchmarks.desam_training:compare", {**large, "rounds": rounds}, quick)
        for way in WAYS:
            rows += under_allocators("benchmarks.desam_training:peak", {**large, "way": way}, quick)
    for precision in TOLERANCES:
        arguments = {**smaller, "precision": precision}
        name = "benchmarks.desam_training:losses"
        rows.append(losses(**arguments) if quick else fresh_process(name, arguments))
    return rows


def fill(sam_type: str, image_size: int, slices: int, folder: str, precision: str = "float16") -> Row:
    """Compute the features of all slices unless they are there."""
    from monai_ext.data.volume_embeddings import VolumeEmbeddings

    stack = build_slices(image_size, slices).images
    embeddings = VolumeEmbeddings(build_network(sam_type, image_size), folder, batch_size=1, precision=precision)
    embeddings.compute(stack, embeddings.key(stack))
    return {"bytes": embeddings.store.size()}


def compare(sam_type: str, image_size: int, slices: int, folder: str, rounds: int) -> list[Row]:
    """Time an epoch, batch 1: forward, backward and the optimiser's step for each slice."""
    ways = [build_step(way, sam_type, image_size, slices, folder) for way in WAYS]
    epochs = [lambda step=step: [step([index]) for index in range(slices)] for step in ways]
    times = alternate(epochs[0], epochs[1], rounds)
    named = {"loop_ms": times.pop("published_ms"), "store_ms": times.pop("ours_ms")}
    case = f"{sam_type} {image_size}, {slices} slices"
    return [{"epoch": " / ".join(WAYS), "case": case, **named, **times, "target": None}]


def peak(sam_type: str, image_size: int, slices: int, folder: str, way: str) -> list[Row]:
    """Peak of resident memory during two steps, batch 1, above that of the loaded network."""
    step = build_step(way, sam_type, image_size, slices, folder)
    reset_peak()
    loaded = memory_mb("VmRSS")
    for index in range(2):
        step([index])
    grown = memory_mb("VmHWM") - loaded
    case = f"{sam_type} {image_size}"
    return [
        {
            "memory of a step": way,
            "case": case,
            "loaded_mb": round(loaded),
            "working_set_mb": round(grown),
            "target": None,
        }
    ]


def losses(sam_type: str, image_size: int, precision: str) -> Row:
    """Train twice from the same weights, batch 4, and compare the loss of each step.

    Raises:
        AssertionError: a loss differs by more than the precision allows, or nothing was learned.
    """
    slices = 4
    with tempfile.TemporaryDirectory() as folder:
        fill(sam_type, image_size, slices, folder, precision)
        found = []
        for way in WAYS:
            step = build_step(way, sam_type, image_size, slices, folder, precision)
            found.append([step(list(range(slices))) for _ in range(STEPS)])
    difference = max(abs(a - b) for a, b in zip(*found, strict=True))
    tolerance = TOLERANCES[precision]
    assert difference <= tolerance, f"losses from {precision} differ by {difference:.3g}, allowed is {tolerance}"
    first, last = found[0][0], found[0][-1]
    assert last < first, f"the loss went from {first:.4f} to {last:.4f}, so equal losses say little"
    return {
        "losses": f"{WAYS[0]} / {WAYS[1]} in {precision}",
        "case": f"{sam_type} {image_size}",
        "steps": STEPS,
        "first_loss": round(first, 4),
        "last_loss": round(last, 4),
        "max_difference": float(f"{difference:.3g}"),
        "target": tolerance,
    }


def build_step(way: str, sam_type: str, image_size: int, slices: int, folder: str, precision: str = "float16") -> Step:
    """Build a training step of one way, always from the same weights: from the indices of a batch to its loss."""
    import torch

    from monai_ext.data.volume_embeddings import VolumeEmbeddings
    from monai_ext.losses import DecoupledMaskLoss

    network, given = build_network(sam_type, image_size), build_slices(image_size, slices)
    embeddings = VolumeEmbeddings(network, folder, batch_size=1, precision=precision)
    reader = embeddings.reader(embeddings.key(given.images))
    loss_function = DecoupledMaskLoss()
    optimizer = torch.optim.Adam([w for w in network.parameters() if w.requires_grad], lr=1e-4)
    network.train()

    def step(batch: list[int]) -> float:
        stored = way == "store"
        seen = embeddings.features(reader, batch) if stored else given.images[batch]
        loss = loss_function(network(seen, given.points[batch], embedded=stored), given.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def build_network(sam_type: str, image_size: int) -> DeSAM:
    """Build the network, whose encoder is frozen, with random weights that are always the same."""
    import torch
    from desam.network import DeSAM

    torch.manual_seed(0)
    return DeSAM(in_channels=1, sam_type=sam_type, image_size=image_size)


def build_slices(image_size: int, slices: int) -> Slices:
    """Draw smooth images, in which the object is where they are bright."""
    import torch
    import torch.nn.functional as F

    coarse = torch.rand(slices, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images = F.interpolate(coarse, size=(image_size, image_size), mode="bicubic").clamp(0, 1)
    labels = (F.avg_pool2d(images, 4) > 0.6).float()
    side = labels.shape[-1]
    points = []
    for number, label in enumerate(labels[:, 0]):
        places = (label == number % 2).nonzero()  # beside and on the object in turns
        points.append(places[len(places) // 2].flip(0) if len(places) else torch.tensor([side // 2, side // 2]))
    return Slices(images, labels, torch.stack(points).float())


if __name__ == "__main__":
    main("desam_training", __doc__, measure, rounds=1)

# SPDX-License-Identifier: Apache-2.0
"""Compares what exported files compute with the network itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from monai_ext.files import sha256_of
from monai_ext.shipping.export_files import quiet


def parity_of(
    path: Path, image: Tensor, expected: Tensor, tolerance: float, other: tuple[Tensor, Tensor] | None = None
) -> dict[str, object]:
    """Run an exported file on ``image`` and compare its logits with ``expected``.

    Args:
        path: a TorchScript (``.ts``) or ONNX (``.onnx``) file.
        image: (1, C, H, W).
        expected: logits of the network, (1, num_classes, H, W).
        tolerance: largest difference allowed, as a part of the largest logit if that exceeds 1: float32 has seven
            digits, so another order of additions changes large logits by more.
        other: an image of another size and its logits, for a file whose sizes are free.

    Returns:
        file, sha256, max_abs_difference, largest_logit, dice (between the label maps of both), passed; with ``other``
        also other_size and other_max_abs_difference.
    """
    logits = _run(path, image)
    difference, largest = _difference(logits, expected), float(expected.abs().max())
    passed = difference <= tolerance * max(1.0, largest)  # False for NaN too
    record: dict[str, object] = {
        "file": path.name,
        "sha256": sha256_of(path),
        "max_abs_difference": difference,
        "largest_logit": largest,
        "dice": label_dice(to_labels(logits), to_labels(expected)) if logits.shape == expected.shape else 0.0,
    }
    if other is not None:
        second = _difference(_run(path, other[0]), other[1])
        passed = passed and second <= tolerance * max(1.0, float(other[1].abs().max()))
        record |= {"other_size": "x".join(map(str, other[0].shape)), "other_max_abs_difference": second}
    return {**record, "passed": passed}


def run_torchscript(path: Path, image: Tensor) -> Tensor:
    """Return the logits of a TorchScript file."""
    with torch.no_grad(), quiet():
        return torch.jit.load(str(path), map_location="cpu")(image)


def run_onnx(path: Path, image: Tensor) -> Tensor:
    """Return the logits of an ONNX file, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])


def to_labels(logits: Tensor) -> Tensor:
    """Turn logits (B, C, ...) into label maps (B, ...): 0.5 for one channel, the largest of several."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def label_dice(labels: Tensor, others: Tensor) -> float:
    """Return the mean Dice over the foreground classes that either map has; 1 if neither has any.

    Example:
        >>> label_dice(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0]))
        0.6666666666666666
    """
    classes = [int(c) for c in torch.cat([labels.flatten(), others.flatten()]).unique() if c > 0]
    scores = []
    for index in classes:
        first, second = labels == index, others == index
        scores.append(2 * int((first & second).sum()) / (int(first.sum()) + int(second.sum())))
    return sum(scores) / len(scores) if scores else 1.0


def _run(path: Path, image: Tensor) -> Tensor:
    return run_onnx(path, image) if path.suffix == ".onnx" else run_torchscript(path, image)


def _difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max()) if logits.shape == expected.shape else float("inf")

# SPDX-License-Identifier: Apache-2.0
"""Compares what exported files compute with the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.files import sha256_of
from monai_ext.shipping.export_files import quiet
from monai_ext.shipping.outputs import named_outputs

Outputs = Tensor | Mapping[str, Tensor] | tuple[Tensor, ...]


def parity_of(
    path: Path,
    image: Tensor,
    expected: Outputs,
    tolerance: float,
    other: tuple[Tensor, Outputs] | None = None,
    segments: bool = True,
) -> dict[str, object]:
    """Run an exported file on ``image`` and compare its outputs with ``expected``.

    Args:
        path: a TorchScript (``.ts``) or ONNX (``.onnx``) file.
        image: (1, C, H, W) or (1, C, D, H, W).
        expected: outputs of the network, such as logits (1, num_classes, H, W).
        tolerance: largest difference allowed, as a part of the largest logit if that exceeds 1: float32 has seven
            digits, so another order of additions changes large logits by more.
        other: an image of another size and its outputs, for a file whose sizes are free.
        segments: whether the first output are logits of label maps; else they are vectors along the channels.

    Returns:
        file, sha256, max_abs_difference, largest_logit (of all outputs), passed, and dice (between the label maps of
        both), or smallest_cosine (between vectors at one place); with ``other`` also other_size and
        other_max_abs_difference.
    """
    found, wanted = _run(path, image), list(named_outputs(expected).values())
    difference, largest = _difference(found, wanted), _largest(wanted)
    passed = difference <= tolerance * max(1.0, largest)  # False for NaN too
    record: dict[str, object] = {
        "file": path.name,
        "sha256": sha256_of(path),
        "max_abs_difference": difference,
        "largest_logit": largest,
        **_agreement(found, wanted, segments),
    }
    if other is not None:
        wanted = list(named_outputs(other[1]).values())
        second = _difference(_run(path, other[0]), wanted)
        passed = passed and second <= tolerance * max(1.0, _largest(wanted))
        record |= {"other_size": "x".join(map(str, other[0].shape)), "other_max_abs_difference": second}
    return {**record, "passed": passed}


def run_torchscript(path: Path, image: Tensor) -> Outputs:
    """Return the output of a TorchScript file, or all of them."""
    with torch.no_grad(), quiet():
        return torch.jit.load(str(path), map_location="cpu")(image)


def run_onnx(path: Path, image: Tensor) -> Outputs:
    """Return the output of an ONNX file, or all of them, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return torch.from_numpy(found[0]) if len(found) == 1 else tuple(torch.from_numpy(array) for array in found)


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


def _run(path: Path, image: Tensor) -> list[Tensor]:
    found = run_onnx(path, image) if path.suffix == ".onnx" else run_torchscript(path, image)
    return list(named_outputs(found).values())


def _fit(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return [x.shape for x in found] == [x.shape for x in wanted]


def _difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    if not _fit(found, wanted):
        return float("inf")
    # torch's maximum keeps NaN
    return float(torch.stack([(x - y).abs().max() for x, y in zip(found, wanted, strict=True)]).max())


def _largest(outputs: list[Tensor]) -> float:
    return float(torch.stack([x.abs().max() for x in outputs]).max())


def _agreement(found: list[Tensor], wanted: list[Tensor], segments: bool) -> dict[str, object]:
    if segments:
        fit = _fit(found[:1], wanted[:1])
        return {"dice": label_dice(to_labels(found[0]), to_labels(wanted[0])) if fit else 0.0}
    if not _fit(found, wanted):
        return {"smallest_cosine": -1.0}
    cosines = [F.cosine_similarity(x.double(), y.double(), dim=1).min() for x, y in zip(found, wanted, strict=True)]
    return {"smallest_cosine": float(torch.stack(cosines).min())}

# SPDX-License-Identifier: Apache-2.0
"""Writes a network that stands on Segment Anything as plain Segment Anything, and proves that it is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.files import atomic_write, sha256_of
from monai_ext.networks.checkpoints import import_sam, read_state, resize_plain_sam
from monai_ext.networks.nets.sam import PUBLISHED_TOKENS, build_plain_sam, check_image_size

PUBLISHED_SIZE = 1024


@runtime_checkable
class HasPlainSam(Protocol):
    """A network whose weights, with everything merged, are those of plain Segment Anything."""

    image_encoder: nn.Module

    def plain_sam_state(self) -> dict[str, Tensor]:
        """Return merged weights under plain Segment Anything's names."""
        ...


def require_plain(network: nn.Module, option: str) -> None:
    """Check before any work that a network has a plain form; ``option`` is what the user asked for it with.

    Raises:
        InputError: it has none.
    """
    if not isinstance(network, HasPlainSam):
        raise InputError(f"{option}: {type(network).__name__} does not stand on Segment Anything; leave it out.")


def require_plain_size(network: nn.Module, image_size: int | None) -> None:
    """Check before any work that plain weights for this size can be written.

    Raises:
        InputError: the network has no plain form, or the size is no positive multiple of 16.
    """
    if image_size is None:
        return
    require_plain(network, "plain_image_size")
    try:
        check_image_size(image_size)
    except ValueError as error:
        raise InputError(f"plain_image_size: {error}") from error


def write_plain_sam(
    network: HasPlainSam, path: Path, tolerance: float, image_size: int | None = None
) -> dict[str, Any]:
    """Write ``plain_sam_state()``, load it back strictly into the package's own model, and compare the encoders.

    Args:
        network: in evaluation mode; low-rank updates not merged yet, so that a wrong merge shows.
        path: file to write.
        tolerance: largest difference of the image embedding allowed, as a part of its largest value if that
            exceeds 1.
        image_size: side that the weights are resized to after the comparison; None keeps the network's.

    Returns:
        file, sha256, sam_type, img_size (which the package's model must be built with), num_mask_tokens, keys,
        max_abs_difference (of the embedding), passed, note.
    """
    state = network.plain_sam_state()
    knobs = import_sam(state, type(network).__name__).knobs
    sam_type, own_size = str(knobs["sam_type"]), int(str(knobs["image_size"]))
    tokens = state["mask_decoder.mask_tokens.weight"].shape[0]
    difference, largest = _embedding_difference(network.image_encoder, state, sam_type, own_size)
    size = image_size or own_size
    if size != own_size:
        state = resize_plain_sam(state, sam_type, size)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)
    build_plain_sam(sam_type, size, tokens).load_state_dict(read_state(path), strict=True)
    return {
        "file": path.name,
        "sha256": sha256_of(path),
        "sam_type": sam_type,
        "img_size": size,
        "num_mask_tokens": tokens,
        "keys": len(state),
        "max_abs_difference": difference,
        "passed": difference <= tolerance * max(1.0, largest),
        "note": _note(network, size, own_size, tokens),
    }


def _embedding_difference(
    encoder: nn.Module, state: dict[str, Tensor], sam_type: str, image_size: int
) -> tuple[float, float]:
    """Encode noise with both; return the largest difference and the largest value."""
    plain = build_plain_sam(sam_type, image_size, state["mask_decoder.mask_tokens.weight"].shape[0])
    plain.load_state_dict(state, strict=True)
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder(pixels)
        return float((plain.image_encoder(pixels) - expected).abs().max()), float(expected.abs().max())


def _note(network: HasPlainSam, size: int, own_size: int, tokens: int) -> str:
    """Say what a user of the file must know that differs from the published weights."""
    notes = []
    if size != PUBLISHED_SIZE:
        notes.append(f"build Segment Anything with img_size {size}; its own sam_model_registry builds {PUBLISHED_SIZE}")
    if size != own_size:
        notes.append(f"position embeddings were resized from {own_size}, for which the weights were trained")
    if getattr(network, "num_classes", 1) > 1:
        notes.append(f"its {tokens} masks are the classes, background first (its own decoder has {PUBLISHED_TOKENS})")
    if getattr(network, "stem", None) is not None:
        notes.append("expects three channels: the layer that makes them from the image's is not part of it")
    return "; ".join(notes)

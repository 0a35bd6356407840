# SPDX-License-Identifier: Apache-2.0
"""What embeddings were made of, as hashes that are the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.data.fingerprint import describe, digest
from monai_ext.data.slices import check_plane
from monai_ext.errors import InputError
from monai_ext.files import sha256_of

_DATA_FILE = re.compile(
    rb"^[ \t]*(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*(.+?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class EmbeddingKey:
    """Says which embeddings are meant: of which voxels, prepared how, by which encoder.

    Args:
        image: from `hash_image`.
        preprocessing: from `hash_preprocessing`.
        encoder: from `hash_encoder`.
        plane: ``axial``, ``coronal`` or ``sagittal``, the plane of the slices.
        case: name for messages and lists; another name alone is the same key.

    Raises:
        ValueError: unknown plane.

    Example:
        >>> image, encoder = hash_image(np.zeros((4, 4, 2))), hash_encoder(nn.Linear(2, 2))
        >>> len(EmbeddingKey(image, hash_preprocessing("min-max"), encoder).digest())
        32
    """

    image: str
    preprocessing: str
    encoder: str
    plane: str = "axial"
    case: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_plane(self.plane)

    def digest(self, *further: str) -> str:
        """Return the hexadecimal name of the key, and of whatever else the content depends on."""
        return digest("embedding", self.image, self.preprocessing, self.encoder, self.plane, *further)


def hash_image(image: str | Path | Sequence[str | Path] | NDArray[Any] | Tensor) -> str:
    """Return the SHA-256 of a scan's content; a moved or renamed file keeps it.

    Args:
        image: a file, a folder (a DICOM series), several of them to be stacked, or voxels. Voxels as the encoder gets
            them are the surest: then a new version of whatever reads the files can change nothing unnoticed.

    Raises:
        InputError: a file is missing, or is a header whose voxels lie in a list of files.

    Example:
        >>> hash_image(np.zeros(3)) == hash_image(np.zeros(3)), hash_image(np.zeros(3)) == hash_image(np.ones(3))
        (True, False)
    """
    total = hashlib.sha256()
    if isinstance(image, Tensor | np.ndarray):
        _add_array(total, torch.as_tensor(image))
    else:
        paths = [image] if isinstance(image, str | Path) else image
        for path in paths:
            total.update(repr(_content(Path(path))).encode())
    return total.hexdigest()


def hash_preprocessing(*parts: Any) -> str:
    """Return a hash of the classes and settings of transforms, or of anything that describes the preprocessing.

    A function counts by its byte code, which differs between versions of Python; transforms count by their settings
    only, so name a version among the parts where their code may change.

    Example:
        >>> hash_preprocessing({"lower": 0.5}) == hash_preprocessing({"lower": 1.0})
        False
    """
    return digest(describe(parts))


def hash_encoder(weights: nn.Module | Mapping[str, Tensor], **settings: Any) -> str:
    """Return the SHA-256 of an encoder's weights (parameters and buffers by name) and of its settings.

    Args:
        weights: a network or its state dict, on any device.
        settings: whatever else changes the output: image size, which depths are kept, precision of the computation.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> hash_encoder(net) == hash_encoder(net.state_dict()), hash_encoder(net) == hash_encoder(net, image_size=512)
        (True, False)
    """
    total = hashlib.sha256(repr(describe(settings)).encode())
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    for name in sorted(state):
        total.update(repr(name).encode())
        _add_array(total, state[name])
    return total.hexdigest()


def _add_array(total: Any, array: Tensor) -> None:
    plain = array.detach().cpu().contiguous()
    plain = plain.as_tensor() if hasattr(plain, "as_tensor") else plain  # MONAI's bookkeeping is no voxel
    total.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
    total.update(plain.reshape(-1).view(torch.uint8).numpy().data)


def _content(path: Path) -> list[str]:
    """Return the hash of each file that the scan consists of, without its name."""
    if path.is_dir():
        return sorted(sha256_of(file) for file in path.iterdir() if file.is_file())
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; it cannot be told whether its embeddings still hold.")
    return [sha256_of(file) for file in [path, *_voxel_files(path)]]


def _voxel_files(header: Path) -> list[Path]:
    """Return the second file that a header names, if it does: a change there is a change of the scan."""
    if header.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    found = _DATA_FILE.search(header.read_bytes())
    name = found[1].decode(errors="replace") if found else "LOCAL"
    if name.upper() == "LOCAL":
        return []
    if not (header.parent / name).is_file():
        raise InputError(f"{header}: its voxels are in {name!r}, which is not one file beside it; save it as .nii.gz.")
    return [header.parent / name]

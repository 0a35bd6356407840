# SPDX-License-Identifier: Apache-2.0
"""What simulated pairs of scans share: a scan seen through a map, another contrast, and places that both scans show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms.prepare_label import name_of

Array = NDArray[np.float64]
Plane = Callable[[int], Array]  # index -> where the voxels of plane (index, :, :) are led, (N, 3) in voxels
Draw = np.random.Generator | np.random.RandomState

MARGIN = 1.0  # voxels between a point and the end of either scan


def affine_of(scan: Tensor) -> Array:
    """Return the affine (4, 4) from a scan's voxels to RAS mm."""
    return scan.affine.cpu().double().numpy() if isinstance(scan, MetaTensor) else np.eye(4)


def moved_by(matrix: NDArray[np.floating[Any]], places: Array) -> Array:
    """Map places (N, 3) by a matrix (4, 4)."""
    return places @ matrix[:3, :3].T + matrix[:3, 3]


def plane_of(matrix: NDArray[np.floating[Any]], shape: tuple[int, ...]) -> Plane:
    """Return the planes of a grid of a shape as a matrix (4, 4) moves them."""
    rows, columns = (np.arange(side, dtype=np.float64) for side in shape[1:])

    def plane(index: int) -> Array:
        places = np.stack(np.meshgrid([float(index)], rows, columns, indexing="ij"), axis=-1)
        return moved_by(matrix, places.reshape(-1, 3))

    return plane


def pulled(scan: Tensor, plane: Plane, mode: str = "bilinear", padding_value: float = 0.0) -> Tensor:
    """Give each voxel of a copy what the scan (C, X, Y, Z) has where ``plane`` leads."""
    shape = scan.shape[1:]
    result = torch.empty(scan.shape, dtype=torch.float32)
    plain = (scan.as_tensor() if isinstance(scan, MetaTensor) else scan).cpu().float() - padding_value
    sides = torch.tensor(shape, dtype=torch.float64)
    for index in range(shape[0]):  # slice by slice: places of a whole volume take 24 bytes a voxel
        places = torch.from_numpy(plane(index)).reshape(1, *shape[1:], 3)
        grid = ((places * 2 + 1) / sides - 1).flip(-1).float()[None]
        part = F.grid_sample(plain[None], grid, mode=mode, padding_mode="zeros", align_corners=False)
        result[:, index] = part[0, :, 0] + padding_value
    return MetaTensor(result, affine=scan.affine, meta=scan.meta) if isinstance(scan, MetaTensor) else result


def altered(draw: Draw, copy: Tensor, gamma: tuple[float, float], noise: float) -> Tensor:
    """Give a copy another contrast and noise; what is outside of 0..1 keeps its order."""
    power = float(np.exp(draw.uniform(*np.log(gamma))))
    added = torch.from_numpy(draw.normal(0.0, noise, tuple(copy.shape))).to(copy.dtype)
    return copy.abs().pow(power) * copy.sign() + added


def draw_places(draw: Draw, scan: Tensor, plane: Plane, count: int, body_threshold: float) -> Array:
    """Draw voxel positions (N, 3) in the body of which none leaves the scan where ``plane`` leads.

    Raises:
        InputError: there is none.
    """
    body = (scan[0] > body_threshold).cpu().numpy()
    stays = plane_of(np.eye(4), body.shape)
    last = np.asarray(body.shape) - 1
    kept = []
    for index in np.flatnonzero(body.any(axis=(1, 2))):
        own = body[index].ravel()
        here, there = stays(index)[own], plane(index)[own]
        kept.append(here[np.all((np.minimum(here, there) >= MARGIN) & (np.maximum(here, there) <= last - MARGIN), 1)])
    places = np.concatenate(kept) if kept else np.zeros((0, 3))
    if not len(places):
        raise InputError(
            f"{name_of(scan)}: no voxel is above body_threshold {body_threshold:g} and stays in the scan when that is "
            "moved; lower body_threshold, or look at the intensities."
        )
    chosen = draw.permutation(len(places))[:count]
    return places[chosen] + draw.uniform(-0.5, 0.5, (len(chosen), 3))


def check_gamma(gamma: tuple[float, float]) -> tuple[float, float]:
    """Return the range of powers.

    Raises:
        ValueError: it is none.
    """
    if not 0 < gamma[0] <= gamma[1]:
        raise ValueError(f"gamma must be two positive, rising numbers, got {tuple(gamma)}.")
    return gamma[0], gamma[1]

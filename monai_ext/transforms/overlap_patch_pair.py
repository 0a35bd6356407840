# SPDX-License-Identifier: Apache-2.0
"""Pairs of patches of one scan, with the exact place of every voxel."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray
from torch import Tensor

from monai_ext.errors import InputError

INSET = 4  # voxels of a patch between its border and the place that both patches show

Array = NDArray[np.float64]


class _View(NamedTuple):
    """A patch: mm from the outer corner of the scan to its centre, mm of its voxels, and how it is turned."""

    centre: Array
    spacing: float
    rotation: Array


class RandOverlapPatchPaird(Randomizable, MapTransform):
    """Cut two patches of random place, size and direction out of a scan, for learning from unlabelled scans.

    How anatomical embedding sees each scan (Yan et al. 2022, https://arxiv.org/abs/2012.02383). Cropping, scaling and
    turning are one sampling of the scan (linear) for both patches, so that the place of a voxel is known exactly, to
    within rounding, however it was cut.

    With ``overlap_prob`` both patches hold a place drawn at random, well inside of each; else each is put anywhere. A
    scan smaller than a patch lowers the patch's scale as far as ``scale`` allows; what still is beyond the scan gets
    ``padding_value`` and is no body.

    Args:
        keys: of images, (C, ...) on the same voxels, cut alike.
        patch_size: voxels along each axis of the scan; its length decides between 2-D and 3-D.
        base_spacing: mm of a patch's voxels at scale 1.
        scale: smallest and largest scale, drawn for each patch.
        overlap_prob: of a place that both patches show.
        rotate_range: each patch is turned by up to so many radians about each axis.
        body_key: of a mask, (1, ...) on the same voxels, where something is to be learned; None: everywhere.
        body_threshold: without a mask, the body is where the first image is above this; None: everywhere.
        padding_value: of voxels beyond the scan.

    Returns:
        A list of two dictionaries, which `list_data_collate` flattens to patches 2 i and 2 i + 1 of a batch. Each has
        the images; ``affine`` (axes + 1, axes + 1) float64, from the patch's voxels to mm in the scan's world; and
        ``body`` (1, *patch_size), 1 inside of scan and body.

    Raises:
        ValueError: an argument is out of its range.
        InputError: an image has another number of axes, or images and mask differ in size.

    Example:
        >>> cut = RandOverlapPatchPaird(keys=["image"], patch_size=(4, 8, 8)).set_random_state(0)
        >>> first, second = cut({"image": torch.rand(1, 16, 40, 40)})
        >>> first["image"].shape, first["affine"].shape, second["body"].shape
        (torch.Size([1, 4, 8, 8]), torch.Size([4, 4]), torch.Size([1, 4, 8, 8]))
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int] = (32, 96, 96),
        base_spacing: float = 2.0,
        scale: tuple[float, float] = (0.8, 1.2),
        overlap_prob: float = 0.8,
        rotate_range: float = 0.0,
        body_key: str | None = None,
        body_threshold: float | None = None,
        padding_value: float = 0.0,
    ) -> None:
        super().__init__(keys)
        if len(patch_size) not in (2, 3) or min(patch_size) < 1:
            raise ValueError(f"patch_size must be two or three positive numbers, got {tuple(patch_size)}.")
        if base_spacing <= 0 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"base_spacing and scale must be positive and rising, got {base_spacing} and {scale}.")
        if not 0 <= overlap_prob <= 1:
            raise ValueError(f"overlap_prob must be 0 to 1, got {overlap_prob}.")
        if rotate_range < 0:
            raise ValueError(f"rotate_range must be at least 0, got {rotate_range}.")
        if body_key is not None and body_threshold is not None:
            raise ValueError("give body_key or body_threshold, not both: a mask needs no threshold.")
        self.patch_size = tuple(patch_size)
        self.base_spacing = base_spacing
        self.scale = scale
        self.overlap_prob = overlap_prob
        self.rotate_range = rotate_range
        self.body_key = body_key
        self.body_threshold = body_threshold
        self.padding_value = padding_value
        self._views: list[_View] = []

    def randomize(self, extent: Array) -> None:
        """Draw both patches for a scan of this extent in mm."""
        patch = np.asarray(self.patch_size) * self.base_spacing
        shared = self.R.random() < self.overlap_prob
        margin = np.minimum(np.ceil(np.asarray(self.patch_size) / 10) * self.base_spacing, extent / 2)
        anchor = self.R.uniform(margin, extent - margin)
        self._views = []
        for _ in range(2):
            scale = self.R.uniform(*self.scale)
            scale = max(min(scale, (extent / patch).min()), self.scale[0])
            field, free = patch * scale, extent - patch * scale
            inset = np.minimum(INSET * self.base_spacing * scale, field / 4)
            low, high = (anchor - field + inset, anchor - inset) if shared else (np.zeros_like(free), free)
            # a scan that is too small along an axis is in the middle
            low, high = (np.where(free > 0, np.clip(x, 0, np.maximum(free, 0)), free / 2) for x in (low, high))
            angles = self.R.uniform(-self.rotate_range, self.rotate_range, size=3)
            centre = self.R.uniform(low, high) + field / 2
            self._views.append(_View(centre, self.base_spacing * scale, _rotation(angles, len(patch))))

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        images = {key: data[key] for key in self.key_iterator(dict(data))}
        mask = None if self.body_key is None else data[self.body_key]
        first = next(iter(images.values()))
        shape = self._checked_shape(images, mask)
        world = _affine_of(first, len(shape))
        spacing = world[:-1, :-1].norm(dim=0).numpy()
        self.randomize(np.asarray(shape) * spacing)
        matrices = [torch.from_numpy(_to_source(view, self.patch_size, spacing)) for view in self._views]
        voxels = torch.stack([_positions(matrix, self.patch_size) for matrix in matrices])  # (2, *patch, axes)
        inside = ((voxels >= -0.5) & (voxels <= torch.tensor(shape) - 0.5)).all(dim=-1)
        replaced = {*images, self.body_key}
        results: list[dict[Hashable, Any]] = [{k: v for k, v in data.items() if k not in replaced} for _ in matrices]
        patches = {key: _sample(image, voxels, "bilinear") for key, image in images.items()}
        body = self._body(mask, next(iter(patches.values())), voxels) & inside.to(first.device)
        for index, (result, matrix) in enumerate(zip(results, matrices, strict=True)):
            result["affine"] = world @ matrix
            result["body"] = body[index, None].to(torch.float32)
            for key, both in patches.items():
                patch = both[index].masked_fill(~inside[index].to(both.device), self.padding_value)
                result[key] = _with_place(patch, images[key], result["affine"])
        return results

    def _body(self, mask: Tensor | None, patches: Tensor, voxels: Tensor) -> Tensor:
        """Say where both patches show the body, (2, *patch)."""
        if mask is not None:
            return _sample(mask, voxels, "nearest")[:, 0] > 0.5
        if self.body_threshold is not None:
            return patches[:, 0] > self.body_threshold
        return torch.ones_like(patches[:, 0], dtype=torch.bool)

    def _checked_shape(self, images: Mapping[Hashable, Tensor], mask: Tensor | None) -> tuple[int, ...]:
        shapes = {str(key): tuple(image.shape[1:]) for key, image in images.items()}
        if mask is not None:
            shapes[str(self.body_key)] = tuple(mask.shape[1:])
        name, shape = next(iter(shapes.items()))
        if len(shape) != len(self.patch_size) or 0 in shape:
            raise InputError(
                f"{name} must have {len(self.patch_size)} axes behind the channels, as patch_size has, got {shape}."
            )
        if other := next((key for key, value in shapes.items() if value != shape), None):
            raise InputError(f"{other} must be on the voxels of {name}, {shape}, got {shapes[other]}; resample it.")
        return shape


def _rotation(angles: Array, axes: int) -> Array:
    """A turn about each axis in turn; in 2-D by the first angle."""
    turn = np.eye(axes)
    planes = [(1, 2), (0, 2), (0, 1)] if axes == 3 else [(0, 1)]
    for (a, b), angle in zip(planes, angles, strict=False):
        step = np.eye(axes)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def _affine_of(image: Tensor, axes: int) -> Tensor:
    """From voxels to mm in the world; a picture's affine may have a third axis."""
    if not isinstance(image, MetaTensor):
        return torch.eye(axes + 1, dtype=torch.float64)
    affine = image.affine.detach().cpu().double()
    keep = [*range(axes), affine.shape[0] - 1]
    return affine[keep][:, keep]


def _to_source(view: _View, patch_size: tuple[int, ...], spacing: Array) -> Array:
    """The matrix from voxels of a patch to voxels of the scan, whose corner is at -0.5."""
    axes = len(patch_size)
    matrix = np.eye(axes + 1)
    matrix[:axes, :axes] = view.rotation * view.spacing / spacing[:, None]
    middle = (np.asarray(patch_size) - 1) / 2
    matrix[:axes, axes] = view.centre / spacing - 0.5 - matrix[:axes, :axes] @ middle
    return matrix


def _positions(matrix: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Voxel positions in the scan (*patch, axes) of a patch's voxels."""
    axes = [torch.arange(side, dtype=torch.float64) for side in patch_size]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return voxels @ matrix[:-1, :-1].T + matrix[:-1, -1]


def _sample(image: Tensor, voxels: Tensor, mode: str) -> Tensor:
    """Sample (C, *scan) at positions (2, *patch, axes) -> (2, C, *patch), the scan's border continued.

    Only the part of the scan around the positions is converted and read.
    """
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    last = torch.tensor(plain.shape[1:]) - 1
    flat = voxels.flatten(0, -2)
    low = flat.amin(dim=0).floor().long().clamp(min=0).minimum(last)
    high = flat.amax(dim=0).ceil().long().clamp(min=0).minimum(last)
    box = (slice(None), *(slice(int(first), int(stop) + 1) for first, stop in zip(low, high, strict=True)))
    part = plain[box]
    part = part if part.dtype == torch.float64 else part.float()
    grid = ((voxels - low) * 2 + 1) / (high - low + 1) - 1
    grid = grid.flip(-1).flatten(0, 1)[None]  # both patches one behind the other: one sampling
    sampled = F.grid_sample(part[None], grid.to(part), mode=mode, padding_mode="border", align_corners=False)[0]
    return sampled.unflatten(1, voxels.shape[:2]).transpose(0, 1).contiguous()


def _with_place(patch: Tensor, image: Tensor, affine: Tensor) -> MetaTensor:
    meta = {}
    if isinstance(image, MetaTensor) and "filename_or_obj" in image.meta:
        meta["filename_or_obj"] = image.meta["filename_or_obj"]
    return MetaTensor(patch, affine=affine, meta=meta)

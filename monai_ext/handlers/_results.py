# SPDX-License-Identifier: Apache-2.0
"""What the scoring and drawing handlers ask of an evaluator's output, one case at a time, and of other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import affine_to_spacing
from monai.transforms import Orientation
from nibabel.orientations import io_orientation
from torch import Tensor

from monai_ext.distributed import world_size
from monai_ext.scan_files import stem_of

T = TypeVar("T")


@dataclass(frozen=True)
class CaseResult:
    """One case of an evaluator's iteration: ``output`` has image, pred and label, ``batch`` what the data set gave."""

    output: Mapping[str, Any]
    batch: Mapping[str, Any]

    def path(self, key: str) -> str:
        """Return the absolute path of the file behind ``key``, empty when it is unknown."""
        return absolute(meta_of(self.output.get(key)).get("filename_or_obj"))

    def text(self, key: str) -> str:
        """Return a text of the data list such as the site, empty when it has none."""
        value = self.batch.get(key)
        return "" if value is None else str(value.item() if isinstance(value, Tensor) else value)

    @property
    def name(self) -> str:
        """Return the case's name with its slice, if it is one; the file's stem where the data list gives no name."""
        name, image, place = self.text("case"), self.path("image"), self.text("slice")
        name = name or (stem_of(os.path.basename(image)) if image else "")
        return f"{name}_slice_{int(place):04d}" if place else name

    def label_maps(self) -> tuple[Tensor, Tensor]:
        """Return prediction and label with their axes in the same order and direction.

        Volumes of which only one was brought back to the scan's own axes are turned to RAS, both; of a cube, the
        shape alone would not show that they do not belong together.
        """
        pred, label = self.output["pred"], self.output["label"]
        affines = [meta_of(value)["affine"] for value in (pred, label) if "affine" in meta_of(value)]
        if label.ndim == 4 and len(affines) == 2:
            axes = [io_orientation(affine.cpu().numpy()) for affine in affines]
            if not np.array_equal(axes[0], axes[1]):
                return Orientation("RAS", labels=None)(pred), Orientation("RAS", labels=None)(label)
        return pred, label


def spacing_of(*values: object, spatial_dims: int) -> tuple[float, ...]:
    """Return the size of a voxel in mm of the first MetaTensor, 1 along each axis where no affine is known.

    It is rounded, so that the float error of an affine does not decide whether one voxel is within 1 mm.
    """
    for value in values:
        if isinstance(value, MetaTensor):
            return tuple(round(float(size), 5) for size in affine_to_spacing(value.affine.double(), r=spatial_dims))
    return (1.0,) * spatial_dims


def results_of(engine: Engine) -> list[CaseResult]:
    """Return the cases of the engine's last iteration, decollated by the engine or not."""
    outputs, batches = _decollated(engine.state.output), _decollated(engine.state.batch)
    known: list[Mapping[str, Any]] = [batch if isinstance(batch, Mapping) else {} for batch in batches]
    known = known if len(known) == len(outputs) else [{} for _ in outputs]
    return [CaseResult(output, batch) for output, batch in zip(outputs, known, strict=True)]


def meta_of(value: object) -> Mapping[str, Any]:
    """Return a MetaTensor's metadata, nothing for anything else."""
    return value.meta if isinstance(value, MetaTensor) else {}


def absolute(path: object) -> str:
    """Return ``path`` as absolute path, empty when there is none."""
    return os.path.abspath(str(path)) if path else ""


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes, in the order of their ranks; every process has to call this."""
    if world_size() == 1:
        return items
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def _decollated(content: object) -> list[Any]:
    if isinstance(content, Mapping):
        return list(decollate_batch(content))
    return content if isinstance(content, list) else []

# SPDX-License-Identifier: Apache-2.0
"""Which published weights a bundle can start from, by the Python package of its network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from monai_ext.networks.checkpoints.anatomical_embedding import import_anatomical_embedding
from monai_ext.networks.checkpoints.common import ImportedState, State
from monai_ext.networks.checkpoints.desam import import_desam
from monai_ext.networks.checkpoints.sam import import_sam, sam_state
from monai_ext.networks.checkpoints.sam2_unet import import_sam2_unet, trunk_state
from monai_ext.networks.checkpoints.samora import import_samora

Importer = Callable[[Mapping[str, Tensor], str], ImportedState]


@dataclass(frozen=True)
class WeightSource:
    """How published weights become those of a method; one without a foundation model has whole networks alone.

    Attributes:
        importer: published state dict and its name -> ours.
        foundation: network -> the part of its state that the foundation model publishes.
        foundation_file: name of the file, under ``models/pretrained``, that ``convert`` writes that part to.
        foundation_knobs: the knobs that a foundation model's weights are about.
    """

    importer: Importer
    foundation: Callable[[nn.Module], State] = nn.Module.state_dict
    foundation_file: str = "foundation.pt"
    foundation_knobs: tuple[str, ...] = ()


WEIGHT_SOURCES = {
    "anatomical_embedding": WeightSource(import_anatomical_embedding),
    "sam2_unet": WeightSource(import_sam2_unet, trunk_state, "trunk.pt", ("backbone",)),
    "desam": WeightSource(import_desam, sam_state, "sam.pt", ("sam_type", "image_size")),
    "samora": WeightSource(import_samora, sam_state, "sam.pt", ("sam_type", "image_size")),
    "sam_sp": WeightSource(import_sam, sam_state, "sam.pt", ("sam_type", "image_size")),
}
IMPORTERS = {package: source.importer for package, source in WEIGHT_SOURCES.items()}

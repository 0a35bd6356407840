# SPDX-License-Identifier: Apache-2.0
"""Published weights under our names: one table a source, pure functions, and never a pickle that runs code."""

from monai_ext.networks.checkpoints.anatomical_embedding import (
    import_anatomical_embedding,
    inflate_resnet,
    load_anatomical_embedding,
    load_inflated_resnet,
)
from monai_ext.networks.checkpoints.common import ImportedState, State, Table, rename
from monai_ext.networks.checkpoints.desam import import_desam, load_desam
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.checkpoints.registry import IMPORTERS, WEIGHT_SOURCES, WeightSource
from monai_ext.networks.checkpoints.sam import import_sam, load_sam, plain_sam_state, sam_state
from monai_ext.networks.checkpoints.sam2_unet import import_sam2_unet, load_trunk, trunk_state
from monai_ext.networks.checkpoints.sam_resize import fit_sam, resize_plain_sam
from monai_ext.networks.checkpoints.samora import import_samora
from monai_ext.networks.checkpoints.starting import load_start
from monai_ext.networks.state_match import StateMatch, check, compare

__all__ = [
    "IMPORTERS",
    "WEIGHT_SOURCES",
    "ImportedState",
    "State",
    "StateMatch",
    "Table",
    "WeightSource",
    "check",
    "compare",
    "fit_sam",
    "import_anatomical_embedding",
    "import_desam",
    "import_sam",
    "import_sam2_unet",
    "import_samora",
    "inflate_resnet",
    "load_anatomical_embedding",
    "load_desam",
    "load_inflated_resnet",
    "load_sam",
    "load_start",
    "load_trunk",
    "plain_sam_state",
    "read_state",
    "rename",
    "resize_plain_sam",
    "sam_state",
    "trunk_state",
]

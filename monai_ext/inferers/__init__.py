# SPDX-License-Identifier: Apache-2.0
"""Inferers."""

from monai_ext.inferers.point_match import PointMatchInferer
from monai_ext.inferers.prompted_slices import PromptedSliceInferer
from monai_ext.inferers.slice_wise import SliceWiseInferer
from monai_ext.inferers.volume_embedder import VolumeEmbedder

__all__ = [
    "PointMatchInferer",
    "PromptedSliceInferer",
    "SliceWiseInferer",
    "VolumeEmbedder",
]

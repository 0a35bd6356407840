# SPDX-License-Identifier: Apache-2.0
"""Inferers."""

from monai_ext.inferers.displacement import DisplacementInferer
from monai_ext.inferers.point_match import PointMatchInferer
from monai_ext.inferers.prealigner import Prealigner
from monai_ext.inferers.prompted_slices import PromptedSliceInferer
from monai_ext.inferers.slice_wise import SliceWiseInferer
from monai_ext.inferers.volume_embedder import VolumeEmbedder

__all__ = [
    "DisplacementInferer",
    "PointMatchInferer",
    "Prealigner",
    "PromptedSliceInferer",
    "SliceWiseInferer",
    "VolumeEmbedder",
]

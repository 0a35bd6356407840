# SPDX-License-Identifier: Apache-2.0
"""Finding the same place in another volume by the embeddings of both."""

from monai_ext.matching.matched_points import MatchedPoints
from monai_ext.matching.point_matcher import PointMatcher
from monai_ext.matching.volume_embedding import VolumeEmbedding

__all__ = ["MatchedPoints", "PointMatcher", "VolumeEmbedding"]

# SPDX-License-Identifier: Apache-2.0
"""Metrics, one idea a file."""

from monai_ext.metrics.bootstrap import bootstrap_interval, summary_statistics
from monai_ext.metrics.saliency import SALIENCY_SCORES, saliency_scores
from monai_ext.metrics.segmentation import EMPTY_BOTH, EMPTY_ONE, SCORES, segmentation_scores
from monai_ext.metrics.summary import summarize_cases

__all__ = [
    "EMPTY_BOTH",
    "EMPTY_ONE",
    "SALIENCY_SCORES",
    "SCORES",
    "bootstrap_interval",
    "saliency_scores",
    "segmentation_scores",
    "summarize_cases",
    "summary_statistics",
]

# SPDX-License-Identifier: Apache-2.0
"""Metrics, one idea a file."""

from monai_ext.metrics.bootstrap import bootstrap_interval, summary_statistics
from monai_ext.metrics.case_means import CaseMean, case_means
from monai_ext.metrics.paired_tests import compare_cases
from monai_ext.metrics.published_protocol import PUBLISHED, published_protocol
from monai_ext.metrics.saliency import SALIENCY_SCORES, saliency_scores
from monai_ext.metrics.segmentation import EMPTY_BOTH, EMPTY_ONE, SCORES, segmentation_scores
from monai_ext.metrics.signed_rank import signed_rank_p
from monai_ext.metrics.site_summary import summarize_sites
from monai_ext.metrics.stratified_bootstrap import stratified_interval
from monai_ext.metrics.summary import summarize_cases

__all__ = [
    "EMPTY_BOTH",
    "EMPTY_ONE",
    "PUBLISHED",
    "SALIENCY_SCORES",
    "SCORES",
    "CaseMean",
    "bootstrap_interval",
    "case_means",
    "compare_cases",
    "published_protocol",
    "saliency_scores",
    "segmentation_scores",
    "signed_rank_p",
    "stratified_interval",
    "summarize_cases",
    "summarize_sites",
    "summary_statistics",
]

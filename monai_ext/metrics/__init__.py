# SPDX-License-Identifier: Apache-2.0
"""Metrics, one idea a file."""

from monai_ext.metrics.bootstrap import bootstrap_interval, summary_statistics
from monai_ext.metrics.case_means import CaseMean, case_means
from monai_ext.metrics.clustered_bootstrap import clustered_interval
from monai_ext.metrics.landmark_summary import case_landmarks, summarize_landmarks
from monai_ext.metrics.landmarks import AXES, cpm, hit_in_box, landmark_errors, per_axis
from monai_ext.metrics.paired_tests import compare_cases
from monai_ext.metrics.published_protocol import PUBLISHED, published_protocol
from monai_ext.metrics.registration import (
    folding_percentage,
    jacobian_determinant,
    sd_log_jacobian,
    target_registration_error,
    warped_dice,
)
from monai_ext.metrics.saliency import SALIENCY_SCORES, saliency_scores
from monai_ext.metrics.samed_convention import SAMED_CONVENTION, samed_scores
from monai_ext.metrics.segmentation import EMPTY_BOTH, EMPTY_ONE, SCORES, segmentation_scores
from monai_ext.metrics.signed_rank import signed_rank_p
from monai_ext.metrics.site_summary import summarize_sites
from monai_ext.metrics.stratified_bootstrap import stratified_interval
from monai_ext.metrics.summary import summarize_cases
from monai_ext.metrics.t_interval import t_interval

__all__ = [
    "AXES",
    "EMPTY_BOTH",
    "EMPTY_ONE",
    "PUBLISHED",
    "SALIENCY_SCORES",
    "SAMED_CONVENTION",
    "SCORES",
    "CaseMean",
    "bootstrap_interval",
    "case_landmarks",
    "case_means",
    "clustered_interval",
    "compare_cases",
    "cpm",
    "folding_percentage",
    "hit_in_box",
    "jacobian_determinant",
    "landmark_errors",
    "per_axis",
    "published_protocol",
    "saliency_scores",
    "samed_scores",
    "sd_log_jacobian",
    "segmentation_scores",
    "signed_rank_p",
    "stratified_interval",
    "summarize_cases",
    "summarize_landmarks",
    "summarize_sites",
    "summary_statistics",
    "t_interval",
    "target_registration_error",
    "warped_dice",
]

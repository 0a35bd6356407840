# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers."""

from monai_ext.handlers.best_model import BestModel
from monai_ext.handlers.case_scores import CaseScores
from monai_ext.handlers.epoch_seed import EpochSeed
from monai_ext.handlers.loss_terms import LossTerms
from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.run_checkpoint import RunCheckpoint
from monai_ext.handlers.run_record import RunRecord
from monai_ext.handlers.saliency_scores import SaliencyScores
from monai_ext.handlers.sample_overlays import SampleOverlays
from monai_ext.handlers.stop_after import StopAfter
from monai_ext.handlers.weights_loader import WeightsLoader

__all__ = [
    "BestModel",
    "CaseScores",
    "EpochProgress",
    "EpochSeed",
    "LossTerms",
    "RunCheckpoint",
    "RunRecord",
    "SaliencyScores",
    "SampleOverlays",
    "StopAfter",
    "WeightsLoader",
]

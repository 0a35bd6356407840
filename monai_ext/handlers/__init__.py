# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers."""

from monai_ext.handlers.best_file import BestFile
from monai_ext.handlers.best_model import BestModel
from monai_ext.handlers.bound_part import BoundPart
from monai_ext.handlers.case_scores import CaseScores
from monai_ext.handlers.displacement_scores import DisplacementScores
from monai_ext.handlers.epoch_seed import EpochSeed
from monai_ext.handlers.experts_loader import ExpertsLoader
from monai_ext.handlers.feature_panels import FeaturePanels
from monai_ext.handlers.fit_correlation_readout import FitCorrelationReadout
from monai_ext.handlers.held_out_loss import HeldOutLoss
from monai_ext.handlers.landmark_scores import LandmarkScores
from monai_ext.handlers.loss_epoch import LossEpoch
from monai_ext.handlers.loss_terms import LossTerms
from monai_ext.handlers.masked_panels import MaskedPanels
from monai_ext.handlers.match_error import MatchError
from monai_ext.handlers.match_overlays import MatchOverlays
from monai_ext.handlers.neighbour_pictures import NeighbourPictures
from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.registration_error import RegistrationError
from monai_ext.handlers.registration_overlays import RegistrationOverlays
from monai_ext.handlers.run_checkpoint import RunCheckpoint
from monai_ext.handlers.run_record import RunRecord
from monai_ext.handlers.saliency_scores import SaliencyScores
from monai_ext.handlers.samed_scores import SAMedScores
from monai_ext.handlers.sample_overlays import SampleOverlays
from monai_ext.handlers.sample_pictures import SamplePictures
from monai_ext.handlers.save_matches import SaveMatches
from monai_ext.handlers.save_registrations import SaveRegistrations
from monai_ext.handlers.stop_after import StopAfter
from monai_ext.handlers.view_panels import ViewPanels
from monai_ext.handlers.weights_loader import WeightsLoader

__all__ = [
    "BestFile",
    "BestModel",
    "BoundPart",
    "CaseScores",
    "DisplacementScores",
    "EpochProgress",
    "EpochSeed",
    "ExpertsLoader",
    "FeaturePanels",
    "FitCorrelationReadout",
    "HeldOutLoss",
    "LandmarkScores",
    "LossEpoch",
    "LossTerms",
    "MaskedPanels",
    "MatchError",
    "MatchOverlays",
    "NeighbourPictures",
    "RegistrationError",
    "RegistrationOverlays",
    "RunCheckpoint",
    "RunRecord",
    "SAMedScores",
    "SaliencyScores",
    "SampleOverlays",
    "SamplePictures",
    "SaveMatches",
    "SaveRegistrations",
    "StopAfter",
    "ViewPanels",
    "WeightsLoader",
]

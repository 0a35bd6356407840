# SPDX-License-Identifier: Apache-2.0
"""Losses, one a file."""

from monai_ext.losses.decoupled_mask_loss import DecoupledMaskLoss
from monai_ext.losses.embedded_pair_loss import EmbeddedPairLoss
from monai_ext.losses.embedding_distance import embedding_distance
from monai_ext.losses.masked_patch_loss import MaskedPatchLoss
from monai_ext.losses.mining_preset import mining_preset
from monai_ext.losses.negative_mining import MINING_PRESETS, NegativeMining, hard_negatives
from monai_ext.losses.nt_xent_loss import NTXentLoss
from monai_ext.losses.patch_pair_info_nce import PatchPairInfoNCE
from monai_ext.losses.reconstruction_loss import ReconstructionLoss
from monai_ext.losses.registration_loss import RegistrationLoss
from monai_ext.losses.samed_loss import SAMedLoss
from monai_ext.losses.self_prompt_loss import SelfPromptLoss
from monai_ext.losses.staged_samed_loss import StagedSAMedLoss
from monai_ext.losses.structure_loss import StructureLoss

__all__ = [
    "MINING_PRESETS",
    "DecoupledMaskLoss",
    "EmbeddedPairLoss",
    "MaskedPatchLoss",
    "NTXentLoss",
    "NegativeMining",
    "PatchPairInfoNCE",
    "ReconstructionLoss",
    "RegistrationLoss",
    "SAMedLoss",
    "SelfPromptLoss",
    "StagedSAMedLoss",
    "StructureLoss",
    "embedding_distance",
    "hard_negatives",
    "mining_preset",
]

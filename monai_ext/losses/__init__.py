# SPDX-License-Identifier: Apache-2.0
"""Losses, one a file."""

from monai_ext.losses.self_prompt_loss import SelfPromptLoss
from monai_ext.losses.structure_loss import StructureLoss

__all__ = ["SelfPromptLoss", "StructureLoss"]

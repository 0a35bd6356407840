# SPDX-License-Identifier: Apache-2.0
"""Ignite trainers, and the schedules they use."""

from monai_ext.engines.guarded_trainer import GuardedTrainer
from monai_ext.engines.pair_evaluator import PairEvaluator
from monai_ext.engines.prepare_patch_pairs import PreparePatchPairs
from monai_ext.engines.prepare_prompted import PreparePrompted
from monai_ext.engines.prepare_taught import PrepareTaught
from monai_ext.engines.smaller_is_better import smaller_is_better
from monai_ext.engines.warmup_constant import WarmupConstant
from monai_ext.engines.warmup_cosine import WarmupCosine
from monai_ext.engines.warmup_poly import WarmupPoly

__all__ = [
    "GuardedTrainer",
    "PairEvaluator",
    "PreparePatchPairs",
    "PreparePrompted",
    "PrepareTaught",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupPoly",
    "smaller_is_better",
]

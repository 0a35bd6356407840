# SPDX-License-Identifier: Apache-2.0
"""Ignite trainers, and the schedules they use."""

from monai_ext.engines.guarded_trainer import GuardedTrainer
from monai_ext.engines.prepare_prompted import PreparePrompted
from monai_ext.engines.warmup_poly import WarmupPoly

__all__ = ["GuardedTrainer", "PreparePrompted", "WarmupPoly"]

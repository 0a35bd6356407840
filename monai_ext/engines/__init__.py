# SPDX-License-Identifier: Apache-2.0
"""Ignite trainers."""

from monai_ext.engines.guarded_trainer import GuardedTrainer

__all__ = ["GuardedTrainer"]

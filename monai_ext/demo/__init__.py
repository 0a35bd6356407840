# SPDX-License-Identifier: Apache-2.0
"""A real brain without a download: volumes, slices, simulated sites and a follow-up pair from the MNI152 average."""

from __future__ import annotations

from monai_ext.demo.dataset import write_demo_data, write_tiny_dataset

__all__ = ["write_demo_data", "write_tiny_dataset"]

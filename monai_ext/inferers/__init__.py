# SPDX-License-Identifier: Apache-2.0
"""Inferers."""

from monai_ext.inferers.prompted_slices import PromptedSliceInferer
from monai_ext.inferers.slice_wise import SliceWiseInferer

__all__ = ["PromptedSliceInferer", "SliceWiseInferer"]

# SPDX-License-Identifier: Apache-2.0
"""Inferers."""

from monai_ext.inferers.slice_wise import SliceWiseInferer

__all__ = ["SliceWiseInferer"]

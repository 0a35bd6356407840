# SPDX-License-Identifier: Apache-2.0
"""Data lists, slice data sets and samplers."""

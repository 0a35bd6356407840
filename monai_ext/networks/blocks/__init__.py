# SPDX-License-Identifier: Apache-2.0
"""Blocks that several published methods share."""

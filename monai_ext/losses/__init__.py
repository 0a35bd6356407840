# SPDX-License-Identifier: Apache-2.0
"""Losses, one a file."""

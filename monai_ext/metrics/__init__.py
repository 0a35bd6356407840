# SPDX-License-Identifier: Apache-2.0
"""Metrics, one idea a file."""

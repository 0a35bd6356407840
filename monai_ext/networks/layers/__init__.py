# SPDX-License-Identifier: Apache-2.0
"""Smallest parts: adapters and low-rank updates."""

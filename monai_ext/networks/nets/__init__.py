# SPDX-License-Identifier: Apache-2.0
"""Encoders and other whole networks that bundles take as parts."""

# SPDX-License-Identifier: Apache-2.0
"""The network of SAM-SP."""

from sam_sp.network import SAMSP, SelfPrompted

__all__ = ["SAMSP", "SelfPrompted"]

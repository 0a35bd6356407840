# SPDX-License-Identifier: Apache-2.0
"""The network of SAMora."""

from samora.network import SAMora

__all__ = ["SAMora"]

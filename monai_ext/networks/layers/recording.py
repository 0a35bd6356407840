# SPDX-License-Identifier: Apache-2.0
"""Whether a network is being run or written down."""

from __future__ import annotations

import torch


def is_recorded() -> bool:
    """Return whether this call is traced, exported or compiled: what depends on data or on the batch is then fixed.

    A file that is written so has all checks behind it, and comparing its free batch would fix that, too.
    """
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()

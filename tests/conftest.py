# SPDX-License-Identifier: Apache-2.0
"""What all tests share: determinism and few threads."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

# two workers on two cores: one thread each is faster than fighting over them; children inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test draws the same random numbers, alone or among others."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

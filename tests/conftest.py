# SPDX-License-Identifier: Apache-2.0
"""What all tests share: determinism and few threads."""

from __future__ import annotations

import importlib.util
import os
import random

import numpy as np
import pytest

# two workers on two cores: one thread each is faster than fighting over them; children inherit it
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# MONAI Label's server has an environment of its own, `tox -e label`, which alone has the packages that it needs
collect_ignore = [] if importlib.util.find_spec("pydicom_seg") else ["served"]


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Every test draws the same random numbers, alone or among others."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from monai_ext.distributed import barrier, is_main, rank, unwrap, world_size


def test_without_other_processes_this_one_is_the_first_and_only() -> None:
    barrier()
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_unwrap_reaches_through_several_wrappers() -> None:
    network = nn.Linear(1, 1)
    assert unwrap(torch.compile(nn.DataParallel(network), backend="eager")) is network
    assert unwrap(network) is network

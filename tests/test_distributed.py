# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from monai_ext.distributed import barrier, is_main, rank, start, unwrap, world_size


def test_without_other_processes_this_one_is_the_first_and_only() -> None:
    barrier()
    assert (rank(), world_size(), is_main()) == (0, 1, True)


def test_unwrap_reaches_through_several_wrappers() -> None:
    network = nn.Linear(1, 1)
    assert unwrap(torch.compile(nn.DataParallel(network), backend="eager")) is network
    assert unwrap(network) is network


@pytest.mark.parametrize(
    ("store", "restarts", "told"), [("True", "3", True), ("False", "3", False), ("True", "0", False)]
)
def test_a_restart_that_would_find_the_addresses_of_the_dead_is_told(
    store: str, restarts: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told_by_torchrun = {"RANK": "0", "TORCHELASTIC_MAX_RESTARTS": restarts, "TORCHELASTIC_USE_AGENT_STORE": store}
    for name, value in told_by_torchrun.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **named: None)
    with caplog.at_level(logging.WARNING):
        start()
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in caplog.text) is told

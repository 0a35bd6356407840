# SPDX-License-Identifier: Apache-2.0
"""The readout of a network is fitted once, before it is trained, to pairs whose displacement is known."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from ignite.engine import Engine
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.handlers import FitCorrelationReadout
from monai_ext.networks.blocks.correlation_readout import CorrelationReadout


class Network(nn.Module):
    """Correlates by taking every second pixel of its image."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = CorrelationReadout(spatial_dims=2, sigma=0.5)

    def correlate(self, image: Tensor) -> Tensor:
        return image[..., ::2, ::2]


class Pairs:
    """Displacements that are sums of an item's features, of the epoch that was chosen."""

    def __init__(self, known: float = 1.0) -> None:
        self.epoch, self.known, self.asked = 0, known, list[tuple[int, int]]()
        self.real: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 6

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked.append((self.epoch, index))
        image = torch.randn(9, 12, 12, generator=torch.Generator().manual_seed(10 * self.epoch + index))
        return {
            "image": image,
            "true_displacement": torch.stack([image[0] - image[4], 2 * image[1]]),
            "truth_mask": torch.full((1, 12, 12), self.known * (index not in self.real)),
        }


def fit(network: Network, data: Pairs, **arguments: int) -> None:
    engine = Engine(lambda engine, batch: None)
    FitCorrelationReadout(network, data, **arguments).attach(engine)
    engine.run([0], max_epochs=2)


def expected(pairs: Pairs, count: int) -> Tensor:
    network = Network()
    pairs.set_epoch(1)
    items = [pairs[index] for index in range(count)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    readout = network.readout
    readout.solve(readout.sums(network.correlate(batch["image"]), batch["true_displacement"], batch["truth_mask"]))
    return readout.sum.weight.detach()


def test_it_is_fitted_to_the_first_pairs_of_the_first_epoch_and_only_once(caplog: pytest.LogCaptureFixture) -> None:
    network, pairs = Network(), Pairs()
    with caplog.at_level(logging.INFO):
        fit(network, pairs, pairs=4)
    assert pairs.asked == [(1, index) for index in range(4)]
    torch.testing.assert_close(network.readout.sum.weight.detach(), expected(Pairs(), 4))
    assert "explains" in caplog.text
    assert "of 4 simulated pairs" in caplog.text


def test_real_pairs_add_nothing_and_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    network, pairs = Network(), Pairs()
    pairs.real = (1, 2)
    with caplog.at_level(logging.INFO):
        fit(network, pairs, pairs=3)
    torch.testing.assert_close(network.readout.sum.weight.detach(), expected(Pairs(), 1))
    assert "of 1 simulated pairs" in caplog.text


def test_no_more_pairs_than_there_are_are_taken() -> None:
    network, pairs = Network(), Pairs()
    fit(network, pairs, pairs=100)
    torch.testing.assert_close(network.readout.sum.weight.detach(), expected(Pairs(), 6))


def test_weights_that_it_has_are_kept() -> None:
    network, pairs = Network(), Pairs()
    nn.init.ones_(network.readout.sum.weight)
    fit(network, pairs)
    assert (network.readout.sum.weight == 1).all()
    assert pairs.asked == []


def test_a_network_without_a_readout_is_left_alone() -> None:
    network, pairs = Network(), Pairs()
    network.readout = None  # type: ignore[assignment]
    fit(network, pairs)
    assert pairs.asked == []


def test_pairs_of_which_nothing_is_known_are_refused() -> None:
    with pytest.raises(InputError, match=r"the readout of 6 pairs: no displacement to learn from.*simulate_prob"):
        fit(Network(), Pairs(known=0.0))
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        FitCorrelationReadout(Network(), Pairs(), pairs=0)


def run_process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    network, pairs = Network(), Pairs()
    fit(network, pairs, pairs=5)
    torch.save((network.readout.sum.weight.detach(), pairs.asked), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_pairs_and_get_the_weights_of_one(tmp_path: Path) -> None:
    mp.start_processes(run_process, (tmp_path,), nprocs=2, start_method="fork")
    one = Network()
    fit(one, Pairs(), pairs=5)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert all(torch.equal(weights, one.readout.sum.weight) for weights, _ in found)
    assert [[index for _, index in asked] for _, asked in found] == [[0, 2, 4], [1, 3]]

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.transforms import RandGaussianNoise

from monai_ext.handlers import epoch_seed
from monai_ext.handlers.epoch_seed import EpochSeed


def draws(seed: int, epochs: int, start: int = 0) -> list[tuple[float, float, float]]:
    """Return what the three generators draw in each epoch of a run that starts after epoch ``start``."""
    drawn = []
    engine = Engine(lambda engine, batch: drawn.append((random.random(), np.random.rand(), torch.rand(()).item())))
    EpochSeed(seed).attach(engine)
    engine.load_state_dict({"epoch": start, "epoch_length": 1, "max_epochs": epochs})
    random.seed(start), np.random.seed(start), torch.manual_seed(start)  # an earlier history must not matter
    engine.run([0])
    return drawn


def test_an_epoch_draws_the_same_whenever_the_run_started() -> None:
    assert draws(0, 4, start=2) == draws(0, 4)[2:]


def test_epochs_seeds_and_generators_differ() -> None:
    values = np.array(draws(0, 2) + draws(1, 2)).ravel()
    assert len(set(values)) == len(values)


def test_ranks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draws(0, 1)
    monkeypatch.setattr(epoch_seed, "rank", lambda: 1)
    assert draws(0, 1) != first


@pytest.mark.parametrize("workers", [0, 1])
def test_order_and_augmentation_of_a_loader_follow_the_epoch(workers: int) -> None:
    assert seen(0, workers)[1:] == seen(1, workers)


def seen(start: int, workers: int) -> list[list[list[float]]]:
    """Return the batches of each of three epochs, each shorter than the data."""
    data = Dataset([torch.full((1,), float(n)) for n in range(6)], RandGaussianNoise(prob=1.0))
    shuffler = torch.Generator()  # not the global one: the loader's own has to be seeded, too
    loader = DataLoader(data, batch_size=2, shuffle=True, num_workers=workers, generator=shuffler)
    batches: list[list[list[float]]] = [[] for _ in range(3)]
    engine = Engine(lambda engine, batch: batches[engine.state.epoch - 1].append(batch.flatten().tolist()))
    engine.data_loader = loader
    EpochSeed(0).attach(engine)
    engine.load_state_dict({"epoch": start, "epoch_length": 2, "max_epochs": 3})
    engine.run(loader)
    return batches[start:]


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        EpochSeed(-1)

# SPDX-License-Identifier: Apache-2.0
"""Makes the randomness of an epoch a pure function of seed, epoch and process."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.dataloader import DataLoader
from monai.data.utils import set_rnd

from monai_ext.distributed import rank


class EpochSeed:
    """Reseed Python, NumPy and torch (CPU and GPU) at the start of every epoch from (seed, epoch, rank).

    A run that is resumed at epoch 7 then draws what an uninterrupted one drew in its epoch 7, and nothing about
    random numbers has to be saved. The data loader is restarted after the seeding, so shuffling and the workers'
    seeds follow; so do MONAI's random transforms when there are no workers.

    Persistent workers keep their own random numbers from epoch to epoch, unless the data set seeds every item
    (`monai_ext.data.SliceDataset` does).

    Args:
        seed: any non-negative integer.

    Raises:
        ValueError: ``seed`` is negative.

    Example:
        >>> trainer = Engine(lambda engine, batch: torch.rand(()).item())
        >>> EpochSeed(0).attach(trainer)
        >>> first = trainer.run([0], max_epochs=1).output
        >>> trainer.run([0], max_epochs=1).output == first
        True
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}.")
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each of the engine's epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed everything for the engine's current epoch."""
        sequence = np.random.SeedSequence([self.seed, engine.state.epoch, rank()])
        for_python, for_numpy, for_loader, for_transforms, *for_torch = (int(n) for n in sequence.generate_state(6))
        random.seed(for_python)
        np.random.seed(for_numpy)
        torch.manual_seed(for_torch[0] << 31 ^ for_torch[1])
        loader = getattr(engine, "data_loader", None)
        generator = getattr(loader, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(for_loader)
        if isinstance(loader, DataLoader) and loader.num_workers == 0:
            set_rnd(loader.dataset, for_transforms)
        if loader is not None:
            engine.set_data(loader)  # an epoch shorter than the data would go on with the last one's order

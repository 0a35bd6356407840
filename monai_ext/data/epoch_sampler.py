# SPDX-License-Identifier: Apache-2.0
"""A sampler whose order depends on seed and epoch alone, in one process or many."""

from __future__ import annotations

import logging
from collections.abc import Sized

import torch.distributed as dist
from monai.data import DistributedSampler

logger = logging.getLogger(__name__)


def process_place() -> tuple[int, int]:
    """Return (rank, number of processes) of the current process group, (0, 1) where there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class EpochSampler(DistributedSampler):
    """Indices of a data set, shuffled anew each epoch, shared out between the processes.

    MONAI's trainers call `set_epoch` at the start of each epoch of any distributed sampler; this one hands it on
    to the data set, so that the augmentation too depends on the epoch alone and a resumed run goes on exactly.

    Args:
        dataset: what to sample from; its ``set_epoch`` is called where it has one.
        seed: of the order.
        shuffle: False keeps the data set's order.
        num_replicas: number of processes, by default of the current process group, 1 without one.
        rank: of this process, by default in the current process group.
        even_divisible: True repeats some items so that all processes take equally many steps (training); False
            gives each item once (validation), unless there are fewer items than processes: none may stay idle,
            so some are then repeated, with a warning.

    Example:
        >>> list(EpochSampler([10, 11, 12], shuffle=False))
        [0, 1, 2]
    """

    def __init__(
        self,
        dataset: Sized,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
        even_divisible: bool = True,
    ) -> None:
        here, processes = process_place()
        here = here if rank is None else rank
        processes = processes if num_replicas is None else num_replicas
        if len(dataset) < processes and not even_divisible:
            even_divisible = True
            logger.warning("%d cases are fewer than the %d processes: some are taken twice", len(dataset), processes)
        super().__init__(
            dataset,  # type: ignore[arg-type]  # torch asks for a Dataset but needs only its length
            even_divisible=even_divisible,
            num_replicas=processes,
            rank=here,
            shuffle=shuffle,
            seed=seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn next, here and in the data set."""
        super().set_epoch(epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

# SPDX-License-Identifier: Apache-2.0
"""Solves for what a registration network reads out of correlations before it is trained."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn as nn
from ignite.engine import Engine, Events
from torch import Tensor

from monai_ext.distributed import rank, unwrap, world_size
from monai_ext.errors import InputError
from monai_ext.handlers._results import gather

logger = logging.getLogger(__name__)


class DrawsPairs(Protocol):
    """Pairs on one grid, such as `monai_ext.data.RegistrationPairDataset` has them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...

    def set_epoch(self, epoch: int) -> None: ...


class FitCorrelationReadout:
    """Handler for a trainer: before its first step, fit the `CorrelationReadout` of a network by least squares.

    The pairs are the first ones of the epoch; of them, real ones, whose displacement nobody knows, add nothing. Several
    processes share them out and all get the weights of all. A readout that has weights already, in a run that is
    resumed or goes on from a trained network, is left alone.

    Args:
        network: with ``readout``, a `CorrelationReadout` or None, and ``correlate(image)``, its features.
        dataset: items with ``image``, ``true_displacement`` and ``truth_mask``.
        pairs: how many to look at, at most.

    Raises:
        ValueError: ``pairs`` is not positive.
        InputError: by the run, if none of the pairs shows a known displacement.
    """

    def __init__(self, network: nn.Module, dataset: DrawsPairs, pairs: int = 16) -> None:
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}.")
        self.network = network
        self.dataset = dataset
        self.pairs = pairs

    def attach(self, engine: Engine) -> None:
        """Fit when an epoch starts and there is a readout without weights."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.fit)

    def fit(self, engine: Engine) -> None:
        """Fit, unless it was done before."""
        network: Any = unwrap(self.network)
        readout = network.readout
        if readout is None or readout.is_solved:
            return
        self.dataset.set_epoch(engine.state.epoch)
        chosen = range(min(self.pairs, len(self.dataset)))
        found = [(index, self._sums(network, index)) for index in chosen[rank() :: world_size()]]
        # in the order of the pairs, so that the number of processes changes no rounding
        sums = [part for _, part in sorted(gather(found), key=operator.itemgetter(0))]
        total = functools.reduce(operator.add, sums)
        try:
            explained = readout.solve(_on(total, next(readout.parameters()).device))
        except ValueError as error:
            raise InputError(
                f"the readout of {len(chosen)} pairs: {error} Set simulate_prob above 0 and a lower body_threshold, or "
                "leave readout_sigma out."
            ) from error
        logger.info(
            "The readout of the correlation explains %.0f %% of the displacement of %d simulated pairs.",
            100 * explained,
            sum(part.cells > 0 for part in sums),
        )

    def _sums(self, network: Any, index: int) -> Any:
        item = self.dataset[index]
        device = next(network.parameters()).device
        image, truth, mask = (_batched(item[key], device) for key in ("image", "true_displacement", "truth_mask"))
        with torch.no_grad():
            sums = network.readout.sums(network.correlate(image), truth, mask)
        return _on(sums, torch.device("cpu"))


def _batched(value: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(value)[None].to(device)


def _on(sums: Any, device: torch.device) -> Any:
    return type(sums)(sums.squares.to(device), sums.products.to(device), sums.variation, sums.cells)

# SPDX-License-Identifier: Apache-2.0
"""The weights that training starts from: a foundation model's, or all of a network that was trained before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.state_match import check

logger = logging.getLogger(__name__)


def load_start(network: nn.Module, pretrained: str | Path | None, start_from: str | Path | None = None) -> nn.Module:
    """Give a network the weights that its training begins with, and return it.

    Args:
        network: with ``load_pretrained``, changed in place.
        pretrained: what its ``load_pretrained`` takes; mostly the foundation model alone, and the rest stays random.
        start_from: a whole network as training or a release left it, ``model.pt``; every weight must fit.

    Raises:
        InputError: both are given, or a file is missing or belongs to another network; nothing is changed then.

    Example:
        >>> import tempfile, torch
        >>> network, file = nn.Linear(2, 1), f"{tempfile.mkdtemp()}/model.pt"
        >>> torch.save(nn.Linear(2, 1).state_dict(), file)
        >>> load_start(network, None, file)
        Linear(in_features=2, out_features=1, bias=True)
    """
    if not start_from:
        loading: Any = network
        loading.load_pretrained(pretrained)
        return network
    if pretrained:
        raise InputError(
            f"start_from {start_from}: is a whole network, and pretrained {pretrained} would be lost; give one of them."
        )
    state = read_state(start_from)
    check(state, network.state_dict(), str(start_from))
    network.load_state_dict(state)
    logger.info("Training starts from the whole network of %s.", start_from)
    return network

# SPDX-License-Identifier: Apache-2.0
"""From a batch to what a trainer hands to a distillation: the image and, where it is known, the teacher's answer."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from monai.engines import PrepareBatch, default_prepare_batch
from torch import Tensor

MB = 2**20
logger = logging.getLogger(__name__)


class Teaches(Protocol):
    """A network with a frozen teacher in it."""

    def teach(self, image: Tensor) -> Tensor:
        """Return the teacher's features (B, ...) of images (B, C, H, W)."""


class PrepareTaught(PrepareBatch):
    """Asks a frozen teacher once about each slice that always looks the same, and remembers what it said.

    Slices are told apart by ``case`` and ``slice`` of the batch. The teacher sees them one by one: what it says is
    then the same, bit for bit, whichever slices come together, and a resumed run goes on exactly. Each process
    remembers its own. What has no room is left to the network to ask, as everything is with ``keep=False``.

    Args:
        network: a distillation, not wrapped.
        keep: whether slices always look the same: nothing random is done to them.
        memory_mb: most memory that the features may take, in MB of 2**20 bytes, on the CPU.

    Raises:
        ValueError: ``memory_mb`` is negative.

    Example:
        >>> class Doubles:
        ...     def teach(self, image):
        ...         print("asked")
        ...         return 2 * image
        >>> prepare = PrepareTaught(Doubles(), keep=True)
        >>> batch = {"image": torch.ones(1, 1, 2, 2), "case": ["a"], "slice": torch.tensor([7])}
        >>> [float(prepare(batch)[3]["features"].sum()) for _ in range(2)]
        asked
        [8.0, 8.0]
    """

    def __init__(self, network: Teaches, keep: bool = True, memory_mb: float = 2048.0) -> None:
        if memory_mb < 0:
            raise ValueError(f"memory_mb must be at least 0, got {memory_mb}.")
        self.network = network
        self.keep = keep
        self.memory_mb = memory_mb
        self._features: dict[tuple[str, int], Tensor] = {}
        self._bytes = 0

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any, tuple[Any, ...], dict[str, Any]]:
        image, label = default_prepare_batch(batchdata, device, non_blocking, **kwargs)
        features = self._recall(image, batchdata) if self.keep else None
        return image, label, (), {} if features is None else {"features": features}

    def _recall(self, image: Tensor, batch: dict[str, Any]) -> Tensor | None:
        """Return the features of all images of a batch, None if there is no room for those that are new."""
        names = list(zip(batch["case"], batch["slice"].tolist(), strict=True))
        for place, name in enumerate(names):
            if name not in self._features and not self._learn(name, image[place : place + 1]):
                return None
        return torch.cat([self._features[name] for name in names]).to(image.device)

    def _learn(self, name: tuple[str, int], image: Tensor) -> bool:
        """Ask about one image and remember the answer; False if there is no room."""
        if self._bytes >= self.memory_mb * MB:
            return False
        features = self.network.teach(image).cpu()
        self._bytes += features.nbytes
        if self._bytes > self.memory_mb * MB:
            self._bytes = int(self.memory_mb * MB)  # full; nothing is asked in vain again
            logger.info("The teacher's answers to %d slices fill %g MB.", len(self._features), self.memory_mb)
            return False
        self._features[name] = features
        return True

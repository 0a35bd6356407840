# SPDX-License-Identifier: Apache-2.0
"""How many negatives the anatomical embedding takes, from where, and how far from the anchor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ext.losses._largest import largest


@dataclass(frozen=True)
class NegativeMining:
    """The hard and the diverse negatives of each anchor; all numbers are limited to what there is.

    The defaults are the published configuration (``official``); `MINING_PRESETS` has the ``notes``, too.

    Args:
        local_candidates: local cells of both patches that resemble the anchor most, by the sum of their local and
            global similarity.
        local_negatives: so many of these candidates, drawn at random.
        global_candidates: global cells of both patches that resemble the anchor most. None draws nothing at random:
            the ``global_negatives`` most similar ones are taken.
        global_negatives: so many of these candidates, drawn at random.
        global_random: diverse negatives: global cells of other pairs of the batch, the same for all anchors of a patch.
        local_ignore_mm: local cells nearer to the anchor's place are no negatives.
        global_ignore_mm: the same for global cells.
        unit_length: where similarities are summed, resize the global embedding and restore its length, as the
            published code does; False resizes the similarity itself, as the method is described.

    Raises:
        ValueError: a number that is not positive (``global_random`` and distances may be 0), or more negatives than
            candidates.

    Example:
        >>> NegativeMining(local_candidates=800, local_negatives=200).global_random
        1000
    """

    local_candidates: int = 2000
    local_negatives: int = 500
    global_candidates: int | None = 250
    global_negatives: int = 200
    global_random: int = 1000
    local_ignore_mm: float = 20.0
    global_ignore_mm: float = 5.0
    unit_length: bool = True

    def __post_init__(self) -> None:
        for name in ("local_candidates", "local_negatives", "global_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("global_random", "local_ignore_mm", "global_ignore_mm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for candidates, negatives in (
            (self.local_candidates, self.local_negatives),
            (self.global_candidates, self.global_negatives),
        ):
            if candidates is not None and candidates < negatives:
                raise ValueError(f"candidates must be at least the negatives, got {candidates} and {negatives}.")


MINING_PRESETS = {
    "official": NegativeMining(),
    "notes": NegativeMining(global_candidates=None, global_negatives=500, unit_length=False),
}


def hard_negatives(
    similarity: Tensor, candidates: int | None, negatives: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw ``negatives`` of the ``candidates`` most similar cells of each anchor, without repetition.

    Args:
        similarity: (N, M) of N anchors and M cells; -inf where a cell is no negative.
        candidates: None takes the most similar ones themselves.
        negatives: wanted; fewer where there are fewer.
        generator: of the random numbers.

    Returns:
        Numbers of cells (N, k), and which of them count (N, k): where an anchor has fewer than k, the rest does not.

    Example:
        >>> hard_negatives(torch.tensor([[0.5, float("-inf"), 0.9, 0.1]]), candidates=None, negatives=2)[0].sort()[0]
        tensor([[0, 2]])
    """
    count = similarity.shape[1]
    wanted = negatives if candidates is None else candidates
    best, cells = largest(similarity, min(wanted, count))
    counts = best > float("-inf")
    if candidates is None or negatives >= cells.shape[1]:
        return cells, counts
    lots = torch.rand(cells.shape, generator=generator, device=cells.device).masked_fill_(~counts, -1)
    drawn = lots.topk(negatives, dim=1, sorted=False).indices
    return cells.gather(1, drawn), counts.gather(1, drawn)

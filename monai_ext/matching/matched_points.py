# SPDX-License-Identifier: Apache-2.0
"""What matching found, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MatchedPoints:
    """Places in the moving volume for N points of the fixed one, all on the CPU.

    A point that is not accepted has its best guess all the same; whoever reads the result decides what to do.

    Attributes:
        points: (N, axes) in mm, in the space that the question was asked in.
        score: (N,) mean similarity of all embeddings, -1 to 1.
        local_score: (N,) similarity of the local embedding (mean with the semantic one where there is one).
        global_score: (N,) similarity of the global embedding.
        cycle_error: (N,) mm between each point and where its match leads back to.
        accepted: (N,) whether nothing speaks against the match.
        fallback: (N,) whether the nearest match had to stand in for the mode that was asked for.
        anchors: (N,) how many neighbouring matches agreed on the point; 0 where it was matched by itself.
        reasons: for each point why it was not accepted or fell back, empty if neither.
    """

    points: Tensor
    score: Tensor
    local_score: Tensor
    global_score: Tensor
    cycle_error: Tensor
    accepted: Tensor
    fallback: Tensor
    anchors: Tensor
    reasons: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.points)

# SPDX-License-Identifier: Apache-2.0
"""What has become of a lesion in one follow-up."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("found", "matched", "uncertain", "lost", "new")

Place = tuple[float, float, float]


@dataclass(frozen=True)
class TrackedLesion:
    """One lesion at both times. Places are in RAS mm, lengths in mm; None is what is not known or does not apply.

    Attributes:
        lesion: its name at baseline; None for a new one.
        status: one of `STATUSES`.
        baseline: where it is at baseline; for a new lesion the place that its own was matched to.
        followup: the place in the follow-up that was matched; for a new lesion its own.
        score: mean similarity of the match, -1 to 1.
        local_score: similarity of the local embedding.
        global_score: similarity of the global embedding.
        cycle_error: distance between where matching began and where it leads back to.
        reason: what speaks against the match, empty if nothing.
        partner: name of the lesion in the follow-up's list that it was assigned to.
        partner_place: where that is.
        distance: between ``followup`` and ``partner_place``.
        limit: largest distance for an assignment.
        baseline_diameter: as the baseline's list says.
        followup_diameter: as the follow-up's list says.
    """

    lesion: str | None
    status: str
    baseline: Place
    followup: Place
    score: float
    local_score: float
    global_score: float
    cycle_error: float
    reason: str
    partner: str | None = None
    partner_place: Place | None = None
    distance: float | None = None
    limit: float | None = None
    baseline_diameter: float | None = None
    followup_diameter: float | None = None

    @property
    def change(self) -> float | None:
        """Diameter at follow-up minus diameter at baseline."""
        if self.baseline_diameter is None or self.followup_diameter is None:
            return None
        return self.followup_diameter - self.baseline_diameter

    @property
    def change_percent(self) -> float | None:
        """The change as a share of the diameter at baseline."""
        return None if self.change is None or not self.baseline_diameter else 100 * self.change / self.baseline_diameter

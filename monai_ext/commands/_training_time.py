# SPDX-License-Identifier: Apache-2.0
"""The time that a training took, to give another one as much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai_ext.commands._bundle import read_json


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of training, and the clock by which they were taken: the knobs time_limit and time_limit_clock.

    On a CPU it is the processor's, which does not count what other programs take from the training; on a GPU, whose
    work that does not show, the wall's.
    """

    seconds: float
    clock: str

    @classmethod
    def of(cls, folder: Path) -> TrainingTime:
        """Read it from what a run left in the folder ``eval`` of ``folder``."""
        record = read_json(folder / "eval" / "run.json")
        clock, key = ("processor", "processor_seconds") if record["device"] == "cpu" else ("wall", "seconds")
        epochs = read_json(folder / "eval" / "history.json")["epochs"]
        return cls(round(sum(row[key] for row in epochs), 1), clock)

    def knobs(self) -> dict[str, object]:
        """Return what gives another training this time."""
        return {"time_limit": self.seconds, "time_limit_clock": self.clock}

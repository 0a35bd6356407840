# SPDX-License-Identifier: Apache-2.0
"""Shows how well points are matched while the network trains: a few pairs as pictures, after each validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_ext.handlers._epoch_pictures import EpochPictures
from monai_ext.handlers._results import CaseResult
from monai_ext.report.match_picture import DrawnMatches, DrawnScan, match_picture

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MatchOverlays(EpochPictures[Image.Image]):
    """Handler for an evaluator of pairs: ``overlays/epoch_0003.png`` with the points of its first pairs.

    Three slices of the fixed scan with its points, below them the moving scan with the places found, coloured by
    their error, and lines to the true ones; see `monai_ext.report.match_picture`. Pictures of two axes are left out,
    with a note in the log. As of `SampleOverlays` the picture goes to TensorBoard and to MLflow, too, and only the
    first process draws, its own pairs. The engine's output is that of `LandmarkScores`.

    Args:
        output_dir: the folder ``overlays`` is made here.
        interval: draw after validations whose epoch is a multiple of this.
        cases: how many pairs are drawn, one below the other.
        slices: of each pair.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval``, ``cases`` or ``slices`` is less than 1.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.

    Example:
        >>> MatchOverlays("eval", cases=1).folder.as_posix()
        'eval/overlays'
    """

    def __init__(
        self,
        output_dir: str | Path,
        interval: int = 1,
        cases: int = 2,
        slices: int = 3,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, interval, cases, summary_writer, log_dir)
        if slices < 1:
            raise ValueError(f"slices must be at least 1, got {slices}.")
        self.slices = slices

    def take(self, name: str, result: CaseResult) -> Image.Image:
        """Draw a pair: its volumes are as large as all else together, so they are not kept."""
        known = {**result.batch, **{key: value for key, value in result.output.items() if value is not None}}
        places = [torch.as_tensor(x).detach().cpu().double().as_subclass(torch.Tensor).numpy() for x in (
            known["points"], known["truth"], known["pred"].points
        )]  # fmt: skip
        return match_picture(_scan(known["reference"]), _scan(known["image"]), DrawnMatches(*places), self.slices)

    def draw(self, samples: list[Image.Image]) -> Image.Image:
        """Put the pairs below each other."""
        sheet = Image.new("RGB", (max(x.width for x in samples), sum(x.height for x in samples)))
        tops = np.cumsum([0, *(x.height for x in samples)]).tolist()
        for sample, top in zip(samples, tops, strict=False):
            sheet.paste(sample, (0, top))
        return sheet


def _scan(image: MetaTensor) -> DrawnScan:
    """Return the first channel of a volume."""
    if not isinstance(image, MetaTensor) or image.ndim != 4:
        raise ValueError("points are drawn into volumes with a known place in the world alone.")
    return DrawnScan(image.as_tensor()[0].detach().cpu().float().numpy(), image.affine.cpu().double().numpy())

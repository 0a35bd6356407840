# SPDX-License-Identifier: Apache-2.0
"""Shows how scans are registered while the network trains: a few pairs as pictures, after each validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monai.data import MetaTensor
from PIL import Image

from monai_ext.handlers._epoch_pictures import EpochPictures
from monai_ext.handlers._registration_case import case_of
from monai_ext.handlers._results import CaseResult
from monai_ext.registration import TransformChain
from monai_ext.report.registration_picture import registration_picture

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GAP = 6  # pixels between pairs


class RegistrationOverlays(EpochPictures[Image.Image]):
    """Handler for an evaluator of pairs: ``overlays/epoch_0003.png`` with checkerboards and grids of its first pairs.

    See `monai_ext.report.registration_picture`; the moving scan is shown from where the first affine map puts it. As of
    `SampleOverlays` the picture goes to TensorBoard and to MLflow, too, and only the first process draws, its own
    pairs. The engine's output is that of `DisplacementScores`.

    Args:
        output_dir: the folder ``overlays`` is made here.
        body_threshold: the body is where the fixed scan is above it; the planes go through its middle.
        interval: draw after validations whose epoch is a multiple of this.
        cases: how many pairs are drawn, one below the other.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval`` or ``cases`` is less than 1.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.

    Example:
        >>> RegistrationOverlays("eval", cases=1).folder.as_posix()
        'eval/overlays'
    """

    def __init__(
        self,
        output_dir: str | Path,
        body_threshold: float | None = None,
        interval: int = 1,
        cases: int = 1,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, interval, cases, summary_writer, log_dir)
        self.body_threshold = body_threshold

    def take(self, name: str, result: CaseResult) -> Image.Image:
        """Return the picture of a pair."""
        case = case_of(result)
        fixed, moving = (MetaTensor(case.scans[key], affine=case.affine) for key in ("fixed", "moving"))
        field = TransformChain(case.transform().parts[:1])
        return registration_picture(fixed, moving, field, case.body(self.body_threshold))

    def draw(self, samples: list[Image.Image]) -> Image.Image:
        """Return the pictures of all pairs, one below the other."""
        width = max(picture.width for picture in samples)
        height = sum(picture.height + GAP for picture in samples) - GAP
        page, top = Image.new("RGB", (width, height)), 0
        for picture in samples:
            page.paste(picture, (0, top))
            top += picture.height + GAP
        return page

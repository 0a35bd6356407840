# SPDX-License-Identifier: Apache-2.0
"""Shows what the network does while it trains: a few cases as pictures, after each validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from monai_ext.data.slices import check_plane
from monai_ext.handlers._drawing import Sample, draw, take_sample
from monai_ext.handlers._epoch_pictures import EpochPictures
from monai_ext.handlers._results import CaseResult

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter


class SampleOverlays(EpochPictures[Sample]):
    """Handler for an evaluator: ``overlays/epoch_0003.png`` with image, truth and prediction of its first cases.

    Of a volume it shows the slice with most of the true object, as radiologists look at it (patient's right on the
    left); classes have the report's colours, which readers with any colour vision can tell apart. Where the
    prediction's metadata record which prompt each slice got, its box is drawn in dashes, its points as + and -. The
    same picture goes to TensorBoard, and to MLflow (as the artifact ``overlays/epoch_0003.png``) when an
    `MLFlowHandler` is attached to the evaluator, which ``--tracking mlflow`` does, or to a trainer that this
    handler is attached to as well. Only the first process draws, its own cases.

    Args:
        output_dir: the folder ``overlays`` is made here.
        interval: draw after validations whose epoch is a multiple of this.
        cases: how many cases are drawn.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        panel: longest side of one picture in pixels.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval`` or ``cases`` is less than 1, or ``plane`` is unknown.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.

    Example:
        >>> from ignite.engine import Engine
        >>> evaluator = Engine(lambda engine, batch: [{"image": batch, "label": batch > 0.5, "pred": batch > 0.4}])
        >>> SampleOverlays("eval", cases=2).attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | Path,
        interval: int = 1,
        cases: int = 4,
        plane: str = "axial",
        panel: int = 256,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, interval, cases, summary_writer, log_dir)
        check_plane(plane)
        self.plane = plane
        self.panel = panel

    def take(self, name: str, result: CaseResult) -> Sample:
        """Keep the slice of a case that is drawn."""
        return take_sample(name, result.output, self.plane)

    def draw(self, samples: list[Sample]) -> Image:
        """Draw image, truth and prediction of each case."""
        return draw(samples, self.panel)

# SPDX-License-Identifier: Apache-2.0
"""Shows what the network does while it trains: a few cases as pictures, after each validation."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.handlers import MLFlowHandler

from monai_ext.data.slices import check_plane
from monai_ext.distributed import is_main
from monai_ext.files import atomic_write
from monai_ext.handlers._drawing import Sample, draw, take_sample
from monai_ext.handlers._results import results_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

TAG = "overlays"


class SampleOverlays:
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
        if interval < 1 or cases < 1:
            raise ValueError(f"interval and cases must be at least 1, got {interval} and {cases}.")
        check_plane(plane)
        self.folder = Path(output_dir) / "overlays"
        self.interval = interval
        self.cases = cases
        self.plane = plane
        self.panel = panel
        self.log_dir = log_dir
        self._writer = summary_writer
        self._engines: list[Engine] = []
        self._samples: list[Sample] = []

    def attach(self, engine: Engine) -> None:
        """Draw for an evaluator; of a trainer only its MLflow handler is used."""
        self._engines.append(engine)
        if isinstance(engine, Trainer):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self._samples = []

    def _collect(self, engine: Engine) -> None:
        if not is_main() or engine.state.epoch % self.interval or len(self._samples) >= self.cases:
            return
        for result in results_of(engine)[: self.cases - len(self._samples)]:
            name = result.name or f"case {len(self._samples) + 1}"
            try:
                self._samples.append(take_sample(name, result.output, self.plane))
            except (ValueError, KeyError) as error:  # a picture less must not cost a training
                logger.warning("%s: not drawn, %s", name, error)

    def _finish(self, engine: Engine) -> None:
        if not self._samples:
            return
        picture = draw(self._samples, self.panel)
        path = self.folder / f"epoch_{engine.state.epoch:04d}.png"
        with atomic_write(path) as temporary:
            picture.save(temporary)
        self._to_tensorboard(picture, engine.state.epoch)
        self._to_mlflow(path)

    def _to_tensorboard(self, picture: Image, epoch: int) -> None:
        if self._writer is None and self.log_dir is not None:
            self._writer = _open_writer(self.log_dir)
        if self._writer is not None:
            self._writer.add_image(TAG, np.asarray(picture), global_step=epoch, dataformats="HWC")
            self._writer.flush()

    def _to_mlflow(self, path: Path) -> None:
        tracker = next((t for engine in self._engines for t in _mlflow_handlers(engine) if t.cur_run is not None), None)
        if tracker is not None:
            tracker.client.log_artifact(tracker.cur_run.info.run_id, str(path), TAG)
            return
        mlflow = sys.modules.get("mlflow")  # a run that the user started; nobody who has not imported it has one
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_artifact(str(path), TAG)


def _mlflow_handlers(engine: Engine) -> Iterator[Any]:
    """Find the MLflow handlers of an engine; ignite keeps no public list of what is attached to it."""
    for handlers in getattr(engine, "_event_handlers", {}).values():
        for handler, *_ in handlers:
            owner = getattr(handler, "__self__", None)
            if isinstance(owner, MLFlowHandler):
                yield owner


def _open_writer(log_dir: str | Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError('drawing into TensorBoard needs it: pip install "monai-ext[tracking]"') from error
    return SummaryWriter(str(log_dir))

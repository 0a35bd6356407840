# SPDX-License-Identifier: Apache-2.0
"""What the handlers that draw share: a picture after each validation, as a file, in TensorBoard and in MLflow."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.handlers import MLFlowHandler

from monai_ext.distributed import is_main
from monai_ext.files import atomic_write
from monai_ext.handlers._results import CaseResult, results_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

TAG = "overlays"
Sample = TypeVar("Sample")


class EpochPictures(ABC, Generic[Sample]):
    """Collects the first cases of a validation, and draws them when it ends.

    Subclasses say what is kept of a case (`take`) and how the kept ones become one picture (`draw`).

    Args:
        output_dir: the folder ``overlays`` is made here.
        interval: draw after validations whose epoch is a multiple of this.
        cases: how many cases are drawn.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval`` or ``cases`` is less than 1.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.
    """

    def __init__(
        self,
        output_dir: str | Path,
        interval: int = 1,
        cases: int = 4,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        if interval < 1 or cases < 1:
            raise ValueError(f"interval and cases must be at least 1, got {interval} and {cases}.")
        self.folder = Path(output_dir) / "overlays"
        self.interval = interval
        self.cases = cases
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

    @abstractmethod
    def take(self, name: str, result: CaseResult) -> Sample:
        """Return what is drawn of a case; ValueError or KeyError where it cannot be drawn."""

    @abstractmethod
    def draw(self, samples: list[Sample]) -> Image:
        """Return one picture of all cases."""

    def _start(self, engine: Engine) -> None:
        self._samples = []

    def _collect(self, engine: Engine) -> None:
        if not is_main() or engine.state.epoch % self.interval or len(self._samples) >= self.cases:
            return
        for result in results_of(engine)[: self.cases - len(self._samples)]:
            name = result.name or f"case {len(self._samples) + 1}"
            try:
                self._samples.append(self.take(name, result))
            except (ValueError, KeyError) as error:  # a picture less must not cost a training
                logger.warning("%s: not drawn, %s", name, error)

    def _finish(self, engine: Engine) -> None:
        if not self._samples:
            return
        picture = self.draw(self._samples)
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

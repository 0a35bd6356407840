# SPDX-License-Identifier: Apache-2.0
"""Shows what a network makes of pictures while it trains: a few of them after each validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from monai_ext.handlers._drawing import Sample, draw_grid, grey_or_rgb
from monai_ext.handlers._epoch_pictures import EpochPictures
from monai_ext.handlers._results import CaseResult

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

WORDS = {"image": "given", "pred": "made of it", "label": "wanted"}


class SamplePictures(EpochPictures[list[Sample]]):
    """Handler for an evaluator: ``overlays/epoch_0003.png`` with what a network made of its first pictures.

    For networks that answer pictures with pictures; otherwise, and where it goes, as `SampleOverlays`. Each picture
    has the range of grey values of its own.

    Args:
        output_dir: the folder ``overlays`` is made here.
        panels: from the output of one case to titles and pictures (C, H, W); None shows ``image``, ``pred`` and
            ``label``, as far as they are pictures.
        interval: draw after validations whose epoch is a multiple of this.
        cases: how many are drawn.
        panel: longest side of one picture in pixels.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval`` or ``cases`` is less than 1.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.

    Example:
        >>> from ignite.engine import Engine
        >>> evaluator = Engine(lambda engine, batch: {"image": batch, "pred": batch.sqrt(), "label": batch})
        >>> SamplePictures("eval", cases=2).attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | Path,
        panels: Callable[[Mapping[str, Any]], dict[str, Tensor]] | None = None,
        interval: int = 1,
        cases: int = 4,
        panel: int = 256,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, interval, cases, summary_writer, log_dir)
        self.panels = _pictures if panels is None else panels
        self.panel = panel

    def take(self, name: str, result: CaseResult) -> list[Sample]:
        """Keep the pictures of a case."""
        pictures = self.panels(result.output)
        if not pictures:
            raise ValueError("there is no picture (C, H, W) in the output.")
        titles = [f"{name}  {title}" if number == 0 else title for number, title in enumerate(pictures)]
        return [
            Sample(title, grey_or_rgb(picture), {}, 1.0)
            for title, picture in zip(titles, pictures.values(), strict=True)
        ]

    def draw(self, samples: list[list[Sample]]) -> Image:
        """Draw a row for each case."""
        return draw_grid(samples, self.panel)


def _pictures(output: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {word: output.get(key) for key, word in WORDS.items()}
    return {word: value for word, value in found.items() if isinstance(value, Tensor) and value.ndim == 3}

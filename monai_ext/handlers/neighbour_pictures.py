# SPDX-License-Identifier: Apache-2.0
"""Which pictures a student finds most alike, beside those that its teacher does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.handlers._drawing import Sample, draw_grid, grey_or_rgb
from monai_ext.handlers._epoch_pictures import EpochPictures
from monai_ext.handlers._results import CaseResult

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter


class SeenPicture(NamedTuple):
    """A picture of the pool.

    Attributes:
        name: of the picture.
        case: the scan it comes from.
        picture: (H, W, 3), uint8.
        student: what the student says about it, (C,).
        teacher: what the teacher does, (C,).
    """

    name: str
    case: str
    picture: np.ndarray
    student: Tensor
    teacher: Tensor


class NeighbourPictures(EpochPictures[SeenPicture]):
    """Handler for an evaluator: ``overlays/epoch_0003.png`` with the nearest neighbours of a few pictures.

    For networks that give a vector for a whole image, with that of a teacher: ``pred`` is a list of two. Each row
    is a picture, the one that the student's vectors find nearest among those of other scans (of its own, if there is
    one scan only), and the one that the teacher's do, with the cosine. Where it goes see `SampleOverlays`.

    Args:
        output_dir: the folder ``overlays`` is made here.
        interval: draw after validations whose epoch is a multiple of this.
        rows: how many pictures are drawn with their neighbours, spread over the pool.
        pool: how many of the first pictures are looked at; their thumbnails are held in memory.
        panel: longest side of one picture in pixels.
        summary_writer: TensorBoard's writer; the caller closes it.
        log_dir: folder of TensorBoard's files, in place of a writer.

    Raises:
        ValueError: ``interval`` or ``rows`` is less than 1, or ``pool`` less than 2.
        ImportError: by the run, when ``log_dir`` is given and the extra ``tracking`` is not installed.

    Example:
        >>> from ignite.engine import Engine
        >>> evaluator = Engine(lambda engine, batch: {"image": batch, "pred": [batch.flatten(1)] * 2})
        >>> NeighbourPictures("eval", rows=2).attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | Path,
        interval: int = 1,
        rows: int = 4,
        pool: int = 256,
        panel: int = 160,
        summary_writer: SummaryWriter | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        super().__init__(output_dir, interval, pool, summary_writer, log_dir)
        if rows < 1 or pool < 2:
            raise ValueError(f"rows must be at least 1 and pool at least 2, got {rows} and {pool}.")
        self.rows = rows
        self.panel = panel

    def take(self, name: str, result: CaseResult) -> SeenPicture:
        """Keep a thumbnail and both vectors."""
        student, teacher = (vector.detach().float().cpu() for vector in result.output["pred"])
        image = result.output["image"].detach().float()
        scale = min(1.0, self.panel / max(image.shape[1:]))
        small = F.interpolate(image[None], scale_factor=scale, mode="bilinear", antialias=True)[0]
        return SeenPicture(name, result.text("case"), grey_or_rgb(small), student.flatten(), teacher.flatten())

    def draw(self, samples: list[SeenPicture]) -> Image:
        """Draw a row for each of a few pictures: itself, the student's neighbour, the teacher's."""
        student = nearest([seen.student for seen in samples], [seen.case for seen in samples])
        teacher = nearest([seen.teacher for seen in samples], [seen.case for seen in samples])
        rows = []
        for place in range(0, len(samples), -(-len(samples) // self.rows)):
            row = [Sample(samples[place].name, samples[place].picture, {}, 1.0)]
            for who, found in (("student", student), ("teacher", teacher)):
                other, cosine = found[place]
                title = f"{who} {cosine:.2f}  {samples[other].name}"
                row.append(Sample(title, samples[other].picture, {}, 1.0))
            rows.append(row)
        return draw_grid(rows, self.panel)


def nearest(vectors: list[Tensor], cases: list[str]) -> list[tuple[int, float]]:
    """For each vector the place and cosine of the most alike one of another case, else of another place, else itself.

    Example:
        >>> nearest([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], ["a", "a", "b"])
        [(2, 0.0), (2, 0.0), (0, 0.0)]
    """
    rows = F.normalize(torch.stack(vectors), dim=1)
    cosines = rows @ rows.T
    same_case = torch.tensor([[one == other for other in cases] for one in cases])
    itself = torch.eye(len(cases), dtype=torch.bool) & (len(cases) > 1)
    excluded = torch.where(same_case.all(dim=1, keepdim=True), itself, same_case)
    best = cosines.masked_fill(excluded, -torch.inf).max(dim=1)
    return list(zip(best.indices.tolist(), cosines.gather(1, best.indices[:, None])[:, 0].tolist(), strict=True))

# SPDX-License-Identifier: Apache-2.0
"""HeldOutLoss: the mean over samples of whatever loss a trainer has, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from ignite.exceptions import NotComputableError
from monai.engines import SupervisedEvaluator

from monai_ext.engines import smaller_is_better
from monai_ext.handlers import HeldOutLoss
from monai_ext.losses import ReconstructionLoss


class Twice(torch.nn.Module):
    """Answers with a list of two, as a distillation does."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image, 3 * image]


def score(sizes: list[int], decollate: bool = False) -> SupervisedEvaluator:
    images = torch.arange(1.0, 7.0)[:, None].split(sizes)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": image} for image in images],
        network=Twice(),
        key_val_metric={"held_out_loss": HeldOutLoss(ReconstructionLoss())},
        metric_cmp_fn=smaller_is_better,
        decollate=decollate,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 1, 3]])
def test_it_does_not_depend_on_how_samples_are_batched(sizes: list[int]) -> None:
    mean_square = sum((2 * value) ** 2 for value in range(1, 7)) / 6
    assert score(sizes).state.metrics["held_out_loss"] == pytest.approx(mean_square, rel=1e-6)


def test_it_is_the_key_metric_and_starts_anew_each_time() -> None:
    evaluator = score([6])
    first = evaluator.state.best_metric
    evaluator.run(global_epoch=2)
    assert evaluator.state.metrics["held_out_loss"] == first == evaluator.state.best_metric


def test_batches_that_were_taken_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="decollate=False"):
        score([6], decollate=True)


def test_without_a_batch_there_is_nothing_to_say() -> None:
    metric = HeldOutLoss(ReconstructionLoss())
    with pytest.raises(NotComputableError):
        metric.compute()

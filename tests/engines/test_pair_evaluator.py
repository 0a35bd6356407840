# SPDX-License-Identifier: Apache-2.0
"""PairEvaluator gives each pair to the inferer, and handlers find items and results side by side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
from ignite.engine import Events
from torch import Tensor

from monai_ext.engines import PairEvaluator


def pairs() -> list[list[dict[str, Any]]]:
    """Two batches: of one pair, and of two, each with its own sizes and numbers of points."""
    sizes = [((1, 4), 3), ((1, 5), 2), ((1, 6), 0)]
    items = [
        {"image": torch.ones(shape), "reference": torch.zeros(shape), "points": torch.ones(n, 3), "case": f"c{n}"}
        for shape, n in sizes
    ]
    return [items[:1], items[1:]]


def evaluator(data: list[Any], inferer: Any, **settings: Any) -> PairEvaluator:
    return PairEvaluator(device="cpu", val_data_loader=data, network=nn.Dropout(), inferer=inferer, **settings)


def test_every_pair_is_matched_with_its_own_points() -> None:
    seen, asked = [], []

    def infer(image: Tensor, network: nn.Module, reference: Tensor, points: Tensor, case: str) -> Tensor:
        asked.append((tuple(image.shape), float(reference.sum()), case, network.training))
        return points * 2

    engine = evaluator(pairs(), infer)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append((e.state.batch, e.state.output)))
    engine.run()
    assert asked == [((1, 4), 0.0, "c3", False), ((1, 5), 0.0, "c2", False), ((1, 6), 0.0, "c0", False)]
    for batch, output in seen:
        assert [torch.equal(item["points"] * 2, found["pred"]) for item, found in zip(batch, output, strict=True)]
        assert all(found["image"] is item["image"] for item, found in zip(batch, output, strict=True))


def test_postprocessing_sees_one_pair_at_a_time() -> None:
    engine = evaluator(pairs(), lambda image, network, **given: given["points"], postprocessing=_count)
    engine.run()
    assert [item["count"] for item in engine.state.output] == [2, 0]


def _count(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "count": len(item["pred"])}


def test_a_collated_batch_is_refused() -> None:
    engine = evaluator([{"image": torch.zeros(1, 1, 4)}], lambda image, network: image)
    with pytest.raises(ValueError, match="collate_fn=list"):
        engine.run()

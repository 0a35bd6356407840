# SPDX-License-Identifier: Apache-2.0
"""Evaluator for pairs of scans, each with as many points as it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from torch import Tensor


class PairEvaluator(SupervisedEvaluator):
    """MONAI's `SupervisedEvaluator` for items that cannot be stacked: two scans of any size and N points.

    A batch is a list of items (``collate_fn=list``); each has the moving scan ``image``, the fixed scan ``reference``,
    ``points`` and a name ``case``, and is given to the inferer as
    ``inferer(image, network, reference=..., points=..., case=...)``. The output is a list of dicts with ``image`` and
    ``pred``, beside the list of items, so that handlers and postprocessing find both as after decollation.

    Args:
        *args: see `monai.engines.SupervisedEvaluator`.
        **kwargs: see `monai.engines.SupervisedEvaluator`; ``decollate`` is not among them.

    Raises:
        ValueError: in ``run()``, for a batch that is no list of dicts.

    Example:
        >>> import torch
        >>> evaluator = PairEvaluator(
        ...     device="cpu", val_data_loader=[[{"image": torch.zeros(1, 2), "points": torch.ones(3, 2)}]],
        ...     network=torch.nn.Identity(), inferer=lambda image, network, points, **_: 2 * points,
        ... )
        >>> evaluator.run()
        >>> evaluator.state.output[0]["pred"].shape
        torch.Size([3, 2])
    """

    ASKED = ("reference", "points", "case")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "decollate": False})

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> Any:
        if not isinstance(batchdata, Sequence) or any(not isinstance(item, Mapping) for item in batchdata):
            raise ValueError(f"a batch must be a list of items (collate_fn=list), got {type(batchdata).__name__}.")
        with engine.mode(engine.network):
            output = [self._match(engine, item) for item in batchdata]
        engine.state.output = output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _match(self, engine: SupervisedEvaluator, item: Mapping[str, Any]) -> dict[str, Any]:
        given = {key: item[key] for key in self.ASKED if key in item}
        scans = {key: given.pop(key) for key in ("reference",) if key in given}
        moved = {key: self._moved(engine, scan) for key, scan in (("image", item["image"]), *scans.items())}
        image = moved.pop("image")
        pred = engine.inferer(image, engine.network, **moved, **given)
        return {"image": item["image"], "pred": pred}

    @staticmethod
    def _moved(engine: SupervisedEvaluator, scan: Tensor) -> Tensor:
        return scan.to(device=engine.state.device, non_blocking=engine.non_blocking)

# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's training task for one of our bundles, with the few knobs that a viewer's user needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai_ext.errors import InputError

VAL_SPLIT = 0.2
Request = Mapping[str, Any]
Studies = list[dict[str, Any]]


class LearnsFromLabels:
    """What our tasks do beyond MONAI Label's `BundleTrainTask`, before which it stands among the base classes.

    - The epochs and the learning rate are the bundle's own unless the request says otherwise, and set its knobs, so
      that what follows from them (the decay of the rate) does, too.
    - Studies are shared out by their names: one more label moves few others between training and validation.
    - Training begins with the weights that are served, or with those of the bundle's config (``pretrained`` false).
    - Training on several GPUs that fails is an error.
    """

    # what MONAI Label's class has
    bundle_path: str
    bundle_config: Any

    _asked: Request = MappingProxyType({})

    def config(self) -> dict[str, Any]:
        """Return the knobs with their defaults, as viewers show them."""
        from monailabel.utils.others.generic import device_list

        knobs = {name: self.bundle_config.get(name) for name in ("max_epochs", "learning_rate")}
        ours = {"val_split": VAL_SPLIT, "pretrained": True, "device": device_list(), "multi_gpu": True, "gpus": "all"}
        return {**{name: value for name, value in knobs.items() if value is not None}, **ours}

    def __call__(self, request: Request, datastore: Any) -> Any:
        """Train on the studies with final labels.

        Raises:
            InputError: there are fewer than two.
        """
        self._asked = request
        epochs = request.get("max_epochs", self.bundle_config.get("max_epochs"))
        return super().__call__({"run_id": "run", **request, "max_epochs": epochs}, datastore)  # type: ignore[misc]

    def _partition_datalist(self, studies: Studies, request: Request, shuffle: bool = False) -> tuple[Studies, Studies]:
        return share_out(studies, request.get("val_split", VAL_SPLIT))

    def _load_checkpoint(self, weights: str, pretrained: bool, handlers: list[Any]) -> None:
        if pretrained:  # MONAI Label fails where it is false
            super()._load_checkpoint(weights, pretrained, handlers)  # type: ignore[misc]

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        known = ("max_epochs", "learning_rate")
        overrides |= {name: self._asked[name] for name in known if name in self._asked and name in self.bundle_config}
        return overrides

    def _run_command(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        subprocess.run([sys.executable, "-m", "torch.distributed.run", *command[1:]], env=environment, check=True)


def build_trainer(folder: Path, conf: Mapping[str, str]) -> Any:
    """Return what trains a bundle, None if it has no ``train.json``."""
    from monailabel.tasks.train.bundle import BundleTrainTask

    class TrainTask(LearnsFromLabels, BundleTrainTask):
        pass

    task = TrainTask(str(folder), dict(conf))
    return task if task.is_valid() else None


def check_labels(count: int) -> None:
    """Refuse to train on too few studies.

    Raises:
        InputError: there are fewer than two with a final label.
    """
    if count < 2:
        raise InputError(f"train: {count} studies have a final label, wanted 2, to train on and to validate on.")


def share_out(studies: Sequence[dict[str, Any]], fraction: float) -> tuple[Studies, Studies]:
    """Return the studies to train on and those to validate on, one of each at least.

    Args:
        studies: with the path of their ``image``.
        fraction: to validate on.

    Raises:
        InputError: there are fewer than two studies.

    Example:
        >>> train, val = share_out([{"image": f"{number}.nii.gz"} for number in range(10)], 0.2)
        >>> len(train), len(val)
        (8, 2)
    """
    check_labels(len(studies))
    count = min(max(round(len(studies) * fraction), 1), len(studies) - 1)
    ordered = sorted(studies, key=lambda study: sha256(Path(study["image"]).name.encode()).hexdigest())
    return ordered[count:], ordered[:count]

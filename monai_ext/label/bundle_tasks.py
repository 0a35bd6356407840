# SPDX-License-Identifier: Apache-2.0
"""MONAI Label's inference task for one of our bundles, which does not prepare the same scan twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from threading import RLock
from typing import Any

from monai.data import MetaTensor
from monai.utils import TraceKeys

from monai_ext.errors import InputError
from monai_ext.label.kept_scans import KeptScans
from monai_ext.label.model_kind import MATCHING, SEGMENTATION, model_kind
from monai_ext.transforms import PromptFromRequestd, ReferenceFromRequestd

READ_THE_REQUEST = (PromptFromRequestd, ReferenceFromRequestd)
CLICKS, AUTOMATIC, NO_TOOL = "deepgrow", "segmentation", "others"  # types of MONAI Label, by which viewers offer tools
Transforms = Sequence[Callable[..., Any]]


class KeepsScans:
    """What our tasks do beyond MONAI Label's `BundleInferTask`, before which it stands among the base classes.

    - What comes before the first transform that reads the request is the same for all requests on a scan: it is done
      once, and kept while there is room (`KeptScans`). The embedding of a slice is kept with the network
      (`monai_ext.inferers.PromptedSliceInferer`). So the second click on a slice costs a decode.
    - Requests run in parallel. The bundle's config and network are built by one thread at a time. Each request has
      transforms of its own, since MONAI's change while they invert (they stop tracing) and would disturb each other.
    """

    def __init__(self, folder: Path, conf: Mapping[str, str], kind: str, kept: KeptScans) -> None:
        self.name = folder.name
        self.kept = kept
        self._building = RLock()
        super().__init__(str(folder), dict(conf), type=kind)  # type: ignore[call-arg]  # MONAI Label's task

    def pre_transforms(self, data: Any = None) -> Transforms:
        """Return the bundle's preprocessing."""
        with self._building:
            return deepcopy(super().pre_transforms(data))  # type: ignore[misc]

    def inferer(self, data: Any = None) -> Any:
        """Return the bundle's inferer."""
        with self._building:
            return super().inferer(data)  # type: ignore[misc]

    def post_transforms(self, data: Any = None) -> Transforms:
        """Return the bundle's postprocessing."""
        with self._building:
            return deepcopy(super().post_transforms(data))  # type: ignore[misc]

    def run_pre_transforms(self, data: dict[str, Any], transforms: Transforms) -> Any:
        """Prepare a scan, or take it as it was prepared, and then read the request."""
        count = next((n for n, one in enumerate(transforms) if isinstance(one, READ_THE_REQUEST)), 0)
        path = data.get("image")
        if not count or not isinstance(path, str):
            prepared = super().run_pre_transforms(data, transforms)  # type: ignore[misc]
            return {**prepared, "image": _untied(prepared["image"])}
        run = super().run_pre_transforms  # type: ignore[misc]

        def make() -> MetaTensor:
            return _untied(run({"image": path}, transforms[:count])["image"])

        scan = self.kept.get((self.name, path, *_state(path)), make)
        return run({**data, "image": scan}, transforms[count:])

    def _get_network(self, device: Any, data: Any) -> Any:
        with self._building:
            return super()._get_network(device, data)  # type: ignore[misc]


def build_tasks(folder: Path, conf: Mapping[str, str], kept: KeptScans, cache: Path) -> dict[str, Any]:
    """Return the models that a bundle gives: one, or two for bundles that take clicks but need none.

    Args:
        folder: of the bundle, with its weights.
        conf: of the app, for MONAI Label.
        kept: room for prepared scans.
        cache: folder for what may be kept on the disk.

    Raises:
        InputError: the bundle is none that can be served.
    """
    kind = model_kind(folder)
    if kind == SEGMENTATION:
        return {folder.name: _build(folder, conf, kept, AUTOMATIC)}
    if kind == MATCHING:
        task = _build(folder, conf, kept, NO_TOOL)
        # each scan is embedded once, whoever asks for it in whichever pair
        task.bundle_config["embedding_dir"] = str(cache / f"{folder.name}_embeddings")
        return {folder.name: task}
    clicked = _build(folder, conf, kept, CLICKS)
    automatic = _build(folder, conf, kept, AUTOMATIC)
    automatic.network, automatic._networks = clicked.network, clicked._networks  # one network for both
    return {folder.name: clicked, f"{folder.name}_automatic": automatic}


def _build(folder: Path, conf: Mapping[str, str], kept: KeptScans, kind: str) -> Any:
    from monailabel.tasks.infer.bundle import BundleInferTask

    class BundleTask(KeepsScans, BundleInferTask):
        pass

    task = BundleTask(folder, conf, kind, kept)
    if not task.is_valid():
        raise InputError(f"{folder}: MONAI Label does not take this bundle; its log says why.")
    return task


def _untied(scan: MetaTensor) -> MetaTensor:
    """Let any copy of the transforms invert what has been done to a scan."""
    for done in scan.applied_operations:
        done[TraceKeys.ID] = TraceKeys.NONE
    return scan


def _state(path: str) -> tuple[int, int]:
    """Return what changes when a scan does."""
    files = [Path(path)] if Path(path).is_file() else sorted(Path(path).iterdir())
    states = [file.stat() for file in files]
    return max((state.st_mtime_ns for state in states), default=0), sum(state.st_size for state in states)

# SPDX-License-Identifier: Apache-2.0
"""MONAI Label app that serves our bundles."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from torch import cuda

from monai_ext import __version__
from monai_ext.distinct_names import check_distinct
from monai_ext.errors import InputError, find_input_error, message_of
from monai_ext.label.bundle_tasks import CLICKS, build_tasks
from monai_ext.label.dicom_folders import local_datastore
from monai_ext.label.kept_labels import with_checked_labels
from monai_ext.label.kept_scans import KeptScans
from monai_ext.label.model_kind import MATCHING, model_kind
from monai_ext.label.request_rules import batch_options, check_name, clicked_slice, infer_options, train_options
from monai_ext.label.sent_scan import check_sent_scan
from monai_ext.label.training_task import build_trainer

KEEP_MB, PARALLEL = 2000.0, 2
Request = Mapping[str, Any]

MAIN = '''"""MONAI Label app of monai-ext, written by `python -m monai_ext label`."""

from monailabel.interfaces.app import MONAILabelApp

from monai_ext.label import BundleApp


class App(BundleApp, MONAILabelApp):
    """The bundles that ``--conf models`` names."""
'''


class BundleApp:
    """What our app does beyond MONAI Label's `MONAILabelApp`, before which it stands among the base classes.

    Its models are bundles: those that take clicks and boxes (SAM-SP, DeSAM) with the type for which 3D Slicer and
    OHIF offer tools, and once more as automatic models; anatomical embedding, which finds points of one study in
    another; and all others as automatic models. Those with a ``train.json`` can be trained.

    A request may name studies of the datastore, what a session holds, and options that are known
    (`monai_ext.label.request_rules`); it can reach no other file, and nothing of it becomes code.

    Args:
        app_dir: the server's own folder.
        studies: folder of the studies, or the address of a DICOMweb server.
        conf: ``models`` are the bundles' folders with ``os.pathsep`` between them; ``keep_mb`` is room for prepared
            scans in MB, ``parallel`` how many requests are computed at the same time; MONAI Label has further ones.

    Raises:
        InputError: no bundles are named, two have the same name, or one cannot be served.
    """

    # what MONAI Label's class has
    app_dir: str
    studies: str
    conf: dict[str, str]
    _infers: dict[str, Any]
    _trainers: dict[str, Any]
    _strategies: dict[str, Any]

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._folders = _bundle_folders(conf)
        self._kept = KeptScans(int(float(conf.get("keep_mb", KEEP_MB)) * 1e6))
        self._places = BoundedSemaphore(int(conf.get("parallel", PARALLEL)))
        super().__init__(  # type: ignore[call-arg]
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="monai-ext",
            description="Segmentation with prompts, and matching, by bundles of monai-ext",
            version=__version__,
        )

    def init_infers(self) -> dict[str, Any]:
        """Return the models by name."""
        models: dict[str, Any] = {}
        for folder in self._folders.values():
            models |= build_tasks(folder, self.conf, self._kept, Path(self.app_dir))
        return models

    def init_trainers(self) -> dict[str, Any]:
        """Return what trains them."""
        learning = {name: folder for name, folder in self._folders.items() if model_kind(folder) != MATCHING}
        tasks = {name: build_trainer(folder, self.conf) for name, folder in learning.items()}
        return {name: task for name, task in tasks.items() if task is not None}

    def init_datastore(self) -> Any:
        """Return the studies; of a folder also those that are DICOM series in sub-folders."""
        if self.studies.startswith(("http://", "https://")):
            return with_checked_labels(super().init_datastore())  # type: ignore[misc]
        return local_datastore(self.studies, Path(self.app_dir) / "converted")

    def bundle_path(self, model: str) -> str:
        """Return the folder of a model's bundle, which background tasks may import from.

        Raises:
            InputError: there is no such model.
        """
        return str(self._folders[self._model(model).name])

    def infer(self, request: Request, datastore: Any = None) -> dict[str, Any]:
        """Answer one request, see MONAI Label.

        Raises:
            InputError: the client can mend it.
        """
        store = datastore if datastore is not None else self.datastore()  # type: ignore[attr-defined]
        task = self._model(request.get("model"))
        asked = {"result_extension": ".nii.gz", "result_dtype": "uint8", **infer_options(request)}
        image, in_store = self._image(request.get("image"), store)
        if _is_picture(image):
            asked["result_extension"] = ".png"
        elif task.type == CLICKS and "slice" not in asked and (clicked := clicked_slice(asked)) is not None:
            asked["slice"] = clicked
        if "reference" in asked and in_store:
            asked["reference"] = Path(_uri(store, asked["reference"])).name
        file, answer = self._run(task, {**asked, "image": image, "model": request["model"]})
        label = file
        if file and asked.get("save_label") and in_store:
            tag = asked.get("label_tag", "original")
            info = {"model": request["model"], "params": answer}
            info |= {"user": request["user"]} if request.get("user") else {}  # of a batch, which is no request itself
            label = store.save_label(request["image"], file, tag, info)
        return {"label": label, "tag": "original", "file": file, "params": answer}

    def batch_infer(self, request: Request, datastore: Any = None) -> Any:
        """Answer one request for many studies, see MONAI Label.

        Raises:
            InputError: the client can mend it.
        """
        asked = {**self.batch_request(request), "user": request.get("user")}
        return super().batch_infer(asked, datastore)  # type: ignore[misc]

    def batch_request(self, request: Request) -> dict[str, Any]:
        """Return what a client's request for many studies comes to.

        Raises:
            InputError: the client can mend it.
        """
        self._model(request.get("model"))
        asked = {**batch_options(request), "model": request["model"]}
        asked["multi_gpu"] = asked.get("multi_gpu", True) and cuda.is_available()  # MONAI Label counts GPUs, even none
        return asked

    def train(self, request: Request) -> Any:
        """Train a model on the studies with final labels, see MONAI Label.

        Raises:
            InputError: the client can mend it.
        """
        return super().train(self.train_request(request))  # type: ignore[misc]

    def train_request(self, request: Request) -> dict[str, Any]:
        """Return what a client's request for a training comes to.

        Raises:
            InputError: the client can mend it.
        """
        model = check_name("model", request.get("model"))
        if model not in self._trainers:
            known = ", ".join(self._trainers) or "none"
            raise InputError(f"model: {model} cannot be trained; those that can: {known}.")
        return {**train_options(request), "model": model}

    def next_sample(self, request: Request) -> Any:
        """Choose the study to label next, see MONAI Label.

        Raises:
            InputError: there is no such strategy.
        """
        strategy = check_name("strategy", request.get("strategy"))
        if strategy not in self._strategies:
            raise InputError(f"strategy: there is no {strategy}; one of: {', '.join(self._strategies)}.")
        return super().next_sample(request)  # type: ignore[misc]

    def infer_wsi(self, request: Request, datastore: Any = None) -> Any:
        """Refuse: no bundle works on whole slides.

        Raises:
            InputError: always.
        """
        raise InputError("whole slides are not served here; use /infer.")

    def _download_dcmqi_tools(self) -> None:
        """Load no program from the network; DICOM-SEG is written by `monai_ext.label.dicom_seg`."""

    def _model(self, name: object) -> Any:
        model = check_name("model", name)
        if model not in self._infers:
            raise InputError(f"model: there is no {model}; one of: {', '.join(self._infers)}.")
        return self._infers[model]

    def _image(self, image: object, store: Any) -> tuple[str, bool]:
        """Return the file of a study, of a session, or of an upload, and whether it is a study."""
        if isinstance(image, str) and os.path.isabs(image):  # never from a client, see `monai_ext.label.server`
            path = Path(image).resolve()
            own = (Path(self.app_dir).resolve(), Path(tempfile.gettempdir()).resolve())
            if not path.exists() or not any(path.is_relative_to(folder) for folder in own):
                raise InputError("image: the session or upload is gone; send the image again.")
            check_sent_scan("image", path)
            return str(path), False
        return _uri(store, image), True

    def _run(self, task: Any, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        try:
            with self._places:
                return task(request)
        except Exception as error:
            wanted = find_input_error(error)
            if wanted is None:
                raise
            raise InputError(message_of(wanted)) from error


def _bundle_folders(conf: Mapping[str, str]) -> dict[str, Path]:
    folders = [Path(name) for name in conf.get("models", "").split(os.pathsep) if name]
    if not folders:
        raise InputError("models: names no bundle; give folders of bundles.")
    names = [folder.name for folder in folders]
    check_distinct("models", names, "a server's models have different names")
    return dict(zip(names, folders, strict=True))


def _uri(store: Any, image: object) -> str:
    """Return the file of a study."""
    name = check_name("image", image)
    name = store.name_of(name) if hasattr(store, "name_of") else name
    if name not in store.list_images():
        raise InputError(f"image: there is no study {name} here; GET /datastore/?output=all lists them.")
    return str(store.get_image_uri(name))


def _is_picture(path: str) -> bool:
    return path.lower().endswith((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"))

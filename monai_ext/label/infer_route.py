# SPDX-License-Identifier: Apache-2.0
"""`POST /infer/MODEL` in a thread of its own: MONAI Label's own blocks the whole server while it computes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.errors import InputError
from monai_ext.label.dicom_seg import write_dicom_seg
from monai_ext.label.request_rules import check_name, infer_options
from monai_ext.label.sent_scan import SENT_SUFFIXES

OUTPUTS = ("image", "json", "all", "dicom_seg")


async def infer_route(request: Any) -> Any:
    """Answer a request as MONAI Label does: multipart of labels and JSON, or what ``output`` says.

    Raises:
        InputError: the client can mend it.
    """
    from starlette.concurrency import run_in_threadpool

    async with request.form(max_files=2, max_fields=20) as form:
        return await run_in_threadpool(_answer, request.path_params["model"], request.query_params, form)


def _answer(model: str, query: Any, form: Any) -> Any:
    from monailabel.endpoints.infer import send_response
    from monailabel.interfaces.utils.app import app_instance
    from starlette.background import BackgroundTasks
    from starlette.responses import JSONResponse, Response

    app = app_instance()
    output = query.get("output") or "all"
    if output not in OUTPUTS:
        raise InputError(f"output: must be one of {', '.join(OUTPUTS)}, got {output!r}.")
    options = infer_options(_params(form.get("params")))
    image, upload = _image(app, query, form.get("file"))
    series = _series(app.datastore(), query.get("image")) if output == "dicom_seg" else None
    tasks = BackgroundTasks()
    try:
        result = app.infer({**options, "model": model, "image": image})
    finally:
        if upload:
            os.unlink(upload)
    if series is not None:
        result["dicom_seg"] = _dicom_seg(series, result, options.get("label_info", ()))
        tasks.add_task(os.unlink, result["dicom_seg"])
    answer = send_response(app.datastore(), result, output, tasks)
    response = answer if isinstance(answer, Response) else JSONResponse(answer)
    response.background = tasks
    return response


def _dicom_seg(series: Path, result: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> Path:
    labels = Path(result["file"])
    try:
        return write_dicom_seg(series, labels, result["params"].get("label_names") or {}, told)
    except BaseException:
        labels.unlink(missing_ok=True)  # what is sent is removed afterwards, and this is not
        raise


def _params(given: object) -> dict[str, Any]:
    try:
        params = json.loads(given) if isinstance(given, str) and given else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"params: is no valid JSON ({error}).") from error
    if not isinstance(params, dict):
        raise InputError(f"params: must be a JSON object, got a {type(params).__name__}.")
    return params


def _image(app: Any, query: Any, file: Any) -> tuple[str, str]:
    """Return what is to be worked on, and the file of an upload, which is to be removed afterwards."""
    session = query.get("session_id")
    if session:
        found = app.sessions().get_session(check_name("session_id", session))
        if found is None:
            raise InputError(f"session_id: there is no session {session}; it may have ended, send the image again.")
        return str(found.image), ""
    if file is not None and not isinstance(file, str):
        name = (file.filename or "").lower()
        suffix = next((suffix for suffix in SENT_SUFFIXES if name.endswith(suffix)), None)
        if suffix is None:
            raise InputError(f"file: must be a scan ({', '.join(SENT_SUFFIXES)}), got {name[:60]!r}.")
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as buffer:
            shutil.copyfileobj(file.file, buffer)
        return buffer.name, buffer.name
    return check_name("image", query.get("image")), ""


def _series(store: Any, image: object) -> Path:
    """Return the DICOM files of a study."""
    name = check_name("image", image)
    name = store.name_of(name) if hasattr(store, "name_of") else name
    file = store.get_image_uri(name) if name in store.list_images() else ""
    local = getattr(store, "dicom_folder", None)
    # MONAI Label keeps what it loaded from a DICOMweb server in a folder beside the converted file
    folder = local(name) if local is not None else Path(file).with_name(name)
    if not file or folder is None or not folder.is_dir():
        raise InputError(f"image: {name} is no DICOM study, so there is no DICOM-SEG for it; ask for output=image.")
    return Path(folder)

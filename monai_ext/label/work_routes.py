# SPDX-License-Identifier: Apache-2.0
"""Trainings and batches in the background: `POST`, `GET` and `DELETE` of ``/train/`` and ``/batch/infer``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from monai_ext.errors import InputError
from monai_ext.label.asking_user import asking_user
from monai_ext.label.training_task import check_labels

IMAGES = ("all", "labeled", "unlabeled")


def work_routes() -> list[Any]:
    """Return the routes that start work; MONAI Label's own answer how it goes, and end it.

    MONAI Label starts a process first and looks at the request there; here a wrong one is refused with a reason. Its
    option ``run_sync``, with which the whole server stands still until the work is done, is not taken.
    """
    from starlette.routing import Route

    return [
        Route("/train/{model}", _starts(_train), methods=["POST"]),
        Route("/train/", _starts(_train_all), methods=["POST"]),
        Route("/batch/infer/{model}", _starts(_batch), methods=["POST"]),
    ]


def _starts(begin: Callable[[Any, Mapping[str, str], Mapping[str, str], dict[str, Any]], Any]) -> Any:
    """Return a route that hands path, query, and JSON of a request to what begins the work."""
    from fastapi.encoders import jsonable_encoder
    from monailabel.interfaces.utils.app import app_instance
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse

    async def route(request: Any) -> Any:
        params = _json(await request.body())
        begun = await run_in_threadpool(begin, app_instance(), request.path_params, request.query_params, params)
        if begun is None:
            return JSONResponse({"detail": "the same is being done already; wait, or stop it first."}, status_code=429)
        return JSONResponse(jsonable_encoder(begun))  # what has begun may have told something already

    return route


def _train(app: Any, path: Mapping[str, str], query: Mapping[str, str], params: dict[str, Any]) -> Any:
    asked = app.train_request({**params, "model": path["model"]})
    check_labels(len(app.datastore().get_labeled_images()))
    return _begin("train", asked, enqueue=query.get("enqueue", "").lower() in ("true", "1", "yes", "on"))


def _train_all(app: Any, path: Mapping[str, str], query: Mapping[str, str], params: dict[str, Any]) -> Any:
    """Train one model after the other; the options stand under the models' names, as OHIF sends them."""
    check_labels(len(app.datastore().get_labeled_images()))
    options = {model: params.get(model) for model in app.info()["trainers"]}
    asked = [app.train_request({**(own if isinstance(own, dict) else {}), "model": m}) for m, own in options.items()]
    begun: dict[str, Any] = {}
    for one in asked:
        result = _begin("train", one, enqueue=bool(begun))
        if result is None:
            return None
        begun[one["model"]] = {"result": result, "detail": None}
    return begun


def _batch(app: Any, path: Mapping[str, str], query: Mapping[str, str], params: dict[str, Any]) -> Any:
    images = query.get("images") or "all"
    if images not in IMAGES:
        raise InputError(f"images: must be one of {', '.join(IMAGES)}, got {images!r}.")
    asked = app.batch_request({"images": images, **params, "model": path["model"]})
    return _begin("batch_infer", {**asked, "user": asking_user() or None})


def _begin(method: str, request: dict[str, Any], enqueue: bool = False) -> Any:
    from monailabel.utils.async_tasks.task import AsyncTask

    return AsyncTask.run(method, request=request, enqueue=enqueue)[0]


def _json(body: bytes) -> dict[str, Any]:
    try:
        params = json.loads(body) if body else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no valid JSON ({error}).") from error
    if params is not None and not isinstance(params, dict):
        raise InputError(f"the body must be a JSON object, got a {type(params).__name__}.")
    return params or {}

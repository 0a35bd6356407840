# SPDX-License-Identifier: Apache-2.0
"""What viewers ask of a server, in the requests that they send."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import nibabel as nib
from requests_toolbelt import MultipartDecoder

from tests.served.server import Server

UNFINISHED = ("SUBMITTED", "RUNNING")


class Answer(NamedTuple):
    """A label map and what came with it."""

    labels: nib.Nifti1Image
    params: dict[str, Any]


def infer(server: Server, model: str, image: str, **params: Any) -> Answer:
    """Have a study segmented; the parameters are the model's options, clicks among them."""
    body = {"params": json.dumps({"result_extension": ".nii.gz", "result_dtype": "uint8", **params})}
    response = server.post(f"/infer/{model}", params={"image": image, "output": "all"}, data=body)
    assert response.ok, server.tail()
    parts = MultipartDecoder.from_response(response).parts
    return Answer(nifti(parts[1].content), json.loads(parts[0].content))


def nifti(content: bytes) -> nib.Nifti1Image:
    """Content of a ``.nii.gz`` file."""
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def save_label(server: Server, image: str, label: nib.Nifti1Image, **info: Any) -> None:
    """Hand in a finished label, with words about it."""
    file = gzip.compress(label.to_bytes())
    sent = {"data": {"params": json.dumps(info)}, "files": {"label": ("label.nii.gz", file)}}
    assert server.put("/datastore/label", params={"image": image}, **sent).ok, server.tail()


def saved_label(server: Server, image: str, tag: str = "final") -> nib.Nifti1Image:
    """Fetch a label from the store."""
    response = server.get("/datastore/label", params={"label": image, "tag": tag})
    assert response.ok, server.tail()
    return nifti(response.content)


def work(server: Server, task: str, name: str, seconds: float = 600, **options: Any) -> None:
    """Have ``train``, ``batch/infer`` or ``scoring`` done in the background, and wait for it."""
    submitted = server.post(f"/{task}/{name}", **options)
    assert submitted.ok, server.tail()
    end = time.monotonic() + seconds
    while True:
        state = server.get(f"/{task}/").json()
        if state["id"] == submitted.json()["id"] and state["status"] not in UNFINISHED:
            break
        assert time.monotonic() < end, server.tail()
        time.sleep(0.3)
    assert state["status"] == "DONE", server.tail(100)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something is true; a viewer takes its time on a slow machine."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)

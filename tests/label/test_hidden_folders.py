# SPDX-License-Identifier: Apache-2.0
"""Answers name files and not where they lie; what is no text passes byte for byte."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from monai_ext.label.hidden_folders import HiddenFolders, Message, Receive, Send


def answer(folders: list[str], kind: bytes, *parts: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """What comes through of an answer in parts."""
    sent: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-type", kind), (b"content-length", length), (b"x-other", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, part in enumerate(parts, start=1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(HiddenFolders(app, folders)({"type": "http"}, receive, send))
    return dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/scans/a.nii.gz: 3 voxels are NaN", "a.nii.gz: 3 voxels are NaN"),
        ("/srv/app/tmp/x.nii.gz and /srv/app/main.py", "x.nii.gz and main.py"),
        ("/data/scans", ""),
        ("/data/scans2/a and /data/scans.old/a", "/data/scans2/a and /data/scans.old/a"),
        ("GET /datastore/?output=all", "GET /datastore/?output=all"),
    ],
)
def test_a_file_is_named_without_its_folder(text: str, expected: str) -> None:
    folders = ["/data/scans", "/srv/app", "/srv/app/tmp"]
    headers, body = answer(folders, b"application/json; charset=utf-8", json.dumps({"detail": text}).encode())
    assert json.loads(body) == {"detail": expected}
    assert (headers[b"content-length"], headers[b"x-other"]) == (str(len(body)).encode(), b"1")


def test_a_path_that_two_parts_share_is_found() -> None:
    assert answer(["/data/scans"], b"text/plain", b"see /data/sc", b"ans/a.nii.gz")[1] == b"see a.nii.gz"


def test_voxels_pass_as_they_are() -> None:
    headers, body = answer(["/data/scans"], b"application/octet-stream", b"/data/scans/", b"\x00")
    assert (body, headers[b"content-length"]) == (b"/data/scans/\x00", b"13")


def test_a_folder_that_is_a_link_is_left_out_by_both_its_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    text = f"{tmp_path}/real/a {tmp_path}/link/b".encode()
    assert answer([str(tmp_path / "link")], b"text/plain", text)[1] == b"a b"


def test_the_root_of_the_machine_is_no_folder_to_hide() -> None:
    assert answer(["/", "/data"], b"text/plain", b"/a /data/b")[1] == b"/a b"

# SPDX-License-Identifier: Apache-2.0
"""Answers name the server's files without the folders that they lie in."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

TEXTS = (b"application/json", b"text/plain")


class HiddenFolders:
    """ASGI application in front of another; it takes the paths of folders out of answers that are JSON or text.

    Error messages, sessions, lists of studies, and the last lines of a training name files of the server. A client
    needs the names; where on the machine they lie is nobody's business.

    Args:
        app: what is behind it.
        folders: paths of folders; wherever one of them stands in an answer, it is left out.
    """

    def __init__(self, app: App, folders: Iterable[str | Path]) -> None:
        self.app = app
        spelled = {
            str(spelling) for folder in folders for spelling in (Path(folder).absolute(), Path(folder).resolve())
        }
        longest_first = sorted(spelled - {"/"}, key=len, reverse=True)
        self._places = re.compile("|".join(re.escape(path) + r"(?:/+|(?![\w.-]))" for path in longest_first).encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        content = b""

        async def kept(message: Message) -> None:
            nonlocal start, content
            if message["type"] == "http.response.start" and _is_text(message):
                start = message  # its length is known when the text is
            elif start is None:
                await send(message)
            else:
                content += message.get("body", b"")
                if not message.get("more_body"):
                    text = self.without_folders(content)
                    await send({**start, "headers": _with_length(start["headers"], len(text))})
                    await send({"type": "http.response.body", "body": text})

        await self.app(scope, receive, kept)

    def without_folders(self, text: bytes) -> bytes:
        """Return a text in which files are named without their folders.

        Example:
            >>> HiddenFolders(None, ["/data/scans"]).without_folders(b"/data/scans/a.nii.gz is empty")
            b'a.nii.gz is empty'
        """
        return self._places.sub(b"", text)


def _is_text(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return bool(kinds) and kinds[0].split(b";")[0].strip().lower() in TEXTS


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*others, (b"content-length", str(length).encode())]

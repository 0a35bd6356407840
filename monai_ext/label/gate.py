# SPDX-License-Identifier: Apache-2.0
"""What every request passes before MONAI Label sees it: who asks, from where, for what, and how much they send."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from monai_ext.errors import InputError
from monai_ext.label.accounts import Accounts
from monai_ext.label.asking_user import asking
from monai_ext.label.request_rules import check_name

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

NAMES = ("image", "label", "id", "tag", "session_id")  # in the query: they become parts of paths
OPEN = {("GET", "/auth/"), ("GET", "/auth"), ("POST", "/auth/token")}
READ = ("GET", "HEAD")
OFFERED = {  # first part of the path -> methods; MONAI Label has more, which can replace weights
    "": READ,
    "info": READ,
    "ohif": READ,
    "static": READ,
    "docs": READ,
    "openapi.json": READ,
    "favicon.ico": READ,
    "model": READ,
    "infer": ("POST",),
    "batch": ("GET", "POST", "DELETE"),
    "train": ("GET", "POST", "DELETE"),
    "activelearning": ("POST",),
    "datastore": ("GET", "HEAD", "PUT", "DELETE"),
    "session": ("GET", "PUT", "DELETE"),
    "proxy": READ,  # to the studies' DICOMweb server, or our own
}
NOT_OFFERED = (  # of these: whole slides; an archive that stays on the disk; all that destroys studies
    ("POST", "/infer/wsi"),
    ("GET", "/datastore/dataset"),
    ("DELETE", "/datastore/image"),
)
UPLOADS = (("PUT", "datastore"), ("PUT", "session"), ("POST", "infer"))
FORM_BYTES = 10_000
JSON_BYTES = 1_000_000
WRONG_PASSWORD_SECONDS = 1.0
FOR_THE_GATE = (b"authorization", b"cookie")


class Gate:
    """ASGI application in front of another; it refuses, or hands on.

    - 403 for what a page of another site sends (its ``Origin``), and for a ``Host`` that is not the server's: a web
      page that a user happens to visit must not reach a server on the same machine;
    - 401 without a user's name and password, if there are accounts; ``/auth/`` answers as MONAI Label's clients expect;
    - 404 for what is not offered;
    - 400 for ids and tags that could lead out of a folder;
    - 413 for bodies that are too large, whether they say so first or not.

    What is behind it learns who asks (`asking_user`), and no password: MONAI Label would send it on to the studies'
    DICOMweb server.

    Args:
        app: what is behind it.
        accounts: who may ask; None for everybody.
        hosts: names by which clients may call the server; None for any.
        max_bytes: that a request with a file may send; others may send a megabyte.
    """

    def __init__(
        self,
        app: App,
        accounts: Accounts | None = None,
        hosts: Collection[str] | None = None,
        max_bytes: int = 2_000_000_000,
    ) -> None:
        self.app = app
        self.accounts = accounts
        self.hosts = hosts
        self.max_bytes = max_bytes
        self._guesses = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(_Request(scope, receive, send))

    async def _serve(self, request: _Request) -> None:
        if not self._is_from_here(request):
            await request.answer(403, "a page of another site, or another name of this server; open it by its address.")
            return
        user = None if self.accounts is None else self.accounts.user(request.header("authorization"))
        if (request.method, request.path) in OPEN or request.path.startswith("/auth/"):
            await self._authenticate(request, user)
            return
        if self.accounts is not None and user is None:
            await self._refuse(request)
            return
        if not _is_offered(request.method, request.path):
            await request.answer(404, f"{request.method} {request.path} is not offered here.")
            return
        try:
            _check_places(request)
        except InputError as error:
            await request.answer(400, str(error))
            return
        if request.method not in READ:
            logger.info("%s: %s %s", user or "-", request.method, request.path)
        uploads = (request.method, request.path.split("/")[1]) in UPLOADS
        with asking(user):
            await request.hand_on(self.app, self.max_bytes if uploads else min(self.max_bytes, JSON_BYTES))

    def _is_from_here(self, request: _Request) -> bool:
        host, origin = request.header("host"), request.header("origin")
        if self.hosts is not None and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return False
        return not origin or urlsplit(origin).netloc == host

    async def _authenticate(self, request: _Request, user: str | None) -> None:
        """Answer ``/auth/``: whether a password is needed, a token for one, and whether a token is valid."""
        if request.path in ("/auth/", "/auth"):
            await request.answer(200, {"enabled": self.accounts is not None})
        elif (request.method, request.path) == ("POST", "/auth/token") and self.accounts is not None:
            form = parse_qs(await request.body(FORM_BYTES))
            token = self.accounts.token(form.get("username", [""])[0], form.get("password", [""])[0])
            if token is None:
                await self._refuse(request, tried=True)
            else:
                await request.answer(200, {"access_token": token, "token_type": "bearer"})
        elif request.path == "/auth/token/valid" and user is not None:
            await request.answer(200, {"username": user})
        else:
            await self._refuse(request)

    async def _refuse(self, request: _Request, tried: bool = False) -> None:
        if tried or request.header("authorization"):
            logger.warning("wrong credentials for %r", request.path)
            async with self._guesses:  # who guesses has to wait, for everybody else who guesses, too
                await asyncio.sleep(WRONG_PASSWORD_SECONDS)
        challenge = [(b"www-authenticate", b'Basic realm="monai-ext", charset="UTF-8"')]
        await request.answer(401, "give the name and password of a user of this server.", challenge)


class _Request:
    """An HTTP request in ASGI's terms."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)

    def header(self, name: str) -> str:
        values = [value for key, value in self.scope["headers"] if key.lower() == name.encode()]
        return values[0].decode("latin-1") if values else ""

    async def body(self, limit: int) -> str:
        content = b""
        while len(content) <= limit:
            message = await self._receive()
            content += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        return content[:limit].decode("utf-8", errors="replace")

    async def answer(self, status: int, detail: object, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        content = json.dumps(detail if isinstance(detail, dict) else {"detail": detail}).encode()
        given = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": [*given, *(headers or [])]})
        await self._send({"type": "http.response.body", "body": content})

    async def hand_on(self, app: App, max_bytes: int) -> None:
        """Let the application answer, as long as the body is not too large."""
        message = f"this request may have {max_bytes} bytes; for larger files start with another --max_upload_mb."
        length = self.header("content-length")
        if length and (not length.isdecimal() or int(length) > max_bytes):
            await self.answer(413, message)
            return
        received, over, begun = 0, False, False

        async def receive() -> Message:
            nonlocal received, over
            part = await self._receive()
            received += len(part.get("body", b""))
            over = over or received > max_bytes
            return {"type": "http.disconnect"} if over else part

        async def send(part: Message) -> None:
            nonlocal begun
            if not over:
                begun = True
                await self._send(part)

        try:
            headers = [(name, value) for name, value in self.scope["headers"] if name.lower() not in FOR_THE_GATE]
            await app({**self.scope, "headers": headers}, receive, send)
        except Exception:
            if not over:
                raise
        if over and not begun:
            await self.answer(413, message)


def _is_offered(method: str, path: str) -> bool:
    parts = path.split("/")
    if len(parts) < 2 or parts[0] or (not parts[1] and path != "/"):
        return False
    return method in OFFERED.get(parts[1], ()) and not any(
        method == refused and path.rstrip("/").startswith(start) for refused, start in NOT_OFFERED
    )


def _check_places(request: _Request) -> None:
    for part in request.path.split("/"):
        if part:
            check_name("path", part)
    for name in NAMES:
        for value in request.query.get(name, []):
            if value:
                check_name(name, value)
    if request.method == "PUT" and request.path.startswith("/datastore") and not request.query.get("image", [""])[0]:
        check_name("image", request.query.get("label", [""])[0])  # else the sent file's own name would be the id
    if any(value.lower() not in ("", "0", "false", "off", "no") for value in request.query.get("uncompress", [])):
        raise InputError("uncompress: archives are not taken; send the files themselves.")
    if request.method == "DELETE" and request.path.rstrip("/") == "/datastore":
        raise InputError("id: studies are not removed over HTTP; take the file out of the studies' folder.")

# SPDX-License-Identifier: Apache-2.0
"""Fetches one file by its address, bounded in size."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from monai_ext.errors import InputError

SECONDS = 60  # without a byte
PIECE = 1 << 20


class DownloadError(InputError):
    """A file cannot be had from an address; the message says why."""


def download(url: str, path: Path, max_bytes: int) -> None:
    """Fetch a file over ``https``, ``http`` or ``file``.

    A redirection may lead to another server, but never from ``https`` to anything else.

    Args:
        url: address of the file.
        path: to write to; what is there after an error is not to be used.
        max_bytes: larger files are refused, whatever size the server tells.

    Raises:
        DownloadError: another kind of address, nothing there, too large, or cut short.

    Example:
        >>> download("ftp://example.org/a.zip", Path("a.zip"), 10)
        Traceback (most recent call last):
        ...
        monai_ext.shipping.download.DownloadError: ftp://example.org/a.zip: must begin with https://, http:// or file://.
    """
    try:
        with _opened(url) as source, open(path, "wb") as target:
            if _copied(source, target, max_bytes) > max_bytes:
                raise DownloadError(f"{url}: is larger than {max_bytes / 1e6:g} MB; raise --max_mb if you expect that.")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(f"{url}: could not be fetched ({reason}); check the address and the connection.") from error


def _copied(source: IO[bytes], target: IO[bytes], max_bytes: int) -> int:
    """Copy up to one byte more than is allowed; return how many."""
    copied = 0
    while copied <= max_bytes and (piece := source.read(min(PIECE, max_bytes + 1 - copied))):
        target.write(piece)
        copied += len(piece)
    expected = getattr(source, "length", None)  # of a web server's answer: bytes that it has announced and not sent
    if copied <= max_bytes and expected:
        raise DownloadError(f"the answer ended {expected} bytes early; fetch it again.")
    return copied


@contextmanager
def _opened(url: str) -> Iterator[IO[bytes]]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(urllib.request.url2pathname(parts.path))
        if not path.is_file():  # a device or a pipe would never end
            raise DownloadError(f"{url}: there is no such file.")
        with open(path, "rb") as file:
            yield file
    elif parts.scheme in ("http", "https"):
        opener = urllib.request.build_opener(_Redirect)
        with opener.open(url, timeout=SECONDS) as answer:
            yield answer
    else:
        raise DownloadError(f"{url}: must begin with https://, http:// or file://.")


class _Redirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, address):  # type: ignore[no-untyped-def]
        """Follow only what keeps the protection of the first address."""
        scheme = urllib.parse.urlsplit(address).scheme
        if scheme not in ("http", "https") or (request.type == "https" and scheme != "https"):
            raise urllib.error.URLError(f"it leads to {address}, which is not https")
        return super().redirect_request(request, answer, code, message, headers, address)

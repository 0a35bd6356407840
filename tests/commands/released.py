# SPDX-License-Identifier: Apache-2.0
"""A release of the toy bundle, and a web server that has it where GitHub would."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from monai_ext.commands._fire import main

PLACE = "owner/repo/releases/download/tag"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Write nothing to the test's output."""


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Quiet) -> Iterator[str]:
    """Give the address of a server of this folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def a_wheel(folder: Path) -> Path:
    """Write a file that stands in for the wheel."""
    path = folder / "monai_ext-0.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("monai_ext/__init__.py"), "")
    return path


def release_of(bundle: Path, folder: Path, *more: str) -> int:
    """Call `release` for one bundle."""
    words = ["--output_dir", str(folder), "--bundles", str(bundle), "--wheel", str(a_wheel(bundle.parent)), *more]
    return main(["release", *words])

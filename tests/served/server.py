# SPDX-License-Identifier: Apache-2.0
"""Start MONAI Label's server as a process of its own, speak to it over HTTP, and leave nothing of it behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

# the shell ends its whole group, what the server started included, when the server ends or whoever holds its input does
LEASH = '("$@"; kill -KILL 0) & read -r _; kill -KILL 0'


@dataclass(frozen=True)
class Server:
    """A running server.

    Args:
        address: where it listens, ``http://127.0.0.1:PORT``.
        log: everything that it printed.
        process: leader of the process group that holds it and all that it started.
    """

    address: str
    log: Path
    process: subprocess.Popen[bytes]

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path such as ``/info/``; the options are those of `requests.request`."""
        return self._request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST to a path."""
        return self._request("POST", path, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        """PUT to a path."""
        return self._request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        """DELETE a path."""
        return self._request("DELETE", path, **options)

    def tail(self, lines: int = 40) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """End it without warning, as a power cut does, with all that it started; a second time does nothing."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.address + path, **{"timeout": 120, **options})


@contextmanager
def serve(app: Path, studies: str | Path, conf: Mapping[str, str], log: Path, **variables: str) -> Iterator[Server]:
    """Run ``monailabel start_server`` on a free port of this machine for as long as the context lasts.

    Args:
        app: folder of the app; MONAI Label writes into it.
        studies: folder of the studies, or address of a DICOMweb server.
        conf: what ``--conf NAME VALUE`` says.
        log: file for what the server prints; its own temporary files and sessions go beside it.
        variables: of the server's environment.
    """
    port = free_port()
    words = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), "--studies", str(studies)]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    words += [word for pair in conf.items() for word in ("--conf", *pair)]
    with running(words, port, log, **variables) as server:
        yield server


@contextmanager
def running(words: Sequence[str], port: int, log: Path, seconds: float = 300, **variables: str) -> Iterator[Server]:
    """Run any command that serves on a port of this machine; wait until it answers ``/info/``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    folders = {name: log.parent / f"{log.stem}_{name}" for name in ("tmp", "sessions")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    places = {"TMPDIR": str(folders["tmp"]), "MONAI_LABEL_SESSION_PATH": str(folders["sessions"])}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            ["sh", "-c", LEASH, "sh", *words],
            cwd=log.parent,  # where it looks for a file .env
            env={**_environment(), **places, **variables},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", log, process)
    try:
        _wait_for(server, seconds)
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _wait_for(server: Server, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended before it answered:\n{server.tail()}")
        try:
            if server.get("/info/", timeout=10).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"the server did not answer within {seconds:g} s:\n{server.tail()}")

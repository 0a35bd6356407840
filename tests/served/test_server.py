# SPDX-License-Identifier: Apache-2.0
"""Nothing of a server is left when its test ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.served.server import free_port, running

ROOT = Path(__file__).parents[2]
# answers everything, and has a child of its own, as a server has that trains
TOY = """
import http.server, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(port: int) -> list[str]:
    return [sys.executable, "-c", TOY, str(port)]


def ended(log: Path) -> bool:
    """Whether the toy's child ends soon."""
    stat = Path("/proc") / log.read_text(encoding="utf-8").split()[0] / "stat"
    end = time.monotonic() + 10
    while time.monotonic() < end and stat.exists() and stat.read_text(encoding="utf-8").split()[2] != "Z":
        time.sleep(0.05)
    return time.monotonic() < end


def test_what_a_server_started_ends_with_the_context(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "toy.log"
    with running(command(port), port, log) as server:
        assert server.get("/info/").ok
    assert ended(log)


def test_it_ends_with_the_process_that_tests(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "toy.log"
    script = (
        "import sys; from pathlib import Path; from tests.served.server import running\n"
        f"with running({command(port)!r}, {port}, Path({str(log)!r})):\n    print('up', flush=True); sys.stdin.read()"
    )
    tester = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert tester.stdout is not None
    assert tester.stdout.readline() == b"up\n"
    os.kill(tester.pid, signal.SIGKILL)
    tester.communicate()
    assert ended(log)


def test_a_server_that_does_not_start_tells_what_it_printed(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "raise SystemExit('no such app')"]
    with pytest.raises(RuntimeError, match="no such app"), running(words, free_port(), tmp_path / "toy.log"):
        raise AssertionError("it did not start")

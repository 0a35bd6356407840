# SPDX-License-Identifier: Apache-2.0
"""A python that has imported MONAI and nothing of ours; each command gets a fork of it, as good as a new process.

A command spends most of a tiny run on importing torch and MONAI. As a program this file is that python: it reads one
request a line, forks, and answers with the exit status. `WarmPython` starts it and talks to it.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path


class WarmPython:
    """Runs ``python -m MODULE ...`` by forking; use it as a context manager.

    Args:
        environment: of the commands.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()  # closes its input, which ends it

    def call(self, words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run ``-m MODULE ...`` in a folder and capture what it prints, files beside that folder."""
        outputs = [cwd.parent / f"{cwd.name}.{kind}" for kind in ("stdout", "stderr")]
        assert words[0] == "-m"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([words[1:], str(cwd), *map(str, outputs)]), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        stdout, stderr = (path.read_text(encoding="utf-8") for path in outputs)
        return subprocess.CompletedProcess(words, status, stdout, stderr)


def serve() -> None:
    """Fork for each line of input."""
    import monai.bundle  # noqa: F401

    sys.path.pop(0)  # this file's folder, which ``python -m`` does not search
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def become(words: list[str], cwd: str, stdout: str, stderr: str) -> None:
    """Be ``python -m WORDS`` started in that folder, to the end."""
    for descriptor, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv[:] = words
    signal.alarm(400)  # ends what hangs
    status = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    serve()

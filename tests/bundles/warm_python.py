# SPDX-License-Identifier: Apache-2.0
"""A python that has imported MONAI and nothing of ours; each command gets a fork of it, as good as a new process.

A command spends most of a tiny run on importing torch and MONAI. As a program this file is that python: it reads one
request a line, forks, and answers with the fork's number and then with its exit status. `WarmPython` starts it and
talks to it. torchrun's processes are forks, too; `test_two_hosts` and some more start them as torchrun does.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

TORCHRUN = "torch.distributed.run"
LIMIT = 400  # seconds, ends what hangs


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
        self._start(words, cwd)
        status = self._answer()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in _outputs(cwd))
        return subprocess.CompletedProcess(words, status, stdout, stderr)

    def kill(self, words: list[str], cwd: Path, when: Callable[[], bool]) -> None:
        """Run ``-m MODULE ...`` in a folder, and end it and all that it started by SIGKILL as soon as ``when()``."""
        process, deadline = self._start(words, cwd), time.monotonic() + LIMIT
        assert self._process.stdout is not None
        while not when():
            assert time.monotonic() < deadline, "it was never so"
            ended, _, _ = select.select([self._process.stdout], [], [], 0.02)
            assert not ended, f"it ended with {self._answer()} before it could be killed"
        os.killpg(process, signal.SIGKILL)
        assert self._answer() == -signal.SIGKILL

    def torchrun(self, words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run ``-m MODULE ...`` in two processes that torchrun starts and watches."""
        return self.call(["-m", TORCHRUN, "--standalone", "--nproc_per_node=2", *words], cwd)

    def _start(self, words: list[str], cwd: Path) -> int:
        """Let it fork and return the fork's number."""
        assert words[0] == "-m"
        assert self._process.stdin is not None
        print(json.dumps([words[1:], str(cwd), *map(str, _outputs(cwd))]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _outputs(cwd: Path) -> list[Path]:
    return [cwd.parent / f"{cwd.name}.{kind}" for kind in ("stdout", "stderr")]


class Fork:
    """``python -u -m MODULE ...`` as a fork of this process, with what torchrun uses of `subprocess.Popen`."""

    def __init__(self, words: tuple[str, ...], environment: dict[str, str]) -> None:
        assert words[1:3] == ("-u", "-m")
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # torchrun's own are inherited
            os.environ.clear()
            os.environ.update(environment)
            leave(run_module(list(words[3:])))  # what torchrun wants to do at its exit is not a process's of its own

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.05)
        assert self.returncode is not None
        return self.returncode


def serve() -> None:
    """Fork for each line of input."""
    import monai.bundle  # noqa: F401

    sys.path.pop(0)  # this file's folder, which ``python -m`` does not search
    answers = os.fdopen(os.dup(1), "w")
    gc.freeze()  # a collection in a fork would copy what it looks at
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(*json.loads(line))
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def become(words: list[str], cwd: str, stdout: str, stderr: str) -> None:
    """Be ``python -m WORDS`` started in that folder, to the end."""
    os.setsid()  # may be killed with all that it starts
    for descriptor, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    if words[0] == TORCHRUN:
        from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler

        SubprocessHandler._popen = lambda _, args, env: Fork(args, env)  # type: ignore[assignment, method-assign]
    status = run_module(words)
    threading._shutdown()
    atexit._run_exitfuncs()
    leave(status)  # an interpreter that takes itself to pieces first would copy all that it shares with its parent


def run_module(words: list[str]) -> int:
    """Do what ``python -m WORDS`` does and return its exit status."""
    sys.argv[:] = words
    signal.alarm(LIMIT)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """End a fork at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()

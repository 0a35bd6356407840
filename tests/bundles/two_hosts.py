# SPDX-License-Identifier: Apache-2.0
"""Two hosts with their own addresses on one machine: network namespaces of Linux, joined by a virtual cable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bundles.runs import environment

CABLE = "cable"  # name of the network interface, in both
PORT = 29500


class Host(NamedTuple):
    """A network namespace, and the address of the only interface besides its loopback."""

    namespace: str
    address: str


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Give two hosts that reach each other and nothing else; they are gone afterwards, whatever happens.

    Skips the test where they cannot be made: not root, no kernel support, no iproute2.
    """
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (apt-get install iproute2)")
    hosts = tuple(Host(f"monai-ext-{os.getpid()}-{n}", f"10.213.77.{n}") for n in (1, 2))
    with ExitStack() as stack:
        for host in hosts:
            made = _ip("netns", "add", host.namespace)
            if made.returncode:
                pytest.skip(f"network namespaces need root: {made.stderr.strip()}")
            stack.callback(_ip, "netns", "del", host.namespace)  # takes its interfaces with it
        first, second = hosts
        cable = ("link", "add", CABLE, "netns", first.namespace, "type", "veth")
        made = _ip(*cable, "peer", "name", CABLE, "netns", second.namespace)
        if made.returncode:
            pytest.skip(f"virtual cables are not to be had: {made.stderr.strip()}")
        for host in hosts:
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", CABLE, check=True)
            for device in ("lo", CABLE):
                _ip("-n", host.namespace, "link", "set", device, "up", check=True)
        yield first, second


class Agent:
    """torchrun on one of the hosts; use it as a context manager.

    Args:
        host: where it runs.
        leader: the host on which all meet.
        words: what python is to run.
        log: file of what it and its workers print.
    """

    def __init__(self, host: Host, leader: Host, words: list[str], log: Path) -> None:
        launch = [
            "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3",
            "--rdzv-backend=c10d", f"--rdzv-endpoint={leader.address}:{PORT}", "--rdzv-id=run1",
            # names of real hosts are resolved; these two have the same one
            f"--local-addr={host.address}", f"--rdzv-conf=is_host={int(host == leader)}",
        ]  # fmt: skip
        self.log = log
        with open(log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, sys.executable, *launch, *words],
                cwd=log.parent,
                env=environment(GLOO_SOCKET_IFNAME=CABLE, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exception: object) -> None:
        workers = self.workers()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        for worker in workers:  # each leads a session of its own
            _kill(worker)
        self.process.wait()

    def workers(self) -> list[int]:
        """Process ids of what it started and has not waited for."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in task.read_text(encoding="ascii").split()] if task.exists() else []

    def kill_worker(self) -> None:
        """End its only worker as a lack of memory would."""
        (worker,) = self.workers()
        _kill(worker)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ip(*words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, encoding="utf-8", check=check)

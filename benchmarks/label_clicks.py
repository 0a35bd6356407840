# SPDX-License-Identifier: Apache-2.0
"""The first click on a slice against the second, asked over HTTP of the label app, SAM-SP with ViT-B at 1024.

It starts the server, so it runs in the environment that has one: ``.tox/label/bin/python -m benchmarks.label_clicks``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import ROOT, Row, main

FULL = {"sam_type": "vit_b", "image_size": 1024}
QUICK = {"sam_type": "vit_tiny", "image_size": 64}
SIDE, SLICES = 512, 8
TARGET = 0.1
SEEN = ("processor time in the server", "at the client, by the clock")


def measure(rounds: int, quick: bool) -> list[Row]:
    """Click on ``rounds`` slices of one scan, twice on each, after a click that loads the network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bundle(folder / "model" / "sam_sp", QUICK if quick else FULL)
        _write_scan(folder / "studies" / "scan.nii.gz", 32 if quick else SIDE)
        with _serving(folder) as (address, process):
            _click(address, process, 0, [[10, 10]])
            pairs = [_pair(address, process, 1 + number % (SLICES - 1)) for number in range(min(rounds, SLICES - 1))]
    return [_row(name, [pair[index] for pair in pairs]) for index, name in enumerate(SEEN)]


def _pair(address: str, process: int, number: int) -> tuple[Row, Row]:
    """Seconds of a first and a second click: of the server's processor, and by the client's clock."""
    first = _click(address, process, number, [[10, 10]])
    second = _click(address, process, number, [[10, 10], [12, 14]])
    return tuple({"first": a, "second": b} for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def _row(name: str, pairs: list[Row]) -> Row:
    first, second = (median(pair[which] for pair in pairs) for which in ("first", "second"))
    row = {"click": name, "slices": len(pairs), "first_s": round(first, 3), "second_s": round(second, 3)}
    return {**row, "second_of_first": round(median(p["second"] / p["first"] for p in pairs), 3), "target": TARGET}


def _click(address: str, process: int, number: int, places: list[list[int]]) -> tuple[float, float]:
    asked = {"foreground": [[*place, number] for place in places], "slice": number, "device": "cpu"}
    lines = ["--part", 'Content-Disposition: form-data; name="params"', "", json.dumps(asked), "--part--", ""]
    headers = {"Content-Type": "multipart/form-data; boundary=part"}
    query = f"{address}/infer/sam_sp?image=scan&output=image"
    start, computed = time.perf_counter(), _processor_seconds(process)
    request = urllib.request.Request(query, "\r\n".join(lines).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=600) as answer:
        assert answer.read()
    return _processor_seconds(process) - computed, time.perf_counter() - start


def _processor_seconds(process: int) -> float:
    """What all threads of a process have computed; another program's load does not count."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "monai_ext", "label", "--studies", str(folder / "studies"), "--port", str(port)]
    words += ["--models", str(folder / "model"), "--app_dir", str(folder / "app")]
    log, address = folder / "server.log", f"http://127.0.0.1:{port}"
    with open(log, "wb") as output:
        process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not _answers(address):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
            time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/info/", timeout=10):
            return True
    except OSError:
        return False


def _write_bundle(folder: Path, knobs: dict[str, Any]) -> None:
    """Copy the bundle, with random weights."""
    import torch
    from monai.bundle import ConfigParser

    shutil.copytree(ROOT / "bundles" / "sam_sp", folder, ignore=shutil.ignore_patterns("__pycache__", "eval", "models"))
    config = folder / "configs" / "inference.json"
    content = config.read_text(encoding="utf-8")
    for name, value in knobs.items():
        content = re.sub(rf'^(    "{name}": ).*?(,?)$', rf"\g<1>{json.dumps(value)}\2", content, count=1, flags=re.M)
    config.write_text(content, encoding="utf-8")
    parser = ConfigParser()
    parser.read_config(str(config))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models" / "model.pt")


def _write_scan(path: Path, side: int) -> None:
    import nibabel as nib
    import numpy as np

    path.parent.mkdir(parents=True)
    voxels = np.random.default_rng(0).normal(100, 20, (side, side, SLICES)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.7, 0.7, 5.0, 1.0])), path)


if __name__ == "__main__":
    main("label_clicks", __doc__, measure, rounds=5)

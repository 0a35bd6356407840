# SPDX-License-Identifier: Apache-2.0
"""Our own server as the command starts it: bundles, studies, one of them a DICOM series, and a user."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.served.dicom_study import write_series
from tests.served.sample_app import add_bundle
from tests.served.server import Server, free_port, running
from tests.served.studies import write_studies

USER, PASSWORD = "ada", "difference-engine"


def write_own(folder: Path, bundles: Sequence[str]) -> Path:
    """Write all that the server needs into a folder."""
    for name in bundles:
        add_bundle(folder, name)
    write_studies(folder / "studies")
    write_series(folder / "studies" / "ct", ct())
    (folder / "users").write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    (folder / "users").chmod(0o600)
    # by which requests knows the password for this machine
    (folder / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n", encoding="utf-8")
    return folder


def ct() -> np.ndarray:
    """Voxels of the DICOM series, (slices, rows, columns)."""
    voxels = np.random.default_rng(5).normal(100, 20, (6, 24, 20))
    voxels[2:5, 4:15, 5:12] += 300
    return voxels.astype(np.int16)


@contextmanager
def serve_own(folder: Path, log: str = "server.log") -> Iterator[Server]:
    """Run the server for as long as the context lasts; requests to it carry the user's password."""
    port = free_port()
    words = [sys.executable, "-m", "monai_ext", "label", "--studies", str(folder / "studies")]
    words += ["--models", str(folder / "model"), "--users", str(folder / "users"), "--app_dir", str(folder / "own")]
    words += ["--port", str(port), "--max_upload_mb", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", str(folder / "netrc"))
        with running(words, port, folder / log) as server:
            yield server

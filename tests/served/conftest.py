# SPDX-License-Identifier: Apache-2.0
"""One server with all bundles, started once and shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles.conftest import same_logging as same_logging
from tests.served.own_app import serve_own, write_own
from tests.served.sample_app import MATCHING, OFFLINE, SEGMENTING, add_bundle, copy_app
from tests.served.server import Server, serve
from tests.served.studies import write_studies


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unmodified sample app with all bundles that can be served."""
    app = copy_app(tmp_path_factory.mktemp("apps") / "monaibundle")
    for name in (*SEGMENTING, MATCHING):
        add_bundle(app, name)
    return app


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's studies."""
    return write_studies(tmp_path_factory.mktemp("data") / "studies")


@pytest.fixture(scope="session")
def server(app: Path, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; what scores is told to wait until it is asked."""
    conf = {"models": ",".join((*SEGMENTING, MATCHING)), "epistemic_model": ",".join(SEGMENTING), **OFFLINE}
    log = tmp_path_factory.mktemp("server") / "server.log"
    with serve(app, studies, conf, log, MONAI_LABEL_AUTO_UPDATE_SCORING="false") as server:
        yield server


@pytest.fixture(scope="session")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What our own server needs, with the bundles that take clicks, and the one that matches."""
    return write_own(tmp_path_factory.mktemp("own"), ["sam_sp", "desam", MATCHING])


@pytest.fixture(scope="session")
def own(own_folder: Path) -> Iterator[Server]:
    """Our own server."""
    with serve_own(own_folder) as server:
        yield server

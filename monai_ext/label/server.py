# SPDX-License-Identifier: Apache-2.0
"""Starts MONAI Label's server with our app in it and our gate before it."""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.label.accounts import Accounts
from monai_ext.label.bundle_app import MAIN
from monai_ext.label.dicomweb import dicomweb_route
from monai_ext.label.gate import Gate
from monai_ext.label.hidden_folders import HiddenFolders
from monai_ext.label.infer_route import infer_route
from monai_ext.label.work_routes import work_routes

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Serving:
    """How the server is reached, and how much it takes.

    Attributes:
        host: address on which it listens.
        port: likewise.
        accounts: who may use it, None for everybody.
        insecure: let everybody use it from other machines.
        max_bytes: that one request may send.
        certificate: files of the key and the certificate for HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    accounts: Accounts | None = None
    insecure: bool = False
    max_bytes: int = 2_000_000_000
    certificate: tuple[str, str] | None = None

    @property
    def address(self) -> str:
        """Where clients on this machine find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}"


def check_exposure(serving: Serving) -> None:
    """Refuse to let other machines in without asking who they are.

    Raises:
        InputError: the host is not this machine alone, and there are no accounts.

    Example:
        >>> check_exposure(Serving(host="127.0.0.1"))
    """
    if not is_loopback(serving.host) and serving.accounts is None and not serving.insecure:
        raise InputError(
            f"--host {serving.host}: other machines could use the server without a password; give --users FILE, or "
            "--insecure if something else guards it."
        )


def is_loopback(host: str) -> bool:
    """Return whether nobody but this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
        (True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(models: Sequence[Path], studies: str, app_dir: Path, conf: dict[str, str], serving: Serving) -> None:
    """Serve bundles until the process is told to end.

    Args:
        models: folders of the bundles.
        studies: folder of the studies, or the address of a DICOMweb server.
        app_dir: the server's own folder: its log, sessions, and what it keeps.
        conf: further ones of `BundleApp`.
        serving: how it is reached.

    Raises:
        InputError: it would let in everybody, or one of the bundles cannot be served.
    """
    check_exposure(serving)
    _prepare(app_dir)
    conf = {**conf, "models": os.pathsep.join(str(folder) for folder in models)}
    application = _application(app_dir, studies, conf, serving)

    import uvicorn
    from monailabel.utils.others.generic import init_log_config

    key, certificate = serving.certificate or (None, None)
    uvicorn.run(
        application,
        host=serving.host,
        port=serving.port,
        log_config=init_log_config(None, str(app_dir), "app.log", "INFO"),
        ssl_keyfile=key,
        ssl_certfile=certificate,
        access_log=False,
    )


def _prepare(app_dir: Path) -> None:
    """Make the server's folder, which nobody else reads, and let all temporary files go there."""
    for folder in (app_dir, app_dir / "tmp", app_dir / "sessions"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    with atomic_write(app_dir / "main.py") as temporary:
        temporary.write_text(MAIN, encoding="utf-8")
    os.environ["TMPDIR"] = tempfile.tempdir = str(app_dir / "tmp")  # of background tasks, and of this process


def _application(app_dir: Path, studies: str, conf: dict[str, str], serving: Serving) -> Gate:
    """Return MONAI Label's application, with our app and route in it, behind the gate."""
    from monailabel.config import settings
    from monailabel.main import Main

    settings.MONAI_LABEL_SESSION_PATH = str(app_dir / "sessions")
    settings.MONAI_LABEL_AUTH_ENABLE = False  # `Accounts` says why
    given = SimpleNamespace(
        app=str(app_dir), studies=studies, port=serving.port, dryrun=False, conf=[list(pair) for pair in conf.items()]
    )
    Main().start_server_init_settings(given)

    from monailabel.app import app
    from monailabel.interfaces.utils.app import app_instance
    from starlette.routing import Route

    store = app_instance().datastore()  # now, so that what is wrong with a bundle is said before anybody connects
    app.router.routes[:0] = [Route("/infer/{model}", infer_route, methods=["POST"]), *work_routes()]
    app.add_exception_handler(InputError, _bad_request)
    if hasattr(store, "web"):  # studies of a folder
        app.router.routes.insert(0, dicomweb_route(store.web))
    hosts = {*LOOPBACK_NAMES, serving.host} if is_loopback(serving.host) else None
    return Gate(HiddenFolders(app, _folders(app_dir, studies, conf)), serving.accounts, hosts, serving.max_bytes)


def _folders(app_dir: Path, studies: str, conf: dict[str, str]) -> list[str]:
    """Return what no answer needs to name: where our files lie, and the programs, which tracebacks mention."""
    import monai_ext

    models = [str(Path(folder).parent) for folder in conf["models"].split(os.pathsep)]
    own = [str(app_dir / part) for part in ("tmp", "sessions", "converted", "")]
    programs = [sys.prefix, sys.base_prefix, str(Path(monai_ext.__file__).parents[1])]
    return [*own, *models, *programs, *([] if studies.startswith(("http://", "https://")) else [studies])]


def _bad_request(_: Any, error: Exception) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"detail": str(error)}, status_code=400)

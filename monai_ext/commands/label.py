# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext label`: the server for 3D Slicer and OHIF."""

from __future__ import annotations

from pathlib import Path

from monai_ext.commands._bundle import METADATA, find_bundle
from monai_ext.errors import InputError
from monai_ext.extras import is_installed

NEEDED = ("monailabel", "fastapi", "uvicorn", "pydicom_seg", "dicomweb_client", "schedule", "timeloop")


def label(
    studies: str,
    models: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    users: str | None = None,
    insecure: bool = False,
    app_dir: str = "label_app",
    keep_mb: float = 2000.0,
    parallel: int = 2,
    max_upload_mb: float = 2000.0,
    ssl_keyfile: str | None = None,
    ssl_certfile: str | None = None,
) -> None:
    """Serve bundles to 3D Slicer and OHIF: clicks, boxes, matching, training.

    Needs the extra ``label`` in an environment of its own. Bundles need their weights; knobs that differ from the
    defaults must stand in their train.json and inference.json.

    Args:
        studies: folder of scans and of folders with a DICOM series each, or the address of a DICOMweb server.
        models: bundles by name or path, with commas between them; a folder stands for all bundles in it.
        host: address to listen on; any but this machine's own needs users.
        port: likewise.
        users: file with a line name:password for each user, which only you can read (chmod 600).
        insecure: let other machines in without a password.
        app_dir: the server's own folder: log, sessions, converted DICOM, embeddings.
        keep_mb: MB of prepared scans to keep between clicks.
        parallel: number of requests that are computed at the same time.
        max_upload_mb: MB that one request may send.
        ssl_keyfile: key for HTTPS.
        ssl_certfile: certificate for HTTPS.

    Example:
        python -m monai_ext label --studies scans --models sam_sp,anatomical_embedding
    """
    missing = [package for package in NEEDED if not is_installed(package)]
    if missing:
        raise InputError(
            f'label: {missing[0]} is not installed; pip install "monai-ext[label]" in an environment of its own, since '
            "MONAI Label needs older numpy and pydicom."
        )
    folders = find_models(models)
    place = studies if studies.startswith(("http://", "https://")) else _folder(studies)
    if (ssl_keyfile is None) != (ssl_certfile is None):
        raise InputError("label: HTTPS needs both --ssl_keyfile and --ssl_certfile.")

    from monai_ext.label.accounts import Accounts
    from monai_ext.label.model_kind import model_kind
    from monai_ext.label.server import Serving, check_exposure, serve

    for folder in folders:
        model_kind(folder)  # before anything heavy is loaded
    serving = Serving(
        host=host,
        port=port,
        accounts=None if users is None else Accounts.read(users),
        insecure=insecure,
        max_bytes=int(max_upload_mb * 1e6),
        certificate=None if ssl_keyfile is None or ssl_certfile is None else (ssl_keyfile, ssl_certfile),
    )
    check_exposure(serving)
    print(f"3D Slicer: module MONAI Label, server {serving.address}")
    print(f"OHIF:      {serving.address}/ohif/")
    print(f"log:       {Path(app_dir).resolve() / 'logs' / 'app.log'}", flush=True)
    conf = {"keep_mb": str(keep_mb), "parallel": str(parallel)}
    serve(folders, place, Path(app_dir).resolve(), conf, serving)


def find_models(models: str) -> list[Path]:
    """Return the bundles' folders.

    Raises:
        InputError: there is no such bundle.
    """
    found: list[Path] = []
    for name in models.split(","):
        folder = Path(name.strip()).expanduser()
        inside = sorted(path.parents[1].resolve() for path in folder.glob(f"*/{METADATA}"))
        found += inside if inside and not (folder / METADATA).is_file() else [find_bundle(name.strip())]
    return found


def _folder(studies: str) -> str:
    folder = Path(studies).expanduser()
    if not folder.is_dir():
        raise InputError(f"{studies}: no such folder; --studies is a folder of scans or a DICOMweb address.")
    return str(folder.resolve())

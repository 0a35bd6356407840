# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext fetch`: a released bundle, checked before it is unpacked."""

from __future__ import annotations

import re
from pathlib import Path

from monai_ext.errors import InputError


def fetch(
    name: str,
    url: str | None = None,
    release: str | None = None,
    version: str | None = None,
    sha256: str | None = None,
    bundle_dir: str = "bundles",
    unchecked: bool = False,
    max_mb: int = 8192,
) -> None:
    """Fetch a bundle from a release and unpack it, if it is what it should be.

    The zip must have the SHA-256 of --sha256, else of NAME_vVERSION.zip.sha256 or SHA256SUMS beside it. What lies
    beside it shows damage; only a --sha256 from elsewhere shows that somebody changed both. Refused are zips that
    reach out of their folder, with links, with names that clash, or that grow without measure. The bundle appears
    whole or not at all, and one that is there is never changed: the same is left as it is, another stops the command.

    A bundle is a program: its configs and its network run as you. Fetch from whom you trust.

    Args:
        name: of the bundle.
        url: address (https, http, file) of the zip, or of the folder of a release.
        release: the same as a folder on disk, such as what `release` wrote.
        version: which one of the release. Default: the highest.
        sha256: 64 hexadecimal digits that the zip must have.
        bundle_dir: folder that gets the bundle's folder.
        unchecked: go on without any SHA-256.
        max_mb: largest zip, and largest bundle, to accept.

    Example:
        python -m monai_ext fetch desam --url https://github.com/OWNER/REPO/releases/download/TAG
    """
    from monai_ext.shipping.fetched_bundle import FetchedBundle

    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise InputError(f"{name}: is no name of a bundle; letters, digits and _ only, as in desam.")
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"--sha256 {sha256}: must be the 64 hexadecimal digits of a SHA-256.")
    if isinstance(max_mb, str) or not 0 < max_mb < float("inf"):
        raise InputError(f"--max_mb {max_mb}: must be a number of megabytes above 0.")
    digest = None if sha256 is None else sha256.lower()
    found = FetchedBundle.get(
        name, _address(url, release), Path(bundle_dir), version, digest, unchecked, int(max_mb * 1_000_000)
    )
    print(f"{'wrote' if found.is_new else 'unchanged, all of it was there:'} {found.folder} (version {found.version})")
    print(f"sha256 {found.sha256} {'as ' + found.checked_by + ' says' if found.checked_by else 'checked by nothing'}")
    print(
        f"next: python -m monai.bundle download_large_files --bundle_path {found.folder}, or train; see docs/README.md"
    )


def _address(url: str | None, release: str | None) -> str:
    if (url is None) == (release is None):
        raise InputError("fetch: give either --url, an address, or --release, a folder.")
    if url is not None:
        return url
    folder = Path(str(release)).expanduser()
    if not folder.is_dir():
        raise InputError(f"--release {release}: is no folder; `python -m monai_ext release` writes one.")
    return folder.resolve().as_uri()

# SPDX-License-Identifier: Apache-2.0
"""A bundle from a release: found, checked, unpacked and put in place."""

from __future__ import annotations

import json
import re
import tempfile
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.files import sha256_of
from monai_ext.shipping.download import DownloadError, download
from monai_ext.shipping.place_bundle import place_bundle
from monai_ext.shipping.release import REQUIRED_FILES
from monai_ext.shipping.release_sums import ReleaseSums
from monai_ext.shipping.safe_zip import unpack_zip

SUMS = "SHA256SUMS"
MAX_SUMS = 1 << 20


@dataclass(frozen=True)
class FetchedBundle:
    """What was fetched.

    Attributes:
        folder: of the bundle.
        version: as its metadata say.
        sha256: of the zip.
        checked_by: where the expected SHA-256 came from; empty if there was none.
        is_new: False if the same bundle was there already.

    Example:
        >>> FetchedBundle.get("desam", "https://example.org/desam_v0.1.0.zip", Path("bundles"))  # doctest: +SKIP
    """

    folder: Path
    version: str
    sha256: str
    checked_by: str
    is_new: bool

    @classmethod
    def get(
        cls,
        name: str,
        url: str,
        bundle_dir: Path,
        version: str | None = None,
        sha256: str | None = None,
        unchecked: bool = False,
        max_bytes: int = 1 << 33,
    ) -> FetchedBundle:
        """Fetch into a temporary folder of ``bundle_dir``, check, unpack, check again, and rename.

        Args:
            name: of the bundle.
            url: of its zip, or of the folder of a release.
            bundle_dir: folder that gets the folder ``name``.
            version: which one of the release; None for the highest.
            sha256: that the zip must have; None for what lies beside it.
            unchecked: go on if there is no SHA-256; one that there is counts all the same.
            max_bytes: for the zip, and for what it unpacks to.

        Raises:
            InputError: something is not as it must be; nothing is left of it.
        """
        bundle_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=bundle_dir) as temporary:
            work = Path(temporary)
            address, digest, told_by = _locate(name, url, version, sha256, work)
            if not digest and not unchecked:
                raise InputError(
                    f"{address}: no SHA-256 to check it by, neither {SUMS} nor a .sha256 beside it; give --sha256, or "
                    "--unchecked if you trust it as it is."
                )
            archive = work / Path(urllib.parse.urlsplit(address).path).name
            download(address, archive, max_bytes)
            found = sha256_of(archive)
            if digest and found != digest:
                raise InputError(f"{address}: has SHA-256 {found}, not {digest} as {told_by} says; do not use it.")
            (work / "unpacked").mkdir()
            files = unpack_zip(archive, work / "unpacked", name, max_bytes)
            new = work / "unpacked" / name
            own = _version_of(new, archive.name, version)
            is_new = place_bundle(new, bundle_dir / name, [file.split("/", 1)[1] for file in files])
        return cls(bundle_dir / name, own, found, told_by, is_new)


def _locate(name: str, url: str, version: str | None, sha256: str | None, work: Path) -> tuple[str, str, str]:
    """Return the address of the zip, its expected SHA-256 and who says so, both empty if nobody does."""
    is_zip = urllib.parse.urlsplit(url).path.endswith(".zip")
    if is_zip:
        address = url
    else:
        sums = _sums(_within(url, SUMS), work)
        address = _within(url, sums.newest(name, version))
    if sha256 is not None:
        return address, sha256, "--sha256"
    file = Path(urllib.parse.urlsplit(address).path).name
    told = {}
    for place in (_beside(address, file + ".sha256"), _beside(address, SUMS)):
        try:
            told[place] = _sums(place, work).digests.get(file, "")
        except _NoSumsError:
            continue
    told = {place: digest for place, digest in told.items() if digest}
    if len(set(told.values())) > 1:
        raise InputError(f"{address}: {' and '.join(told)} name different SHA-256 of it; do not use it.")
    return next(((address, digest, place) for place, digest in told.items()), (address, "", ""))


class _NoSumsError(InputError):
    """A list of sums cannot be had."""


def _sums(address: str, work: Path) -> ReleaseSums:
    path, problem = work / "sums", ""
    try:
        download(address, path, MAX_SUMS)
        return ReleaseSums.of(path.read_text(encoding="utf-8"), address)
    except UnicodeDecodeError as error:
        raise InputError(f"{address}: is no text; fetch it again.") from error
    except DownloadError as error:
        problem = str(error)
    # not within the handler: of a chain the first error is told
    raise _NoSumsError(f"{problem} A release has {SUMS}; or give the address of the zip itself.")


def _within(folder: str, file: str) -> str:
    return f"{folder.rstrip('/')}/{urllib.parse.quote(file)}"


def _beside(address: str, file: str) -> str:
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(path=f"{parts.path.rsplit('/', 1)[0]}/{file}"))


def _version_of(bundle: Path, archive: str, wanted: str | None) -> str:
    """Return the version in a bundle's metadata; refuse what is no bundle, or another version than it is called."""
    missing = [file for file in REQUIRED_FILES if not (bundle / file).is_file()]
    if missing:
        raise InputError(f"{archive}: is no release of a bundle, it has no {', '.join(missing)}.")
    try:
        version = str(json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{archive}: its configs/metadata.json names no version ({error}).") from error
    match = re.fullmatch(rf"{re.escape(bundle.name)}_v([\d.]+)\.zip", archive)
    told = wanted or (match[1] if match else version)
    if version != told:
        raise InputError(f"{archive}: is version {version} by its metadata, not {told}; do not use it.")
    return version

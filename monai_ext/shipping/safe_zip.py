# SPDX-License-Identifier: Apache-2.0
"""Unpacks a zip of unknown making: nothing gets out of its folder, nothing grows without end."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path

from monai_ext.errors import InputError

MAX_FILES = 10_000
MAX_RATIO = 200  # deflate cannot do more than 1032; text seldom does more than 20
SMALL = 1 << 20  # files below this may be as repetitive as they like
MAX_NAME = 240
REMEDY = "do not use this file, fetch it from whom you trust."


def unpack_zip(path: Path, folder: Path, top: str, max_bytes: int) -> list[str]:
    """Check all entries of a zip, then unpack it into a folder of its own.

    Only regular files and folders below one top folder are taken. Links, devices, absolute names, ``..``, names that
    two systems read differently, two entries of one place, encrypted entries and entries that share their bytes are
    refused, before anything is written. Permissions of the archive are ignored.

    Args:
        path: the zip.
        folder: a new or empty folder that nobody else writes to.
        top: name of the only folder at the top.
        max_bytes: what all files may have together.

    Returns:
        Paths of the files, below ``folder``, sorted.

    Raises:
        InputError: names the archive, the entry and the rule.

    Example:
        >>> unpack_zip(Path("desam_v0.1.0.zip"), Path("new"), "desam", 10**9)[0]  # doctest: +SKIP
        'desam/LICENSE'
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_all(path, entries, max_bytes)
            for entry in entries:
                _check_name(path, entry, top)
                _check_kind(path, entry)
            _check_places(path, entries)
            return sorted(_write(archive, entry, folder) for entry in entries if not entry.is_dir())
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path.name}: cannot be unpacked ({error}); it is damaged or no zip, fetch it again."
        ) from error


def _check_all(path: Path, entries: Sequence[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(entries) > MAX_FILES:
        raise InputError(f"{path.name}: has {len(entries)} entries, more than {MAX_FILES}; {REMEDY}")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise InputError(
            f"{path.name}: unpacks to {total / 1e6:.0f} MB, more than {max_bytes / 1e6:g}; raise --max_mb if you "
            "expect that."
        )
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise InputError(f"{path.name}: its entries share their bytes, as in a bomb; {REMEDY}")
    for entry in entries:
        if entry.file_size > max(SMALL, MAX_RATIO * entry.compress_size):
            ratio = entry.file_size / max(entry.compress_size, 1)
            raise InputError(
                f"{path.name}: {entry.filename!r} unpacks to {ratio:.0f} times its size, more than {MAX_RATIO}, as in "
                f"a bomb; {REMEDY}"
            )


def _check_name(path: Path, entry: zipfile.ZipInfo, top: str) -> None:
    name = entry.orig_filename  # as it is written; the other one ends at a zero byte
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        rule = "is an absolute path"
    elif ".." in parts:
        rule = "leads out of its folder"
    elif re.search(r"[\\:\x00-\x1f\x7f]", name) or {"", "."} & set(parts) or len(name.encode()) > MAX_NAME:
        rule = "is no plain relative path"
    elif any(part != part.rstrip(". ") for part in parts):
        rule = "has a part that ends in a dot or a space, which some systems drop"
    elif parts[0] != top or (len(parts) == 1 and not entry.is_dir()):
        rule = f"is not below the folder {top!r}"
    else:
        return
    raise InputError(f"{path.name}: {name!r} {rule}; {REMEDY}")


def _check_kind(path: Path, entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        rule = "is a link"
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > entry.is_dir():
        rule = "is neither a file nor a folder"
    elif entry.flag_bits & 1:
        rule = "is encrypted"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        rule = "is compressed in an unusual way"
    elif entry.is_dir() and entry.file_size:
        rule = "is a folder with content"
    else:
        return
    raise InputError(f"{path.name}: {entry.filename!r} {rule}; {REMEDY}")


def _check_places(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse two entries for one place, also where a system ignores case or the way an accent is written."""
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        place = unicodedata.normalize("NFC", entry.filename.removesuffix("/")).casefold()
        above = {place[: match.start()] for match in re.finditer("/", place)}
        twice = place in files or (place in folders and not entry.is_dir()) or above & files
        if twice:
            raise InputError(f"{path.name}: {entry.filename!r} is there twice; {REMEDY}")
        (folders if entry.is_dir() else files).add(place)
        folders |= above


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> str:
    target = folder / entry.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, open(target, "xb") as file:  # x: never through something that is there
        while piece := source.read(1 << 20):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if target.stat().st_size != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename} has another size than it says")
    return entry.filename

# SPDX-License-Identifier: Apache-2.0
"""Zips that reach out, clash, lie or explode are refused before a byte is written."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from monai_ext.errors import InputError
from monai_ext.shipping import safe_zip
from monai_ext.shipping.safe_zip import unpack_zip

LIMIT = 10_000_000


def entry(name: str, mode: int = 0o100644, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder")
    info.filename, info.create_system, info.external_attr, info.compress_type = name, 3, mode << 16, method
    return info


def crafted(folder: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    path = folder / "toy_v0.1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


def refused(path: Path, folder: Path, limit: int = LIMIT) -> str:
    folder.mkdir()
    with pytest.raises(InputError) as caught:
        unpack_zip(path, folder, "toy", limit)
    return str(caught.value)


def test_plain_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    path = crafted(
        tmp_path,
        (entry("toy/", 0o40755), b""),
        (entry("toy/a.txt"), b"a"),
        (entry("toy/deep/ü b.bin", 0o100777, zipfile.ZIP_DEFLATED), b"b" * 1000),
    )
    assert unpack_zip(path, tmp_path / "new", "toy", LIMIT) == ["toy/a.txt", "toy/deep/ü b.bin"]
    assert (tmp_path / "new" / "toy" / "deep" / "ü b.bin").read_bytes() == b"b" * 1000
    assert not (tmp_path / "new" / "toy" / "deep" / "ü b.bin").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("../evil", "leads out"), ("toy/../../evil", "leads out"), ("toy/..", "leads out"),
        ("/etc/evil", "absolute"), ("C:/evil", "absolute"), ("c:evil", "absolute"), ("toy\\..\\evil", "plain relative"),
        ("//server/evil", "absolute"), ("toy//evil", "plain relative"), ("toy/./evil", "plain relative"),
        ("toy/a:b", "plain relative"), ("toy/a\nb", "plain relative"), ("toy/" + "a" * 300, "plain relative"),
        ("toy/evil ", "dot or a space"), ("toy/evil.", "dot or a space"), ("toys/a", "not below"), ("toy", "not below"),
        ("a", "not below"),
    ],
)  # fmt: skip
def test_names_that_are_no_plain_path_below_the_bundle_are_refused(tmp_path: Path, name: str, rule: str) -> None:
    path = crafted(tmp_path, (entry("toy/fine"), b"x"), (entry(name), b"x"))
    assert rule in refused(path, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_name_that_ends_early_for_one_reader_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/evil_name"), b"x"))
    path.write_bytes(path.read_bytes().replace(b"toy/evil_name", b"toy/evil\0name"))
    assert "plain relative" in refused(path, tmp_path / "new")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "neither a file nor"), (stat.S_IFBLK, "neither a file nor"),
        (stat.S_IFIFO, "neither a file nor"), (stat.S_IFSOCK, "neither a file nor"),
    ],
)  # fmt: skip
def test_links_and_devices_are_refused(tmp_path: Path, kind: int, rule: str) -> None:
    path = crafted(tmp_path, (entry("toy/fine"), b"x"), (entry("toy/evil", kind | 0o644), b"/etc"))
    assert rule in refused(path, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_is_called_like_a_file_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/evil", stat.S_IFDIR | 0o755), b""))
    assert "neither a file nor a folder" in refused(path, tmp_path / "new")


@pytest.mark.parametrize(
    ("first", "second"),
    [("toy/a", "toy/a"), ("toy/a", "toy/A"), ("toy/a", "toy/a/b"), ("toy/a/b", "toy/a"), ("toy/\u00e9", "toy/e\u0301")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_for_one_place_are_refused(tmp_path: Path, first: str, second: str) -> None:
    path = crafted(tmp_path, (entry(first), b"x"), (entry(second), b"y"))
    assert "is there twice" in refused(path, tmp_path / "new")


def test_a_file_that_grows_without_measure_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/bomb", method=zipfile.ZIP_DEFLATED), bytes(5_000_000)))
    assert "as in a bomb" in refused(path, tmp_path / "new")


def test_more_than_the_limit_in_all_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, *((entry(f"toy/{number}"), bytes(1000)) for number in range(11)))
    assert "raise --max_mb" in refused(path, tmp_path / "new", 10_000)
    assert len(unpack_zip(path, tmp_path / "fits", "toy", 11_000)) == 11


def test_more_files_than_any_bundle_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_zip, "MAX_FILES", 3)
    path = crafted(tmp_path, *((entry(f"toy/{number}"), b"") for number in range(4)))
    assert "4 entries, more than 3" in refused(path, tmp_path / "new")


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    kernel = bytes(range(256)) * 40
    path = crafted(tmp_path, (entry("toy/a"), kernel))
    with zipfile.ZipFile(path, "a") as archive:  # the directory names the same bytes again and again
        for name in ("toy/b", "toy/c", "toy/d"):
            again = entry(name)
            first = archive.infolist()[0]
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)
        archive._didModify = True
    assert "share their bytes" in refused(path, tmp_path / "new")


def test_an_entry_that_is_larger_than_it_says_does_not_come_out(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/liar", method=zipfile.ZIP_DEFLATED), bytes(100_000)))
    told, truth = (size.to_bytes(4, "little") for size in (10, 100_000))
    path.write_bytes(path.read_bytes().replace(truth, told))
    assert "cannot be unpacked" in refused(path, tmp_path / "new")


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/a"), b"some content"))
    path.write_bytes(path.read_bytes().replace(b"some content", b"some c0ntent"))
    assert "cannot be unpacked" in refused(path, tmp_path / "new")


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/a"), b"x"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refused(path, tmp_path / "new")


def test_an_unusual_compression_is_refused(tmp_path: Path) -> None:
    path = crafted(tmp_path, (entry("toy/a", method=zipfile.ZIP_LZMA), b"x" * 100))
    assert "unusual way" in refused(path, tmp_path / "new")


@pytest.mark.parametrize("content", [b"", b"<html>no such page</html>", b"PK\x05\x06"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "toy_v0.1.0.zip"
    path.write_bytes(content)
    assert "damaged or no zip" in refused(path, tmp_path / "new")

# SPDX-License-Identifier: Apache-2.0
"""A bundle is fetched whole, checked, and never over another; MONAI's own download takes the same release."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from monai.bundle import scripts

from monai_ext.commands._fire import main
from tests.commands.released import PLACE, release_of, served

ZIP = "toy_v0.1.0.zip"


@pytest.fixture
def dist(toy: Path, tmp_path: Path) -> Path:
    """The toy's release, where GitHub would have it below ``web``."""
    folder = tmp_path / "web" / PLACE
    assert release_of(toy, folder, "--with_models", "--url", "https://example.org") == 0
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fetch(home: Path, *words: object, name: str = "toy") -> int:
    return main(["fetch", name, "--bundle_dir", str(home), *map(str, words)])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_fetched_is_what_was_released(dist: Path, home: Path, capsys: pytest.CaptureFixture) -> None:
    assert fetch(home, "--release", dist) == 0
    with zipfile.ZipFile(dist / ZIP) as archive:
        assert files_of(home) == {name: archive.read(name) for name in archive.namelist()}
    assert [path.name for path in home.iterdir()] == ["toy"]
    assert hashlib.sha256((dist / ZIP).read_bytes()).hexdigest() in capsys.readouterr().out


@pytest.mark.parametrize("address", ["", "/", "/" + ZIP])
def test_a_release_is_fetched_over_http_by_its_folder_or_its_zip(
    dist: Path, home: Path, tmp_path: Path, address: str
) -> None:
    with served(tmp_path / "web") as server:
        assert fetch(home, "--url", f"{server}/{PLACE}{address}") == 0
    assert (home / "toy" / "models" / "model.pt").is_file()


def test_the_highest_version_is_taken_or_the_one_that_is_asked_for(
    toy: Path, dist: Path, home: Path, tmp_path: Path
) -> None:
    for version in ("0.9.0", "0.10.0"):
        changed = tmp_path / version / "toy"
        shutil.copytree(toy, changed)
        metadata = changed / "configs" / "metadata.json"
        content = json.loads(metadata.read_text(encoding="utf-8"))
        metadata.write_text(json.dumps({**content, "version": version}), encoding="utf-8")
        with zipfile.ZipFile(dist / f"toy_v{version}.zip", "w") as archive:
            for name in ("LICENSE", "configs/metadata.json"):
                archive.write(changed / name, f"toy/{name}")
        digest = hashlib.sha256((dist / f"toy_v{version}.zip").read_bytes()).hexdigest()
        with open(dist / "SHA256SUMS", "a", encoding="utf-8") as file:
            file.write(f"{digest}  toy_v{version}.zip\n")
    assert fetch(home, "--release", dist) == 0
    assert '"0.10.0"' in (home / "toy" / "configs" / "metadata.json").read_text(encoding="utf-8")
    assert fetch(tmp_path / "other", "--release", dist, "--version", "0.1.0") == 0
    assert (tmp_path / "other" / "toy" / "models" / "model.pt").is_file()


def test_damage_is_noticed_by_any_of_the_three_sums(
    dist: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = bytearray((dist / ZIP).read_bytes())
    content[-3000] ^= 1
    (dist / ZIP).write_bytes(content)
    truth = (dist / f"{ZIP}.sha256").read_text(encoding="utf-8").split()[0]
    beside = tmp_path / "beside"
    for name in (ZIP, f"{ZIP}.sha256"):
        (beside / name).parent.mkdir(exist_ok=True)
        shutil.copy(dist / name, beside)
    ways = [("--release", dist), ("--url", (beside / ZIP).as_uri()), ("--release", dist, "--sha256", truth.upper())]
    for words in ways:
        assert fetch(home, *words) == 1
        assert f"not {truth} as" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_sums_that_contradict_each_other_are_refused(dist: Path, home: Path, capsys: pytest.CaptureFixture) -> None:
    (dist / f"{ZIP}.sha256").write_text(f"{'0' * 64}  {ZIP}\n", encoding="utf-8")
    assert fetch(home, "--release", dist) == 1
    assert "name different SHA-256" in capsys.readouterr().err


def test_without_a_sum_nothing_is_unpacked_unless_that_is_wanted(
    dist: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    alone = tmp_path / "alone" / ZIP
    alone.parent.mkdir()
    shutil.copy(dist / ZIP, alone)
    assert fetch(home, "--url", alone.as_uri()) == 1
    assert "no SHA-256 to check it by" in capsys.readouterr().err
    assert list(home.iterdir()) == []
    assert fetch(home, "--url", alone.as_uri(), "--unchecked") == 0
    assert "checked by nothing" in capsys.readouterr().out


def test_a_wrong_sum_counts_in_spite_of_unchecked(dist: Path, home: Path) -> None:
    assert fetch(home, "--release", dist, "--sha256", "0" * 64, "--unchecked") == 1


def test_the_same_bundle_is_left_alone_with_what_was_added_to_it(
    dist: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    fetch(home, "--release", dist)
    (home / "toy" / "eval").mkdir()
    (home / "toy" / "eval" / "mine.csv").write_text("mine", encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert fetch(home, "--release", dist) == 0
    assert "unchanged" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_changed_bundle_is_never_overwritten(dist: Path, home: Path, capsys: pytest.CaptureFixture) -> None:
    fetch(home, "--release", dist)
    (home / "toy" / "configs" / "inference.json").write_text("mine", encoding="utf-8")
    (home / "toy" / "LICENSE").unlink()
    before = files_of(home)
    assert fetch(home, "--release", dist) == 1
    assert (
        "differs from this release in LICENSE, configs/inference.json; nothing was changed" in capsys.readouterr().err
    )
    assert files_of(home) == before


def test_what_is_no_folder_is_never_replaced(dist: Path, home: Path) -> None:
    home.mkdir()
    (home / "toy").write_text("mine", encoding="utf-8")
    assert fetch(home, "--release", dist) == 1
    assert (home / "toy").read_text(encoding="utf-8") == "mine"


def test_a_link_that_leads_nowhere_is_never_replaced(dist: Path, home: Path) -> None:
    home.mkdir()
    (home / "toy").symlink_to("nowhere")
    assert fetch(home, "--release", dist) == 1
    assert (home / "toy").readlink() == Path("nowhere")
    assert not (home / "nowhere").exists()


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"toy/../../evil": b"x"}, "leads out of its folder"),
        ({"other/LICENSE": b"x"}, "not below the folder 'toy'"),
        ({"toy/LICENSE": b"x"}, "has no configs/metadata.json"),
        ({"toy/LICENSE": b"x", "toy/configs/metadata.json": b"[]"}, "names no version"),
        ({"toy/LICENSE": b"x", "toy/configs/metadata.json": b'{"version": "0.2.0"}'}, "is version 0.2.0"),
    ],
)
def test_what_is_no_bundle_of_this_name_leaves_nothing_behind(
    home: Path, tmp_path: Path, entries: dict[str, bytes], told: str, capsys: pytest.CaptureFixture
) -> None:
    with zipfile.ZipFile(tmp_path / ZIP, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert fetch(home, "--url", (tmp_path / ZIP).as_uri(), "--unchecked") == 1
    assert told in capsys.readouterr().err
    assert list(home.iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "either --url, an address, or --release"),
        (["--url", "ftp://example.org/toy.zip", "--unchecked"], "must begin with https://"),
        (["--url", "file:///dev/zero.zip", "--unchecked"], "there is no such file"),
        (["--url", "http://127.0.0.1:9/toy.zip", "--unchecked"], "could not be fetched"),
        (["--url", "file:///nowhere"], "A release has SHA256SUMS"),
        (["--release", "/nowhere"], "is no folder"),
        (["--release", ".", "--sha256", "abc"], "64 hexadecimal digits"),
        (["--release", ".", "--max_mb", "0"], "above 0"),
    ],
)
def test_wrong_words_are_told(home: Path, words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    assert fetch(home, *words) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../toy", "toy/..", "/toy", "", "a b"])
def test_a_name_that_is_a_path_is_refused(dist: Path, home: Path, name: str) -> None:
    assert fetch(home, "--release", dist, name=name) == 1
    assert not home.exists()


def test_a_zip_beyond_the_limit_is_not_read_to_its_end(
    dist: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with open(dist / ZIP, "ab") as file:
        file.truncate(2_000_000)
    with served(tmp_path / "web") as server:
        assert fetch(home, "--url", f"{server}/{PLACE}", "--max_mb", "1") == 1
    assert "is larger than 1 MB" in capsys.readouterr().err


def test_an_answer_that_is_cut_short_is_noticed(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Cut(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"PK")

    with served(tmp_path, Cut) as server:
        assert fetch(home, "--url", f"{server}/{ZIP}", "--sha256", "0" * 64) == 1
    assert "998 bytes early" in capsys.readouterr().err


def test_a_redirection_to_a_file_of_this_machine_is_refused(
    dist: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Elsewhere(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", (dist / ZIP).as_uri())
            self.end_headers()

    with served(tmp_path, Elsewhere) as server:
        assert fetch(home, "--url", f"{server}/{ZIP}", "--unchecked") == 1
    assert "could not be fetched" in capsys.readouterr().err


def test_monai_downloads_and_loads_it_from_a_server_laid_out_like_github(
    toy: Path, dist: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    with served(tmp_path / "web") as server:
        github = scripts._get_git_release_url  # the one place where MONAI names the server
        at_home = lambda *args, **kwargs: github(*args, **kwargs).replace("https://github.com", server)  # noqa: E731
        monkeypatch.setattr(scripts, "_get_git_release_url", at_home)
        scripts.download("toy", version="0.1.0", source="github", repo="owner/repo/tag", bundle_dir=home)
    monkeypatch.syspath_prepend(home / "toy")  # as in a process that was started in the bundle's folder
    network = scripts.load("toy", bundle_dir=home, workflow_type="inference", device="cpu")
    expected = torch.load(toy / "models" / "model.pt", weights_only=True)
    found = network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sys.modules[type(network).__module__].__file__ == str(home / "toy" / "toy" / "network.py")
    for name in ("toy.network", "toy"):
        sys.modules.pop(name)

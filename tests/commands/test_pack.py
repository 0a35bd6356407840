# SPDX-License-Identifier: Apache-2.0
"""Releases: the same bytes twice, nothing that does not belong, and MONAI can download them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from monai.bundle import scripts

from monai_ext.commands._fire import main

ALWAYS = {
    "toy/LICENSE",
    "toy/configs/inference.json",
    "toy/configs/metadata.json",
    "toy/docs/README.md",
    "toy/large_files.yml",
    "toy/toy/__init__.py",
    "toy/toy/network.py",
}


def change_metadata(bundle: Path, **entries: object) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    path.write_text(
        json.dumps({name: value for name, value in metadata.items() if value is not None}), encoding="utf-8"
    )


def test_packed_twice_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    assert main(["pack", str(toy), "--output_dir", str(tmp_path / "first"), "--with_models"]) == 0
    copy = tmp_path / "elsewhere" / "toy"
    shutil.copytree(toy, copy)
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
        file.chmod(0o700)
    assert main(["pack", str(copy), "--output_dir", str(tmp_path / "second"), "--with_models"]) == 0
    first, second = (tmp_path / name / "toy_v0.1.0.zip" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_the_zip_holds_what_is_released_and_nothing_else(toy: Path, tmp_path: Path) -> None:
    (toy / "models" / "checkpoint.pt").write_bytes(b"to resume from")
    (toy / "models" / "model_backup_1.pt").write_bytes(b"of another run")
    (toy / "models" / "pretrained").mkdir()
    (toy / "models" / "pretrained" / "trunk.pt").write_bytes(b"somebody else's")
    (toy / "models" / "fetched.pt").write_bytes(b"large_files.yml says where to fetch it")
    main(["pack", str(toy), "--output_dir", str(tmp_path)])
    with zipfile.ZipFile(tmp_path / "toy_v0.1.0.zip") as archive:
        assert set(archive.namelist()) == ALWAYS
    main(["pack", str(toy), "--output_dir", str(tmp_path), "--with_models"])
    with zipfile.ZipFile(tmp_path / "toy_v0.1.0.zip") as archive:
        assert set(archive.namelist()) == ALWAYS | {"toy/models/model.pt", "toy/models/model.pt.licences.json"}


def test_hashes_beside_the_zip_are_right(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "model_info.json").write_text(
        '{"other_v0.1.0": {"checksum": "0", "source": "https://example.org"}}', encoding="utf-8"
    )
    main(["pack", str(toy), "--output_dir", str(tmp_path), "--url", "https://example.org/releases/"])
    content = (tmp_path / "toy_v0.1.0.zip").read_bytes()
    line = (tmp_path / "toy_v0.1.0.zip.sha256").read_text(encoding="utf-8")
    assert line == f"{hashlib.sha256(content).hexdigest()}  toy_v0.1.0.zip\n"
    info = json.loads((tmp_path / "model_info.json").read_text(encoding="utf-8"))
    assert info["toy_v0.1.0"]["checksum"] == hashlib.sha1(content).hexdigest()
    assert info["toy_v0.1.0"]["source"] == "https://example.org/releases/toy_v0.1.0.zip"
    assert "other_v0.1.0" in info


def test_monai_downloads_and_runs_it_in_an_empty_folder(toy: Path, tmp_path: Path) -> None:
    main(["pack", str(toy), "--output_dir", str(tmp_path / "dist"), "--with_models"])
    address = (tmp_path / "dist" / "toy_v0.1.0.zip").as_uri()
    empty = tmp_path / "empty"
    empty.mkdir()
    scripts.download("toy", url=address, bundle_dir=empty)
    files = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]
    command = [sys.executable, "-m", "monai.bundle", "verify_net_in_out", "--net_id", "network_def", *files]
    # a folder that holds the bundle alone: its own copy of its package is what runs
    subprocess.run([*command, "--device", "cpu"], check=True, cwd=empty / "toy")


def test_a_github_release_of_it_unpacks(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["pack", str(toy), "--output_dir", str(tmp_path / "dist")])
    asked = []

    def release(url: str, filepath: Path, **_: object) -> None:
        asked.append(url)
        shutil.copy(tmp_path / "dist" / url.rsplit("/", 1)[1], filepath)

    monkeypatch.setattr(scripts, "download_url", release)
    (tmp_path / "empty").mkdir()
    scripts.download("toy", version="0.1.0", source="github", repo="owner/repo/tag", bundle_dir=tmp_path / "empty")
    assert asked == ["https://github.com/owner/repo/releases/download/tag/toy_v0.1.0.zip"]
    assert (tmp_path / "empty" / "toy" / "configs" / "metadata.json").is_file()


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"version": "0.2.0"}, "changelog has no entry '0.2.0'"),
        ({"version": "0.10.0"}, "three single digits"),
        ({"authors": None}, "has no authors"),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused(
    toy: Path, tmp_path: Path, entries: dict, told: str, capsys: pytest.CaptureFixture
) -> None:
    change_metadata(toy, **entries)
    assert main(["pack", str(toy), "--output_dir", str(tmp_path / "dist")]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


def test_a_missing_licence_is_refused(toy: Path, capsys: pytest.CaptureFixture) -> None:
    (toy / "LICENSE").unlink()
    assert main(["pack", str(toy)]) == 1
    assert "LICENSE: is missing" in capsys.readouterr().err


def test_the_schema_is_kept_where_a_copy_is_here(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("MONAI_EXT_SCHEMA", raising=False)
    main(["pack", str(toy), "--output_dir", str(tmp_path)])
    assert "schema not checked" in capsys.readouterr().out
    schema = {"type": "object", "properties": {"network_data_format": {"type": "object"}, "task": {"type": "string"}}}
    (toy / "eval" / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    main(["pack", str(toy), "--output_dir", str(tmp_path)])
    assert "valid by" in capsys.readouterr().out
    change_metadata(toy, task=3)
    assert main(["pack", str(toy), "--output_dir", str(tmp_path)]) == 1
    assert "task: 3 is not of type 'string'" in capsys.readouterr().err

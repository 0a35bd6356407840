# SPDX-License-Identifier: Apache-2.0
"""One folder with everything that is published; commercial only if everything is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from monai_ext.commands._fire import main
from monai_ext.shipping import publish as publishing
from tests.commands.released import a_wheel, release_of
from tests.shipping.made_bundles import make_data, write_json


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def trained(toy: Path, **knobs: str) -> None:
    write_json(toy / "eval" / "run.json", {"status": "finished", "knobs": knobs})


def licensed(toy: Path) -> None:
    code = {"licence": "Apache-2.0", "commercial": "yes", "source": "LICENSE"}
    write_json(toy / "docs" / "licences.json", {"code": code, "weights": [], "data": []})


def test_the_folder_has_all_files_and_their_sums_are_right(toy: Path, tmp_path: Path) -> None:
    assert release_of(toy, tmp_path / "dist", "--url", "https://example.org/tag/") == 0
    files = contents(tmp_path / "dist")
    assert set(files) == {
        "toy_v0.1.0.zip", "toy_v0.1.0.zip.sha256", "model_info.json", "SHA256SUMS", "LICENCES.md", "licences.json",
        "monai_ext-0.0.0-py3-none-any.whl",
    }  # fmt: skip
    told = dict(reversed(line.split("  ")) for line in files["SHA256SUMS"].decode().splitlines())
    summed = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert told == {name: summed[name] for name in set(files) - {"SHA256SUMS", "toy_v0.1.0.zip.sha256"}}
    entry = json.loads(files["model_info.json"])["toy_v0.1.0"]
    assert entry["source"] == "https://example.org/tag/toy_v0.1.0.zip"
    assert entry["checksum"] == hashlib.sha1(files["toy_v0.1.0.zip"]).hexdigest()
    assert entry["sha256"] == summed["toy_v0.1.0.zip"]


def test_released_twice_gives_the_same_bytes_and_leaves_the_files_alone(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--with_models", "--url", "https://example.org"]
    release_of(toy, tmp_path / "dist", *words)
    before = contents(tmp_path / "dist")
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "dist").iterdir()}
    for file in toy.rglob("*"):
        os.utime(file, (1, 1))
    capsys.readouterr()
    assert release_of(toy, tmp_path / "dist", *words) == 0
    assert contents(tmp_path / "dist") == before
    assert {path.name: path.stat().st_ino for path in (tmp_path / "dist").iterdir()} == inodes
    assert capsys.readouterr().out.count("kept ") == len(before)
    release_of(toy, tmp_path / "other", *words)
    assert contents(tmp_path / "other") == before


def test_pack_makes_the_same_zip(toy: Path, tmp_path: Path) -> None:
    release_of(toy, tmp_path / "dist", "--with_models")
    main(["pack", str(toy), "--output_dir", str(tmp_path / "packed"), "--with_models"])
    packed, released = (tmp_path / name / "toy_v0.1.0.zip" for name in ("packed", "dist"))
    assert packed.read_bytes() == released.read_bytes()


def test_a_release_that_was_killed_is_completed_by_the_next_call(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_of(toy, tmp_path / "whole", "--url", "x")
    replace, moved = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path / "dist":
            moved.append(target)
            if len(moved) == 3:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(publishing.os, "replace", killed)
        assert release_of(toy, tmp_path / "dist", "--url", "x") == 130
    left = contents(tmp_path / "dist")
    whole = contents(tmp_path / "whole")
    assert 0 < len(left) < len(whole)
    assert "SHA256SUMS" not in left
    assert {name: whole[name] for name in left} == left
    assert release_of(toy, tmp_path / "dist", "--url", "x") == 0
    assert contents(tmp_path / "dist") == whole


def test_the_zip_says_what_its_weights_are_made_of(toy: Path, tmp_path: Path) -> None:
    trained(toy, dataset_dir=str(make_data(tmp_path / "scans", licence="CC BY-NC 4.0")))
    release_of(toy, tmp_path / "dist", "--with_models")
    with zipfile.ZipFile(tmp_path / "dist" / "toy_v0.1.0.zip") as archive:
        told = json.loads(archive.read("toy/models/model.pt.licences.json"))
    assert told["sha256"] == hashlib.sha256((toy / "models" / "model.pt").read_bytes()).hexdigest()
    assert (told["commercial"], [part["licence"] for part in told["parts"]]) == ("no", ["CC BY-NC 4.0"])
    page = (tmp_path / "dist" / "LICENCES.md").read_text(encoding="utf-8")
    assert "| scans | data | CC BY-NC 4.0 | no |  | models/model.pt &lt;- eval/run.json: dataset_dir |" in page


def test_a_commercial_release_refuses_and_writes_nothing(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    licensed(toy)
    trained(toy, dataset_dir=str(make_data(tmp_path / "scans", licence="CC BY-NC 4.0")), pretrained="some.pth")
    assert release_of(toy, tmp_path / "dist", "--with_models", "--commercial") == 1
    told = capsys.readouterr().err
    assert (
        "toy: data scans (CC BY-NC 4.0; commercial use no; from models/model.pt <- eval/run.json: dataset_dir)" in told
    )
    assert "toy: weights some.pth (unknown; commercial use unknown" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "dist").exists()


def test_a_commercial_release_of_what_allows_it_is_built(toy: Path, tmp_path: Path) -> None:
    licensed(toy)
    trained(toy, dataset_dir=str(make_data(tmp_path / "scans", licence="CC BY 4.0")))
    assert release_of(toy, tmp_path / "dist", "--with_models", "--commercial") == 0
    record = json.loads((tmp_path / "dist" / "licences.json").read_text(encoding="utf-8"))
    assert [bundle["commercial"] for bundle in record["bundles"]] == ["yes"]


def test_code_without_a_statement_is_a_culprit(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert release_of(toy, tmp_path / "dist", "--commercial") == 1
    assert (
        "toy: code toy (unknown; commercial use unknown; from there is no docs/licences.json)"
        in capsys.readouterr().err
    )


def test_one_bundle_that_breaks_a_rule_stops_all(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = shutil.copytree(toy, tmp_path / "bundles" / "zoo")
    (broken / "LICENSE").unlink()
    words = ["--output_dir", str(tmp_path / "dist"), "--wheel", str(a_wheel(tmp_path))]
    assert main(["release", "--bundles", f"{toy},{broken}", *words]) == 1
    assert "LICENSE: is missing" in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--bundles", "nowhere"], "no bundle (a folder with"),
        (["--bundles", ","], "no bundle to release"),
        (["--bundles", "sam_sp,sam_sp"], "sam_sp more than once"),
        (["--wheel", "nothing.whl"], "is no wheel"),
        (["--bundles", "sam_sp", "--with_models"], "model.pt: is missing"),
    ],
)
def test_wrong_words_are_told(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["release", "--output_dir", str(tmp_path / "dist"), *words]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "dist").exists()


@pytest.mark.slow
def test_the_wheel_is_the_same_whatever_the_checkout_looks_like(tmp_path: Path) -> None:
    from monai_ext.shipping.wheel import NEEDED, build_wheel

    root = Path(__file__).parents[2]
    copy = tmp_path / "copy"
    for name in ("monai_ext", "bundles/sam_sp"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        shutil.copy(root / name, copy)
    first = build_wheel(tmp_path / "first", copy)
    for file in copy.rglob("*"):
        os.utime(file, (10**9, 10**9))
        file.chmod(0o700)
    (copy / "monai_ext" / "__pycache__").mkdir()
    (copy / "monai_ext" / "__pycache__" / "junk.pyc").write_bytes(b"junk")
    second = build_wheel(tmp_path / "second", copy)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert {"monai_ext/shipping/wheel.py", "sam_sp/network.py"} <= set(archive.namelist())

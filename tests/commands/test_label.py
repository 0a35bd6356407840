# SPDX-License-Identifier: Apache-2.0
"""The command checks everything that it can before it loads or serves anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_ext.commands import label as command
from monai_ext.commands._fire import main
from monai_ext.label import server
from tests.label.toy import write_bundle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles and studies, where what the server needs is installed."""
    for name in ("one", "two"):
        write_bundle(tmp_path / "bundles" / name)
    (tmp_path / "scans").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "is_installed", lambda package: True)
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been served."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(server, "serve", lambda *given: calls.append(given))
    return calls


def run(*words: str, models: str = "one", studies: str = "scans") -> int:
    return main(["label", "--studies", studies, "--models", models, *words])


def test_it_says_where_viewers_find_it(
    folder: Path, served: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--port", "8123", "--keep_mb", "500", models="two,bundles/one") == 0
    told = capsys.readouterr().out
    assert "server http://127.0.0.1:8123\n" in told
    assert "http://127.0.0.1:8123/ohif/\n" in told
    ((models, studies, app_dir, conf, serving),) = served
    assert [model.name for model in models] == ["two", "one"]
    assert (studies, app_dir) == (str(folder / "scans"), folder / "label_app")
    assert (conf, serving.accounts) == ({"keep_mb": "500", "parallel": "2"}, None)


def test_a_folder_stands_for_the_bundles_in_it(folder: Path, served: list[tuple[Any, ...]]) -> None:
    assert run(models="bundles") == 0
    assert [model.name for model in served[0][0]] == ["one", "two"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_this_machine_alone_no_password_is_needed(host: str, folder: Path, served: list[tuple[Any, ...]]) -> None:
    assert run("--host", host) == 0
    assert len(served) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-server", ""])
def test_other_machines_are_let_in_with_users_or_openly_not_by_accident(
    host: str, folder: Path, served: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"--host={host}") == 1
    assert "without a password; give --users FILE, or --insecure" in capsys.readouterr().err
    assert served == []
    (folder / "users").write_text("ada:difference engine", encoding="utf-8")
    (folder / "users").chmod(0o600)
    assert run(f"--host={host}", "--users", "users") == 0
    assert run(f"--host={host}", "--insecure") == 0
    assert [given[-1].accounts is None for given in served] == [False, True]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--models", "three"], "three: no bundle"),
        (["--studies", "nowhere"], "nowhere: no such folder"),
        (["--ssl_keyfile", "key.pem"], "needs both --ssl_keyfile and --ssl_certfile"),
        (["--users", "nobody"], "nobody: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    words: list[str], told: str, folder: Path, served: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert served == []


def test_a_bundle_without_weights_is_refused_before_anything_is_loaded(
    folder: Path, served: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bundles" / "two" / "models" / "model.pt").unlink()
    assert run(models="bundles") == 1
    assert "two: no weights" in capsys.readouterr().err
    assert served == []


def test_without_the_extra_it_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "is_installed", lambda package: package != "uvicorn")
    assert run() == 1
    assert 'uvicorn is not installed; pip install "monai-ext[label]"' in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""The command line: help, exit statuses, one-line errors, start-up."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_ext.commands import _fire
from monai_ext.commands._fire import COMMANDS, main


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "monai_ext", *words], capture_output=True, text=True, cwd=cwd)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0
    heavy = "{'torch', 'monai', 'numpy', 'fire', 'nibabel', 'matplotlib'} & set(sys.modules)"
    code = f"import sys; from monai_ext.commands._fire import main; main(['--help']); main(['pack', '--help']); {heavy}"
    code = code.replace(heavy, f"sys.exit(len({heavy}))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_is_listed_and_explains_itself_on_stdout(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    assert f"\n  {name} " in capsys.readouterr().out
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr()
    assert "Example" in shown.out
    assert f"python -m monai_ext {name}" in shown.out.split("Example", 1)[1]
    assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pakc"], "did you mean pack?"),
        (["pack"], "name is missing"),
        (["pack", "toy", "--outptu_dir", "x"], "did you mean --output_dir?"),
        (["pack", "toy", "dist", "True", "url", "more"], "unknown argument more"),
        (["pack", "toy", "--", "--interactive"], "'--' is not an argument"),
    ],
)
def test_wrong_arguments_give_one_line_and_status_2(words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_a_mistyped_option_runs_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.parents[1])
    assert main(["pack", "toy", "--with_modles"]) == 2
    assert not Path("dist").exists()


def test_names_that_look_like_numbers_stay_names(capsys: pytest.CaptureFixture) -> None:
    assert main(["pack", "007"]) == 1
    assert capsys.readouterr().err.startswith("error: 007: no bundle")


def test_a_missing_extra_is_one_line(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(toy)]) == 1
    assert capsys.readouterr().err == 'error: onnxscript is not installed; pip install "monai-ext[export]"\n'


def test_our_own_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fire, "_dispatch", lambda arguments: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(_fire, "_dispatch", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    program = (
        "import time; time.sleep(0.5); from monai_ext.commands._fire import main; raise SystemExit(main(['--help']))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_list_shows_a_bundle_and_its_commands(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(toy.parents[1])
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "toy 0.1.0  (toy segmentation)" in shown
    assert "model.pt" in shown
    assert "run --bundle_root bundles/toy --config_file bundles/toy/configs/inference.json" in shown
    assert main(["list", "--short"]) == 0
    assert "toy" in capsys.readouterr().out.split()

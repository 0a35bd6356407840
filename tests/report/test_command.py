# SPDX-License-Identifier: Apache-2.0
"""The command `report`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ext.commands.report import report
from monai_ext.errors import InputError
from tests.report.example_run import write_run


def test_command_writes_the_page_and_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, _ = write_run(tmp_path)
    (bundle / "models" / "parity.json").unlink()
    report(str(bundle), str(tmp_path / "new" / "report.html"))
    printed = capsys.readouterr().out
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "3 cases" in printed
    assert "parity.json is missing" in printed


def test_output_dir_can_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = write_run(tmp_path)
    output.rename(tmp_path / "elsewhere")
    report(str(bundle), str(tmp_path / "report.html"), str(tmp_path / "elsewhere"))
    assert "3 cases" in capsys.readouterr().out


def test_parity_is_found_beside_a_run_that_lies_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = write_run(tmp_path)
    (tmp_path / "run").mkdir()
    output.rename(tmp_path / "run" / "eval")
    (bundle / "models").rename(tmp_path / "run" / "models")
    report(str(bundle), str(tmp_path / "report.html"), str(tmp_path / "run" / "eval"))
    assert "parity.json is missing" not in capsys.readouterr().out


def test_an_evaluation_alone_is_a_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, output = write_run(tmp_path)
    (output / "run.json").rename(output / "evaluation.json")
    report(str(bundle), str(tmp_path / "report.html"))
    assert "run.json is missing" not in capsys.readouterr().out


def test_missing_output_dir_is_an_input_error(tmp_path: Path) -> None:
    bundle, _ = write_run(tmp_path)
    with pytest.raises(InputError, match="output_dir must be the folder of a run"):
        report(str(bundle), str(tmp_path / "report.html"), str(tmp_path / "nowhere"))


def test_output_that_is_a_folder_is_an_input_error(tmp_path: Path) -> None:
    bundle, _ = write_run(tmp_path)
    with pytest.raises(InputError, match=r"give .*report\.html"):
        report(str(bundle), str(tmp_path))


def test_report_needs_no_torch(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from monai_ext.report import build_report; "
        f"assert 'numpy' not in sys.modules; build_report(Path({str(bundle)!r}), Path({str(output)!r})); "
        "assert not {'torch', 'monai', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

# SPDX-License-Identifier: Apache-2.0
"""The command line: exit status, table, JSON, and a repaired copy that a second run finds healthy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_ext.commands.doctor import doctor
from monai_ext.doctor.finding import RULES
from monai_ext.errors import InputError

from .conftest import SHAPE, Seeded, write_nifti

COMMAND = "import fire; from monai_ext.commands.doctor import doctor; fire.Fire(doctor)"
DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_healthy_data_exits_with_zero_and_says_so(healthy: Path) -> None:
    done = run(healthy)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing is wrong." in done.stdout


def test_repair_exits_with_one_and_its_copy_with_zero(seeded: Seeded, tmp_path: Path) -> None:
    done = run(seeded.root, "--repair", tmp_path / "out", "--json", tmp_path / "report.json")
    assert (done.returncode, done.stderr) == (1, "")
    for code, file in seeded.expected:
        assert re.search(rf"^{re.escape(file)}\n(  .*\n)*?  error   {code} ", done.stdout, re.MULTILINE)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads((tmp_path / "out/doctor_report.json").read_text(encoding="utf-8"))
    assert {(one["code"], one["file"]) for one in report["findings"]} == seeded.expected
    assert {file for row in report["quarantine"] for file in row["files"]} >= {
        "images/lonely.nii.gz",
        "images/truncated.nii.gz",
        "labels/zero.nii.gz",
    }
    again = run(tmp_path / "out")
    assert (again.returncode, "Nothing is wrong." in again.stdout) == (0, True)


def test_without_repair_the_quarantine_names_every_broken_case(seeded: Seeded, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        doctor(str(seeded.root), json=str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    files = {file for row in report["quarantine"] for file in row["files"]}
    assert {file for _, file in seeded.expected} <= files
    assert "images/good.nii.gz" not in files
    assert report["repair"] is None


def test_warnings_alone_fail_only_where_that_is_asked_for(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nifti(healthy / "images/good1.nii.gz", np.full(SHAPE, 3, np.int16))
    doctor(str(healthy))
    assert "1 warning" in capsys.readouterr().out
    with pytest.raises(SystemExit) as status:
        doctor(str(healthy), strict=True)
    assert status.value.code == 1


def test_the_table_says_how_to_mend_each_finding(seeded: Seeded, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        doctor(str(seeded.root))
    lines = capsys.readouterr().out.splitlines()
    findings = [line for line in lines if line.startswith("  error ")]
    remedies = [line for line in lines if re.match(r"\s+(to mend|--repair will)  +\w", line)]
    assert len(findings) == len(remedies) == len(seeded.expected)


def test_many_files_are_not_all_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        doctor(str(tmp_path), json=str(tmp_path / "all.json"))
    assert "... and 10 more files" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["findings"]) == 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repair": True}, "--repair needs a path"),
        ({"json": True}, "--json needs a path"),
        ({"num_classes": 0}, "--num_classes must be"),
        ({"num_classes": "two"}, "--num_classes must be"),
        ({"num_classes": True}, "--num_classes must be"),
    ],
)
def test_wrong_options_are_one_clear_error(healthy: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        doctor(str(healthy), **options)  # type: ignore[arg-type]


def test_an_output_in_the_source_is_refused_before_anything_is_written(healthy: Path) -> None:
    with pytest.raises(InputError, match="inside the examined folder"):
        doctor(str(healthy), repair=str(healthy / "out"))
    assert not (healthy / "out").exists()


def test_random_bytes_end_with_status_one_and_no_traceback(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.png", "c.mha", "datalist.json"):
        (tmp_path / name).write_bytes(np.random.default_rng(len(name)).bytes(700))
    done = run(tmp_path, "--repair", tmp_path.parent / "mended")
    assert (done.returncode, done.stderr) == (1, "")


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = "import sys, monai_ext.commands.doctor; print(*{'torch', 'numpy', 'monai', 'nibabel'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_documentation_lists_every_code_with_its_severity() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (error|warning)", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {code: rule.severity for code, rule in RULES.items()}

# SPDX-License-Identifier: Apache-2.0
"""The cost of a collection is that of one scan, times their number, over the processors; the page's tables are it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from monai_ext.commands._fire import main

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def table(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    assert main(["cost", *words]) == 0
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]


ONE = ("--seconds_per_scan", "36", "--bytes_per_scan", "2000000")


def test_ten_times_the_scans_take_ten_times_everything(capsys: pytest.CaptureFixture[str]) -> None:
    _, small, large = table(capsys, *ONE, "--scans", "100,1000")
    assert small == ["100", "1.0", "1.0 h", "200.0 MB", "110.0 kB", "0 s"]
    assert large == ["1,000", "10.0", "10.0 h", "2.0 GB", "1.1 MB", "0 s"]


def test_processors_share_whole_scans_and_each_has_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    shared = ("--scans", "9", "--processors", "4", "--start_seconds", "1800")
    _, row = table(capsys, *ONE, *shared)
    assert row[1:3] == ["0.1", "32 min"]  # three scans for the busiest, not two and a quarter


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--scans", "0"), "scans must be whole numbers from 1 on"),
        (("--scans", "many"), "scans must be whole numbers"),
        (("--processors", "0"), "processors must be more than 0"),
        (("--seconds_per_scan", "-1"), "seconds_per_scan must be more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", *ONE, *words]) == 1
    assert told in capsys.readouterr().err


def test_the_tables_of_the_page_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(
        r"^```\npython -m monai_ext (cost .*?)\n```\n\n```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    assert len(blocks) >= 2
    for command, printed in blocks:
        assert main(shlex.split(command.replace("\\\n", " "))) == 0
        assert capsys.readouterr().out == printed

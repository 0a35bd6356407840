# SPDX-License-Identifier: Apache-2.0
"""The table of sites, with the sites that the training never saw told apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

from monai_ext.files import write_json
from monai_ext.metrics import SCORES, summarize_sites
from monai_ext.report import build_report
from tests.report.example_run import write_run

CASES = [("a", "site 0", 0.75), ("b", "site 0", 0.25), ("c", "site 1", 0.5), ("d", "site 1", 0.25)]
ROWS = [{"case": case, "site": site, "class": 1, **dict.fromkeys(SCORES, value)} for case, site, value in CASES]


def table_of(page: str) -> list[list[str]]:
    (section,) = re.findall(r'<section id="sites">(.*?)</section>', page, re.DOTALL)
    lines = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [[re.sub("<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", line)] for line in lines]


def test_a_run_with_a_source_site_shows_intervals_and_the_unseen_mean(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    summary = summarize_sites(ROWS, "site 0")
    write_json(output / "sites.json", summary)
    made = build_report(bundle, output)
    head, source, unseen, mean = table_of(made.html)
    assert head[:3] == ["site", "training", "cases"]
    assert source[:2] == ["site 0", "source"]
    assert unseen[:2] == ["site 1", "unseen"]
    assert source[3].split() == ["0.500", "[0.250,", "0.750]"]
    low, high = (summary["unseen"]["mean_of_sites"]["dice"][end] for end in ("low", "high"))
    assert mean[0] == "mean of unseen sites"
    assert mean[3].split() == ["0.375", f"[{low:.3f},", f"{high:.3f}]"]
    assert "sites.json" not in made.problems


def test_without_a_source_no_site_is_called_unseen(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    write_json(output / "sites.json", summarize_sites(ROWS))
    head, first, second = table_of(build_report(bundle, output).html)
    assert head[:2] == ["site", "cases"]
    assert first[2].split() == ["0.500", "[0.250,", "0.750]"]
    assert second[0] == "site 1"


def test_a_run_without_the_file_shows_the_means_of_the_summary(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    made = build_report(bundle, output)
    assert [line[0] for line in table_of(made.html)] == ["site", "site 0", "site 1"]
    assert "sites.json" not in made.problems


def test_broken_files_do_not_stop_the_report(tmp_path: Path) -> None:
    bundle, output = write_run(tmp_path)
    expected = table_of(build_report(bundle, output).html)
    for content in ("{", "[]", json.dumps({"sites": [1], "unseen": 3})):
        (output / "sites.json").write_text(content, encoding="utf-8")
        assert table_of(build_report(bundle, output).html) == expected
    (output / "sites.json").write_text(
        json.dumps({"sites": {"a": 1}, "unseen": {"mean_of_sites": 2}}), encoding="utf-8"
    )
    assert table_of(build_report(bundle, output).html)[1][0] == "a"

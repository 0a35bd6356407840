# SPDX-License-Identifier: Apache-2.0
"""What the documents name exists: files, commands, environments."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from monai_ext.commands._fire import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md"), *ROOT.glob("benchmarks/*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"-m monai_ext (\w+)", text)) <= set(COMMANDS)
    modules = re.findall(r"-m (monai_ext\.[\w.]+|benchmarks[\w.]*)", text)
    assert [
        m for m in modules if not any((ROOT / m.replace(".", "/")).with_suffix(s).exists() for s in ("", ".py"))
    ] == []


def test_tox_environments_of_the_documents_exist() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini")
    named = {name for page in PAGES for name in re.findall(r"tox -e (\w+)", page.read_text(encoding="utf-8"))}
    assert named
    assert {f"testenv:{name}" for name in named} <= set(settings.sections())


def test_the_ci_runs_what_the_readme_says() -> None:
    words = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "python3 -m venv .venv && .venv/bin/pip install tox && .venv/bin/tox\n" in readme
    assert "python3 -m venv .venv" in words
    assert words.rstrip().endswith("-m tox")

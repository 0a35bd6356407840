# SPDX-License-Identifier: Apache-2.0
"""The documentation site builds without a warning, and has every page of the documents."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mkdocs = pytest.importorskip("mkdocs.commands.build", reason='pip install "monai-ext[docs]"')
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        mkdocs.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert told == []
    return folder


def test_it_builds_without_a_warning(site: Path) -> None:
    assert (site / "index.html").is_file()


def test_every_document_and_every_card_is_a_page(site: Path) -> None:
    pages = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")}
    documents = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    cards = {f"bundles/{path.parents[1].name}" for path in ROOT.glob("bundles/*/docs/README.md")}
    assert documents | cards | {"benchmarks"} <= pages


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")} - {"."}
    assert [page for page in sorted(pages) if f" {page}.md\n" not in menu] == []


def test_links_between_pages_are_the_site_s_own(site: Path) -> None:
    card = (site / "bundles" / "desam" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../recipes_desam/' in card
    assert "README.md" not in card

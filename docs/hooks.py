# SPDX-License-Identifier: Apache-2.0
"""What the site adds to mkdocs: the bundles' model cards and the benchmarks as pages, with their links kept right."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie beside what they describe."""
    for source, target in outside_pages().items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site; what is no page of it, such as code, is named without a link."""
    own = {target: source for source, target in outside_pages().items()}
    here = own.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def changed(match: re.Match[str]) -> str:
        picture, text, link, anchor = match.groups(default="")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
        target = outside_pages().get(wanted, wanted.removeprefix("docs/"))
        if wanted == "README.md":
            target = "index.md"
        if files.get_file_from_path(target) is None:
            if not (ROOT / wanted).exists():
                return match[0]  # a link to nowhere stays one, and the build complains
            return text
        relative = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"{picture}[{text}]({relative}{anchor})"

    return LINK.sub(changed, markdown)


def outside_pages() -> dict[str, str]:
    """Return pages outside ``docs``, by their place in the repository, and their place in the site."""
    cards = {f"bundles/{card.parents[1].name}/docs/README.md": f"bundles/{card.parents[1].name}.md"
             for card in sorted(ROOT.glob("bundles/*/docs/README.md"))}  # fmt: skip
    return {**cards, "benchmarks/README.md": "benchmarks.md"}

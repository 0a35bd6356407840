# SPDX-License-Identifier: Apache-2.0
"""One HTML file with everything inside: style, script, sections, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from monai_ext.report.markup import Markup, escape, join, tag


def document(
    title: str,
    name: str,
    header: Markup,
    sections: Mapping[str, Markup],
    command: str,
    version: str,
    scripts: Sequence[str] = (),
    styles: Sequence[str] = (),
) -> str:
    """Return a whole page that loads nothing from anywhere.

    Args:
        title: of the window.
        name: shown in the bar at the top.
        header: what comes before the sections.
        sections: title to content, in their order.
        command: of ``python -m monai_ext`` that made it.
        version: of the package.
        scripts: files of ``templates`` besides ``theme.js``.
        styles: files of ``templates`` besides ``base.css`` and ``parts.css``.
    """
    script = "\n".join(_template(file) for file in ("theme.js", *scripts))
    navigation = [tag("a", section, href=f"#{_anchor(section)}") for section in sections]
    body = [tag("section", tag("h2", section), content, id=_anchor(section)) for section, content in sections.items()]
    parts = {
        "title": escape(title),
        "name": escape(name),
        "digest": Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        "dark": Markup(_template("dark.css")),
        "style": Markup("\n".join(_template(file) for file in ("base.css", "parts.css", *styles))),
        "header": header,
        "navigation": join(navigation),
        "sections": join(body),
        "command": escape(command),
        "version": escape(version),
        "script": Markup(script),
    }
    # split, not replace: a value that holds the name of another field must not be filled in
    pieces = _template("page.html").split("@@")
    return "".join(piece if number % 2 == 0 else parts[piece] for number, piece in enumerate(pieces))


def _template(name: str) -> str:
    return (files("monai_ext.report") / "templates" / name).read_text(encoding="utf-8")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")

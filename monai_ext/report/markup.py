# SPDX-License-Identifier: Apache-2.0
"""Building HTML where everything is escaped unless it was built here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

_VOID = {"img", "input", "br", "hr", "meta", "link"}


class Markup(str):
    """Text that already is HTML. Joining or formatting it gives a plain ``str`` again, which is then escaped."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return one element. Children that are not `Markup` are escaped, None is left out, lists are flattened.

    Attributes lose a trailing underscore (``class_``) and have ``-`` for ``_``; True stands alone, False and None
    are left out.

    Example:
        >>> tag("p", "1 < 2", class_="note", aria_hidden=True)
        '<p class="note" aria-hidden>1 &lt; 2</p>'
    """
    start = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{start}>")
    return Markup(f"<{name}{start}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Return the children one after the other, each escaped if it must be."""
    return Markup("".join(_child(child) for child in children))


def link(address: str, text: str = "") -> Markup:
    """Return an anchor for a web address, and plain text for anything else (``javascript:`` too)."""
    if not address.startswith(("https://", "http://")):
        return escape(text or address)
    return tag("a", text or address, href=address, rel="noopener noreferrer")


def json_block(identifier: str, content: object) -> Markup:
    """Return a data block that a script can read; no text in it can end the block."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="{html.escape(identifier)}">{safe}</script>')


def escape(text: str) -> Markup:
    """Return text as HTML, quotes included."""
    return Markup(html.escape(text, quote=True))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


def _child(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (list, tuple)):
        return join(child)
    return html.escape(str(child), quote=True)

# SPDX-License-Identifier: Apache-2.0
"""Format bundle configs: four spaces; lists of plain values and components without arguments on one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

WIDTH = 120


def format_config(content: object, indent: int = 0, used: int = 0) -> str:
    """Return ``content`` as JSON; lists of plain values and components without arguments stay on one line that fits.

    Args:
        content: parsed JSON.
        indent: depth of the surrounding block.
        used: characters that stand before it on its line.

    Example:
        >>> print(format_config({"keys": ["image", "label"]}))
        {
            "keys": ["image", "label"]
        }
    """
    line = json.dumps(content, ensure_ascii=False)
    if not isinstance(content, (dict, list)) or not content:
        return line
    if _is_leaf(content) and 4 * indent + used + len(line) < WIDTH:
        return line
    inner = "    " * (indent + 1)
    if isinstance(content, dict):
        items = [f"{inner}{_key(k)}{format_config(v, indent + 1, len(_key(k)))}" for k, v in content.items()]
    else:
        items = [f"{inner}{format_config(v, indent + 1)}" for v in content]
    opening, closing = ("{", "}") if isinstance(content, dict) else ("[", "]")
    return opening + "\n" + ",\n".join(items) + "\n" + "    " * indent + closing


def _is_leaf(content: dict[str, object] | list[object]) -> bool:
    """Whether it is a list of plain values, or a component without arguments."""
    if isinstance(content, dict):
        return list(content) == ["_target_"]
    return not any(isinstance(item, (dict, list)) for item in content)


def _key(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) + ": "


def format_files(paths: list[str]) -> int:
    """Rewrite the files that differ from their formatted text; return how many did."""
    changed = 0
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        after = format_config(json.loads(before)) + "\n"
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"formatted {path}")
            changed += 1
    return changed


if __name__ == "__main__":
    sys.exit(1 if format_files(sys.argv[1:]) else 0)

# SPDX-License-Identifier: Apache-2.0
"""The config formatter: stable, lossless, and every config of the project is formatted."""

from __future__ import annotations

import json
from pathlib import Path

from monai_ext.commands.format_configs import format_config, format_files

ROOT = Path(__file__).parents[2]


def test_formatting_keeps_the_content_and_is_stable() -> None:
    content = {"a": [1, 2, {"b": []}], "c": {"d": "é", "e": ["x" * 80, "y" * 80]}, "f": [[1, 2], [3]]}
    text = format_config(content)
    assert json.loads(text) == content
    assert format_config(json.loads(text)) == text


def test_a_component_without_arguments_takes_one_line() -> None:
    assert format_config([{"_target_": "a.b"}]) == '[\n    {"_target_": "a.b"}\n]'
    assert format_config([{"_target_": "a.b", "x": 1}]).count("\n") == 5


def test_a_file_is_rewritten_once(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"keys":["image","label"]}', encoding="utf-8")
    assert format_files([str(file)]) == 1
    assert format_files([str(file)]) == 0


def test_the_projects_configs_are_formatted() -> None:
    files = sorted(ROOT.glob("bundles/*/configs/*.json"))
    assert files
    wrong = [
        f.name
        for f in files
        if f.read_text(encoding="utf-8") != format_config(json.loads(f.read_text(encoding="utf-8"))) + "\n"
    ]
    assert wrong == []

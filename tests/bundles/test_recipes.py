# SPDX-License-Identifier: Apache-2.0
"""Recipes of every bundle, and the page that explains them, name only what there is."""

from __future__ import annotations

import ast
import json
import re
import shlex
from typing import Any

import pytest

from tests.bundles.profiles import PROFILES, ROOT, Profile
from tests.bundles.runs import bundle, read_json
from tests.test_bundle_configs import READ_BY_COMMANDS

NAMES = ("recipe_*.json", "evaluate_*.json")
RECIPES = sorted(
    (name, path.name) for name in PROFILES for pattern in NAMES for path in (bundle(name) / "configs").glob(pattern)
)


def guide_of(profile: Profile) -> str:
    return (ROOT / "docs" / profile.guide).read_text(encoding="utf-8")


def commands_in(text: str) -> list[list[str]]:
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if "monai.bundle run" in line]


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_a_recipe_is_short_and_sets_only_what_exists(name: str, recipe: str) -> None:
    """A misspelt knob would silently do nothing."""
    text = (bundle(name) / "configs" / recipe).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert max(map(len, re.findall(r'"(\$.*)"', text)), default=0) <= 80
    known = {key for file in ("train.json", "inference.json") for key in read_json(bundle(name) / "configs" / file)}
    plain = {key for key in json.loads(text) if "#" not in key and not key.startswith("_")} - READ_BY_COMMANDS
    own = {key for key in plain - known if re.search(rf'"[@$].*@{key}\b|"@{key}"', text)}
    assert plain - known - own == set()


def test_the_guide_names_every_recipe(profile: Profile) -> None:
    recipes = {recipe for name, recipe in RECIPES if name == profile.name}
    assert recipes
    assert recipes <= set(re.findall(r"\b(\w+\.json)\b", guide_of(profile)))


def test_the_commands_of_the_guide_name_files_and_knobs_that_exist(profile: Profile) -> None:
    commands = commands_in(guide_of(profile))
    assert commands
    for words in commands:
        assert words[:4] == ["python", "-m", "monai.bundle", "run"]
        options = dict(zip(words[5::2], words[6::2], strict=True))
        files = ast.literal_eval(options.pop("--config_file")) if "[" in options["--config_file"] else [
            options.pop("--config_file")
        ]  # fmt: skip
        known: dict[str, Any] = {}
        for file in files:
            known.update(read_json(ROOT / file))
        assert words[4] in known
        assert {name[2:].split("#")[0] for name in options} <= set(known)
        assert options["--bundle_root"] == f"bundles/{profile.name}"

# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, checked on the source itself."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "monai_ext").rglob("*.py"))
BUNDLES = sorted(p for p in (ROOT / "bundles").iterdir() if (p / "configs").is_dir())
BUNDLE_FILES = sorted((ROOT / "bundles").rglob("*.py"))
BASE = {
    "torch", "torchvision", "monai", "ignite", "fire", "nibabel", "SimpleITK", "itk", "segment_anything", "sam2",
    "safetensors", "numpy", "scipy", "PIL", "tqdm", "jsonschema", "yaml", "monai_ext", *sys.stdlib_module_names,
}  # fmt: skip
INDEPENDENT = {"networks", "losses", "metrics", "transforms", "data", "matching"}
LAYERS = ["layers", "blocks", "nets"]


def imports(path: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "monai_ext").parts[0]


def test_the_package_imports_no_bundle_and_no_test() -> None:
    bundle_names = {b.name for b in BUNDLES}
    wrong = [(f.name, n) for f in PACKAGE for n in imports(f) if n.split(".")[0] in bundle_names | {"tests", "bundles"}]
    assert wrong == []


def test_at_the_top_only_base_dependencies_are_imported() -> None:
    wrong = [(str(f.relative_to(ROOT)), n) for f in PACKAGE for n in imports(f, True) if n.split(".")[0] not in BASE]
    assert wrong == []


def test_networks_never_import_upward() -> None:
    for path in (ROOT / "monai_ext" / "networks").rglob("*.py"):
        own = path.relative_to(ROOT / "monai_ext" / "networks").parts[0]
        if own not in LAYERS:
            continue
        above = LAYERS[LAYERS.index(own) + 1 :]
        wrong = [n for n in imports(path) if any(n.startswith(f"monai_ext.networks.{u}") for u in above)]
        assert wrong == [], path


def test_independent_parts_do_not_import_each_other() -> None:
    for path in PACKAGE:
        own = part_of(path)
        if own in INDEPENDENT:
            others = INDEPENDENT - {own}
            wrong = [n for n in imports(path) if n.startswith("monai_ext.") and n.split(".")[1] in others]
            assert wrong == [], path


def test_registration_builds_on_matching_and_on_no_network() -> None:
    """It gets embeddings, never the network that makes them; and nothing that matches points needs it."""
    allowed = {"registration", "matching", "cell_grid", "coarse_to_fine", "jacobian", "errors", "files"}
    allowed |= {"field_warp", "losses"}  # instance optimisation moves a field until a loss is least
    for path in PACKAGE:
        ours = [name.split(".")[1] for name in imports(path) if name.startswith("monai_ext.")]
        if part_of(path) == "registration":
            assert set(ours) <= allowed, path
        elif part_of(path) in INDEPENDENT:
            assert "registration" not in ours, path


def test_engines_handlers_and_inferers_get_networks_and_losses_as_arguments() -> None:
    for path in PACKAGE:
        if part_of(path) in {"engines", "handlers", "inferers"}:
            wrong = [n for n in imports(path) if re.match(r"monai_ext\.(networks\.(nets|blocks)|losses)", n)]
            assert wrong == [], path


def test_a_bundle_imports_the_shared_package_and_itself_only() -> None:
    for path in BUNDLE_FILES:
        own = path.relative_to(ROOT / "bundles").parts[0]
        allowed = BASE | {own}
        wrong = [n for n in imports(path) if n.split(".")[0] not in allowed]
        assert wrong == [], path


def test_no_bundle_has_a_package_called_scripts() -> None:
    assert list((ROOT / "bundles").glob("*/scripts")) == []


def public_classes(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name] = path
    return found


def test_no_public_class_has_the_name_of_one_of_monai() -> None:
    import monai

    taken: set[str] = set()
    for module in pkgutil.walk_packages(monai.__path__, "monai."):
        source = importlib.util.find_spec(module.name)
        if source is not None and source.origin and source.origin.endswith(".py"):
            taken |= set(public_classes([Path(source.origin)]))
    assert len(taken) > 500
    assert set(public_classes([*PACKAGE, *BUNDLE_FILES])) & taken == set()


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: explaining more must not count against it."""
    assert node.end_lineno is not None
    first = node.body[0]
    documented = ast.get_docstring(node) is not None and first.end_lineno is not None
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


@pytest.mark.parametrize("path", [*PACKAGE, *BUNDLE_FILES], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_and_says_its_licence_and_purpose(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert len(lines) <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert code_lines(node) <= 60, f"{node.name} is longer than 60 lines"


def test_importing_a_command_loads_nothing_heavy() -> None:
    heavy = {"torch", "monai", "numpy", "nibabel", "matplotlib", "ignite", "PIL", "scipy"}
    for path in (ROOT / "monai_ext" / "commands").glob("*.py"):
        assert {n.split(".")[0] for n in imports(path, True)} & heavy == set(), path


ALL_CODE = sorted([*PACKAGE, *BUNDLE_FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """A library (or a bare machine) may set the C locale, and text without a named encoding is then ASCII.

    Ruff's rule knows `open` and literal paths only; this one finds `(folder / "x").read_text()` too.
    """
    unnamed = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ALL_CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in {"read_text", "write_text"} and "encoding" not in {k.arg for k in node.keywords}
    ]
    assert unnamed == []

# SPDX-License-Identifier: Apache-2.0
"""Laws that the configs of every bundle keep; read from the files, nothing is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(p.parents[1] for p in ROOT.glob("bundles/*/configs/metadata.json"))
STANDALONE = ("train.json", "inference.json")
CONFIGS = sorted(f for b in BUNDLES for f in (b / "configs").glob("*.json") if f.name != "metadata.json")
PRETRAINING = "pretrain_*.json"  # they stand alone, too, where a bundle has them
OVERRIDES = [f for f in CONFIGS if f.name not in STANDALONE and not f.match(PRETRAINING)]
# by `python -m monai_ext demo`, `dg_matrix` and `compare_experts`
READ_BY_COMMANDS = {
    "expected_dice", "demo_datalist", "demo_evaluations", "demo_not_below", "dg_variants", "demo_plan",
    "expected_error_mm", "expected_gain", "demo_pretraining", "demo_pretraining_config", "demo_unlabelled",
    "compared_experts", "demo_plain", "demo_pretraining_knobs",
}  # fmt: skip
MACROS = {"train.json": "training", "evaluate.json": "evaluating", "inference.json": "inferring"}
REFERENCE = re.compile(r"[@%](?:::|#)?([A-Za-z_][\w]*(?:(?:::|#)\w+)*)")
ABSOLUTE = re.compile(r"(^|['\"])(/\w|~|[A-Za-z]:[\\/])")
COMPONENTS = ComponentLocator()


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def label_of(value: Path) -> str:
    return value.relative_to(ROOT / "bundles").as_posix()


each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=label_of)
each_config = pytest.mark.parametrize("config", CONFIGS, ids=label_of)
each_override = pytest.mark.parametrize("config", OVERRIDES, ids=label_of)


def walk(content: Any) -> Iterator[Any]:
    """Every value inside, from the outside in."""
    yield content
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from walk(part)


def strings(content: Any) -> list[str]:
    return [value for value in walk(content) if isinstance(value, str)]


def dictionaries(content: Any) -> list[dict[str, Any]]:
    return [value for value in walk(content) if isinstance(value, dict)]


def references(content: Any) -> set[str]:
    """Names of the top-level entries that the strings inside refer to."""
    return {re.split("::|#", name)[0] for text in strings(content) for name in REFERENCE.findall(text)}


def test_there_is_something_to_check() -> None:
    assert {"sam2_unet/configs/train.json", "sam2_unet/configs/inference.json"} <= {label_of(c) for c in CONFIGS}


@each_bundle
def test_training_and_inference_describe_the_same_network(bundle: Path) -> None:
    train, inference = (read(bundle / "configs" / name) for name in STANDALONE)
    assert train["network_def"] == inference["network_def"]
    assert train["validate"]["inferer"] == inference["inferer"]
    assert without_labels(train["validate"]["preprocessing"]) == inference["preprocessing"]
    assert train["device"] == inference["device"]
    shared = references([inference[name] for name in ("network_def", "inferer", "preprocessing")])
    assert shared
    assert {name: train[name] for name in shared} == {name: inference[name] for name in shared}


def without_labels(chain: dict[str, Any]) -> dict[str, Any]:
    """The chain as it is where there are no labels."""
    kept = []
    for step in chain["transforms"]:
        keys = [key for key in step["keys"] if key != "label"]
        bare = {name: value for name, value in step.items() if name not in ("label_key", "num_classes")}
        kept += [{**bare, "keys": keys}] if keys else []
    return {**chain, "transforms": kept}


@each_bundle
def test_whole_scans_are_read_in_training_as_in_validation(bundle: Path) -> None:
    train = read(bundle / "configs" / "train.json")
    if "reading" in train["train"]:
        assert train["train"]["reading"]["transforms"] == train["validate"]["preprocessing"]["transforms"]


@pytest.mark.parametrize("name", ["logging.conf", "multi_gpu_train.json", "multi_gpu_inference.json"])
def test_files_that_all_bundles_have_are_the_same_bytes(name: str) -> None:
    assert len({(bundle / "configs" / name).read_bytes() for bundle in BUNDLES}) == 1


@each_bundle
def test_both_ways_to_start_a_config_work(bundle: Path) -> None:
    for name, macro in MACROS.items():
        config = read(bundle / "configs" / name)
        # a reference and no macro: MONAI Label may ask for the run without a name, that is, for the whole config,
        # and a copy of the run would be run too
        assert config[macro] == "@run"
        assert isinstance(config["run"], list)


@each_override
def test_an_override_is_short_and_names_only_what_there_is(config: Path) -> None:
    content = read(config)
    assert len(config.read_text(encoding="utf-8").splitlines()) <= 40
    assert "_desc_" in content
    known = references(content) | set(MACROS.values()) | READ_BY_COMMANDS
    alone = [config.parent / name for name in STANDALONE] + sorted(config.parent.glob(PRETRAINING))
    known = known.union(*map(read, alone))
    assert {re.split("::|#", name.lstrip("+"))[0] for name in content} <= known


@each_config
def test_nothing_is_addressed_by_its_place_in_a_list(config: Path) -> None:
    names = [name for content in dictionaries(read(config)) for name in content]
    names += [name for text in strings(read(config)) for name in REFERENCE.findall(text)]
    assert [name for name in names if re.search(r"(::|#)\d", name)] == []


@each_config
def test_text_survives_the_parser(config: Path) -> None:
    # MONAI turns every # of a string into ::, so only references may have one
    assert [text for text in strings(read(config)) if "#" in REFERENCE.sub("", text)] == []


@each_config
def test_expressions_are_one_short_line(config: Path) -> None:
    assert [text for text in strings(read(config)) if text.startswith("$") and len(text) > 80] == []


@each_bundle
def test_no_path_leaves_the_bundle(bundle: Path) -> None:
    for file in [*(bundle / "configs").iterdir(), bundle / "large_files.yml"]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|mnt|Users|workspace|tmp|data1?)/", text.replace("://", "")), file.name
    for config in (bundle / "configs").glob("*.json"):
        plain = [text for text in strings(read(config)) if not text.startswith("$")]
        assert [text for text in plain if ABSOLUTE.search(text)] == []


@each_config
def test_keys_are_lists(config: Path) -> None:
    bare = [c for c in dictionaries(read(config)) for name in ("keys", "orig_keys") if isinstance(c.get(name), str)]
    assert bare == []


@each_config
def test_ours_have_full_names_and_those_of_monai_short_ones(config: Path) -> None:
    targets = [c["_target_"] for c in dictionaries(read(config)) if "_target_" in c]
    targets += [value for name, value in read(config).items() if name.endswith("#_target_")]
    for target in targets:
        target = read(config)[target[1:]] if target.startswith("@") else target  # chosen by a knob
        if "." in target:
            assert not target.startswith("monai."), f"{target}: write the short name"
            assert callable(locate(target)), f"{target}: there is no such thing"
        else:
            modules = COMPONENTS.get_component_module_name(target)
            found = [modules] if isinstance(modules, str) else modules or []
            assert any(module.startswith("monai.") for module in found), f"{target}: MONAI has no such component"
            assert not any(module.startswith("monai_ext.") for module in found), f"{target}: write the full name"


@each_config
def test_no_entry_stands_twice(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
    assert ConfigParser.load_config_file(config)


def test_an_entry_that_stands_twice_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")
    (tmp_path / "twice.json").write_text('{"seed": 0, "seed": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match="seed"):
        ConfigParser.load_config_file(tmp_path / "twice.json")


@each_bundle
def test_the_changelog_has_the_version(bundle: Path) -> None:
    metadata = read(bundle / "configs" / "metadata.json")
    assert metadata["version"] in metadata["changelog"]
    assert re.fullmatch(r"\d\.\d\.\d", metadata["version"])  # MONAI compares versions as text
    assert next(iter(metadata["network_data_format"]["inputs"])) == "image"
    assert next(iter(metadata["network_data_format"]["outputs"])) == "pred"


@each_bundle
def test_large_files_say_where_they_come_from(bundle: Path) -> None:
    entries = yaml.safe_load((bundle / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
    for entry in entries:
        assert entry["path"].startswith("models/")
        assert entry["url"].startswith("https://")
        assert (entry["hash_type"], len(entry["hash_val"])) == ("sha256", 64)
        int(entry["hash_val"], 16)


@each_config
def test_handlers_of_a_training_are_written_out(config: Path) -> None:
    # MONAI Label looks for a checkpoint's loader among them, which it cannot do among references
    handlers = read(config).get("train", {}).get("handlers", [])
    assert [handler for handler in handlers if not isinstance(handler, dict)] == []

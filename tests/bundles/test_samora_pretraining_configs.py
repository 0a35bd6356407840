# SPDX-License-Identifier: Apache-2.0
"""The five configs of SAMora's first stage have one layout, fit stage 2, and their page says what they do."""

from __future__ import annotations

import ast
import json
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest

from tests.bundles.pretraining import NAME, STAGES, STUDENTS, TEACHERS
from tests.bundles.profiles import ROOT
from tests.bundles.runs import bundle, read_json

PAGE = ROOT / "docs" / "samora_pretraining.md"
COLUMNS = (*STUDENTS, *TEACHERS)
# where things lie, and what is made of other knobs
NOT_KNOBS = {
    "_desc_", "imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "ckpt_path", "cache_dir", "device",
    "tensorboard", "knobs", "fingerprint", "teacher_def", "network_def", "network", "load_weights", "loss", "optimizer",
    "images_per_step", "lr_scheduler", "train", "validate", "initialize", "run", "finalize", "training",
}  # fmt: skip
# what makes an expert fit the network of stage 2, and its images
SHARED_WITH_STAGE_2 = {
    "seed", "sam_type", "in_channels", "slice_context", "plane", "pixel_mean", "pixel_std", "intensity",
    "intensity_lower", "intensity_upper", "lora_rank", "lora_alpha", "lora_blocks", "val_fraction",
}  # fmt: skip


def config(stage: str) -> dict[str, Any]:
    return read_json(bundle(NAME) / "configs" / f"{stage}.json")


def knobs(stage: str) -> dict[str, Any]:
    return {name: value for name, value in config(stage).items() if name not in NOT_KNOBS}


def part(stage: str, path: str) -> Any:
    content: Any = config(stage)
    for name in path.split("#"):
        content = content.get(name)
    return content


@pytest.mark.parametrize(
    "path",
    [
        "imports", "device", "network", "train#reading", "train#sampler", "train#dataset", "train#inferer",
        "validate#inferer", "validate#dataset", "validate#key_metric", "initialize", "run", "finalize", "training",
        "tensorboard", "datalist", "empty_slices",
    ],
)  # fmt: skip
def test_what_the_five_share_is_the_same(path: str) -> None:
    found = [part(stage, path) for stage in STAGES]
    assert found[0] is not None
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("path", ["loss", "optimizer", "lr_scheduler", "train#handlers"])
def test_what_the_three_experts_share_is_the_same(path: str) -> None:
    assert part("pretrain_image", path) == part("pretrain_patch", path) == part("pretrain_pixel", path) is not None


def without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


@pytest.mark.parametrize("engine", ["train#trainer", "validate#evaluator"])
def test_engines_differ_in_how_a_batch_is_prepared_alone(engine: str) -> None:
    found = [without(part(stage, engine), "prepare_batch") for stage in STAGES]
    assert all(other == found[0] for other in found)


def test_entries_stand_in_the_same_order() -> None:
    """A reader who knows one config finds everything in the others."""
    orders = [list(config(stage)) for stage in STAGES]
    for one, other in pairwise(orders):
        shared = set(one) & set(other)
        assert [name for name in one if name in shared] == [name for name in other if name in shared]


@pytest.mark.parametrize("stage", STUDENTS)
def test_an_expert_fits_stage_2_unless_a_knob_is_turned(stage: str) -> None:
    stage_2 = config("train")
    assert {name: config(stage)[name] for name in SHARED_WITH_STAGE_2} == {
        name: stage_2[name] for name in SHARED_WITH_STAGE_2
    }
    level = stage.removeprefix("pretrain_")
    assert f"expert_{level}" in stage_2
    assert config(stage)["ckpt_path"] == f"$@ckpt_dir + '/expert_{level}.safetensors'"
    assert config(stage)["network_def"]["student"]["level"] == level


@pytest.mark.parametrize("stage", STAGES)
def test_every_knob_is_recorded_and_those_that_make_the_weights_must_be_the_same_to_resume(stage: str) -> None:
    record, fingerprint = config(stage)["knobs"], config(stage)["fingerprint"]
    how_it_runs = {"resume", "val_interval", "num_workers", "datalist"}
    assert set(knobs(stage)) - set(record) == how_it_runs | {"seed"}  # the record has the seed in a place of its own
    # weights are told by their hash, and these change no weight, or lengthen the run
    free = {
        "pretrained", "teacher_path", "untrained_teacher", "teacher_memory_mb", "use_checkpoint", "val_fraction",
        "clip_norm", "max_epochs", "compile",
    }  # fmt: skip
    assert set(knobs(stage)) - set(fingerprint) == (how_it_runs | free) & set(knobs(stage))
    assert all(value == f"@{name}" for name, value in {**fingerprint, **without(record, "level")}.items())


def test_the_table_of_knobs_is_the_configs() -> None:
    rows = re.findall(r"^\| `(\w+)` \|((?:[^|]*\|){5})[^|]+\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    table: dict[str, dict[str, Any]] = {stage: {} for stage in COLUMNS}
    for name, cells in rows:
        for stage, cell in zip(COLUMNS, cells.split("|")[:-1], strict=True):
            if cell.strip():
                table[stage][name] = json.loads(cell.strip().strip("`"))
    assert table == {stage: knobs(stage) for stage in COLUMNS}


def test_the_commands_of_the_page_name_files_and_knobs_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line) for line in blocks.splitlines() if "monai.bundle run" in line]
    assert len(commands) == len(STAGES) + 1
    for words in commands:
        start = words.index("training")
        given = dict(zip(words[start + 1 :: 2], words[start + 2 :: 2], strict=True))
        file = given.pop("--config_file")
        files = ast.literal_eval(file) if "[" in file else [file]
        assert all((ROOT / name).is_file() for name in files)
        assert given.pop("--bundle_root") == "bundles/samora"
        assert {name.removeprefix("--") for name in given} <= set(read_json(ROOT / files[0]))


def test_the_page_names_every_config_and_what_it_writes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for stage in STAGES:
        assert f"`{stage}.json`" in text
        name = re.findall(r"/(\w+\.safetensors)", config(stage)["ckpt_path"])[0]
        assert f"`models/{name}`" in text

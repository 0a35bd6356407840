# SPDX-License-Identifier: Apache-2.0
"""What compare_experts runs, repeats and writes, with commands that only leave their scores."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_ext.commands._fire import main
from monai_ext.commands.compare_experts import LEVELS, compare_experts
from monai_ext.errors import InputError

VARIANTS = {"all": {}, "none": {"experts": []}, "pixel": {"experts": ["pixel"]}}
DICE = {"all": 0.8, "none": 0.5, "pixel": 0.7}
Run = Callable[..., list[list[str]]]


def option(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


def leave_scores(words: list[str]) -> None:
    """Do what a training and an evaluation leave behind."""
    folder = Path(option(words, "output_dir"))
    folder.mkdir(parents=True, exist_ok=True)
    if "training" in words:
        history = {"epochs": [{"seconds": 90.0, "processor_seconds": 1.5 + int(option(words, "seed"))}]}
        (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
        (folder / "run.json").write_text('{"device": "cpu"}', encoding="utf-8")
        return
    dice = DICE[folder.parents[1].name] + 0.01 * int(option(words, "seed"))
    summary = {"mean_foreground": {"dice": {"mean": dice}}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a toy bundle; return what python was given."""
    configs, models = tmp_path / "toy" / "configs", tmp_path / "models"
    configs.mkdir(parents=True)
    (models / "pretrained").mkdir(parents=True)
    (models / "pretrained" / "base.pt").write_bytes(b"x")
    for level in LEVELS:
        (models / f"expert_{level}.safetensors").write_bytes(b"x")
    files = {"metadata": {}, "compare_experts": {"compared_experts": VARIANTS}, "empty": {}}
    for name, content in files.items():
        (configs / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    commands: list[list[str]] = []

    def record(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        leave_scores(words)
        return subprocess.CompletedProcess(words, 0)

    def call(**arguments: object) -> list[list[str]]:
        commands.clear()
        given = {"dataset_dir": "data.json", "models": str(models), "output_dir": str(tmp_path / "out"), **arguments}
        compare_experts(str(tmp_path / "toy"), **given)  # type: ignore[arg-type]
        return [*commands]

    monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", record)
    return call


def test_every_variant_trains_with_every_seed_on_its_experts_and_one_base(run: Run, tmp_path: Path) -> None:
    trainings = [words for words in run(seeds=2, learning_rate=0.1) if "training" in words]
    assert [option(words, "seed") for words in trainings] == ["0"] * 3 + ["1"] * 3
    given = [[level for level in LEVELS if f"--expert_{level}" in words] for words in trainings]
    assert given == [["image", "patch", "pixel"], [], ["pixel"]] * 2
    assert {option(words, "pretrained") for words in trainings} == {str(tmp_path / "models/pretrained/base.pt")}
    assert {option(words, "learning_rate") for words in trainings} == {"0.1"}


def test_the_others_get_the_time_that_the_first_took_with_that_seed(run: Run) -> None:
    first, *others = [words for words in run(seeds=2) if "training" in words]
    assert "--time_limit" not in first
    assert [option(words, "time_limit") for words in (others[0], others[1], others[3], others[4])] == [
        "1.5", "1.5", "2.5", "2.5"
    ]  # fmt: skip
    assert option(others[0], "time_limit_clock") == "processor"


def test_the_files_hold_means_intervals_and_differences(run: Run, tmp_path: Path) -> None:
    run()
    content = json.loads((tmp_path / "out" / "experts.json").read_text(encoding="utf-8"))
    everything, difference = content["variants"]["all"], content["compared"]["all less pixel"]
    assert everything["mean_dice"] == pytest.approx(0.81)
    assert everything["high"] - 0.81 == pytest.approx(4.302653 * 0.01 / 3**0.5)
    assert (difference["mean_dice"], difference["low"]) == (pytest.approx(0.1), pytest.approx(0.1))
    with open(tmp_path / "out" / "experts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert (rows[-1]["variant"], rows[-1]["seed"], float(rows[-1]["dice"])) == ("pixel", "2", pytest.approx(0.72))


def test_what_is_done_is_not_repeated(run: Run) -> None:
    assert len(run()) == 18
    assert run() == []
    assert len(run(seeds=4)) == 6
    assert len(run(max_epochs=9)) == 18


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"models": "nowhere"}, "expert_image.safetensors: there is no such expert"),
        ({"config": "empty.json"}, "must list compared_experts"),
        ({"config": "none.json"}, "none.json"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(run: Run, arguments: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(**arguments)


def test_the_command_line_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare_experts", "--help"]) == 0
    assert "--models" in capsys.readouterr().out

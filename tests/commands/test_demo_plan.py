# SPDX-License-Identifier: Apache-2.0
"""What the demo command runs and promises for a bundle, with commands that only leave their scores."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_ext.commands.demo import demo
from monai_ext.errors import InputError

PLAIN = {"expected_dice": {"vessel": 0.8}}
PROMPTED = {
    **PLAIN,
    "demo_datalist": "datalist_tissue.json",
    "demo_evaluations": {"first_mask": {"prompt_source": "null"}, "true_box": {"prompt_source": "truth"}},
    "demo_not_below": ["true_box"],
}

Run = Callable[..., list[list[str]]]


def option(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the demo of a toy bundle, whose evaluations score as told, and return the commands."""
    commands: list[list[str]] = []

    def run_demo(wishes: dict[str, object], scores: dict[str, float], **arguments: object) -> list[list[str]]:
        configs = tmp_path / "toy" / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text("{}", encoding="utf-8")
        (configs / "demo.json").write_text(json.dumps(wishes), encoding="utf-8")

        def record(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            commands.append(words)
            if "evaluating" in words:
                folder = Path(option(words, "output_dir"))
                folder.mkdir(parents=True)
                classes = [{"name": "vessel", "metrics": {"dice": {"mean": scores[folder.name]}}}]
                (folder / "summary.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
            return subprocess.CompletedProcess(words, 0)

        monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", record)
        demo(str(tmp_path / "toy"), str(tmp_path / "out"), **arguments)
        return commands

    return run_demo


def test_a_plain_bundle_is_evaluated_once_on_the_demo_data(run: Run, tmp_path: Path) -> None:
    commands = run(PLAIN, {"eval": 0.9})
    assert [option(words, "dataset_dir") for words in commands if "monai.bundle" in words] == [
        str(tmp_path / "out" / "data"),
        str(tmp_path / "out" / "data"),
        str(tmp_path / "out" / "data" / "brain" / "image.nii.gz"),
    ]
    assert len(commands) == 6


def test_a_bundle_chooses_its_data_list_and_more_evaluations(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = run(PROMPTED, {"eval": 0.9, "first_mask": 0.85, "true_box": 0.95})
    trained = [words for words in commands if "training" in words or "evaluating" in words]
    assert {option(words, "dataset_dir") for words in trained} == {str(tmp_path / "out/data/datalist_tissue.json")}
    main, first, true = (words for words in commands if "evaluating" in words)
    assert "--prompt_source" not in main
    assert option(main, "output_dir") == str(tmp_path / "out" / "toy" / "eval")
    assert (option(first, "prompt_source"), option(true, "prompt_source")) == ("null", "truth")
    assert option(first, "output_dir") == str(tmp_path / "out" / "toy" / "eval" / "first_mask")
    assert "Dice vessel         0.900   first mask 0.850   true box 0.950" in capsys.readouterr().out


def test_knobs_reach_every_step_of_the_bundle_and_lift_the_promise(run: Run) -> None:
    commands = run(PROMPTED, {"eval": 0.1, "first_mask": 0.1, "true_box": 0.0}, max_epochs=2, prompt_source="self")
    steps = [words for words in commands if "monai.bundle" in words or "export" in words]
    assert [option(words, "max_epochs") for words in steps] == ["2"] * 6
    assert [option(words, "prompt_source") for words in commands if "evaluating" in words] == ["self", "null", "truth"]


def test_less_than_was_promised_is_an_error(run: Run) -> None:
    with pytest.raises(InputError, match=r"0\.700 is below the promised 0\.80"):
        run(PLAIN, {"eval": 0.7})


def test_an_evaluation_that_must_not_be_worse_is_compared(run: Run) -> None:
    with pytest.raises(InputError, match=r"true box 0\.890 is below the 0\.900"):
        run(PROMPTED, {"eval": 0.9, "first_mask": 0.85, "true_box": 0.89})


def test_a_few_voxels_less_are_as_good(run: Run) -> None:
    run(PROMPTED, {"eval": 0.9004, "first_mask": 0.85, "true_box": 0.8996})


def test_the_promise_is_for_the_full_resolution(run: Run) -> None:
    assert run(PLAIN, {"eval": 0.7}, resolution=4)


def test_reports_of_two_bundles_do_not_overwrite_each_other(run: Run, tmp_path: Path) -> None:
    commands = run(PLAIN, {"eval": 0.9})
    assert option(commands[-1], "output") == str(tmp_path / "out" / "report_toy.html")


def test_an_unknown_evaluation_is_named_before_anything_runs(run: Run) -> None:
    with pytest.raises(InputError, match="demo_not_below must name entries of demo_evaluations, got first_mask"):
        run({**PLAIN, "demo_not_below": ["first_mask"]}, {})

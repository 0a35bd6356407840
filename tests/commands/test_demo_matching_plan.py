# SPDX-License-Identifier: Apache-2.0
"""What the demo command runs and promises for a bundle that matches points, with commands that only leave results."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_ext.commands.demo import PLANS, demo
from monai_ext.errors import InputError

WISHES: dict[str, object] = {
    "demo_plan": "matching",
    "demo_evaluations": {"untrained": {"pretrained": "none"}, "fixed_point": {"mode": "fixed_point"}},
    "expected_error_mm": {"mild": 4.0},
    "expected_gain": {"mild": 0.4, "hard": 0.4},
}
GOOD = {
    "untrained": {"mild": 9.0, "hard": 13.0},
    "eval": {"mild": 3.0, "hard": 6.0},
    "fixed_point": {"mild": 2.5, "hard": 5.0},
}
COLUMNS = [f"{kind}_{axis}_ras_mm" for kind in ("fixed", "true", "found") for axis in "xyz"]

Run = Callable[..., list[list[str]]]
Errors = dict[str, dict[str, float]]


def option(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


def kind_of(words: list[str]) -> str:
    """The command of ours, or what a bundle is run for."""
    return words[4] if words[2] == "monai.bundle" else words[3]


def write_pairs(folder: Path) -> None:
    """Two pairs of one small scan."""
    folder.mkdir(parents=True)
    voxels = np.random.default_rng(0).integers(0, 255, (12, 12, 12)).astype(np.uint8)
    nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), folder / "scan.nii.gz")
    items = [{"case": case, "fixed": "scan.nii.gz", "moving": "scan.nii.gz"} for case in ("mild", "hard")]
    (folder / "pairs.json").write_text(json.dumps({"test": items}), encoding="utf-8")


def write_scores(folder: Path, errors: dict[str, float]) -> None:
    """What an evaluation leaves: each case with two points, which are off by its error along x."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = "".join(f"{case},{error}\n" for case, error in errors.items())
    (folder / "cases.csv").write_text("case,error_mm\n" + cases, encoding="utf-8")
    lines = [",".join(["case", *COLUMNS])]
    for case, error in errors.items():
        for x in (30.0, 60.0):
            lines.append(",".join([case, *(str(value) for value in (x, 40, 40, x, 40, 40, x + error, 40, 40))]))
    (folder / "points.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the demo of a toy bundle, whose evaluations find points as told, and return the commands."""
    commands: list[list[str]] = []

    def run_demo(wishes: dict[str, object], errors: Errors, **arguments: object) -> list[list[str]]:
        configs = tmp_path / "toy" / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text("{}", encoding="utf-8")
        (configs / "inference.json").write_text('{"_meta_": {}, "mode": "nn", "spacing": 2.0}', encoding="utf-8")
        (configs / "demo.json").write_text(json.dumps(wishes), encoding="utf-8")

        def record(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            commands.append(words)
            if "demo_data" in words:
                write_pairs(Path(option(words, "output_dir")))
            if "evaluating" in words:
                folder = Path(option(words, "output_dir"))
                write_scores(folder, errors[folder.name])
            return subprocess.CompletedProcess(words, 0)

        monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", record)
        demo(str(tmp_path / "toy"), str(tmp_path / "out"), **arguments)
        return commands

    return run_demo


def test_the_untrained_network_is_judged_first_and_the_trained_one_in_every_way_asked_for(
    run: Run, tmp_path: Path
) -> None:
    commands = run(WISHES, GOOD)
    assert [kind_of(words) for words in commands] == [
        "demo_data", "evaluating", "training", "evaluating", "evaluating", "export", "match",
    ]  # fmt: skip
    before, usual, fixed_point = (words for words in commands if "evaluating" in words)
    scores = tmp_path / "out" / "toy" / "eval"
    assert [option(words, "output_dir") for words in (before, usual, fixed_point)] == [
        str(scores / "untrained"),
        str(scores),
        str(scores / "fixed_point"),
    ]
    assert option(before, "pretrained") == "none"
    assert "--mode" not in usual
    assert option(fixed_point, "mode") == "fixed_point"


def test_training_sees_the_brain_alone_and_evaluation_the_pairs(run: Run, tmp_path: Path) -> None:
    commands = run(WISHES, GOOD)
    data = tmp_path / "out" / "data"
    (training,) = (words for words in commands if "training" in words)
    assert option(training, "dataset_dir") == str(data / "scans.json")
    assert option(training, "resume") == "True"
    assert {option(words, "dataset_dir") for words in commands if "evaluating" in words} == {str(data / "pairs.json")}


def test_the_follow_up_is_matched_by_the_trained_network_into_a_page(run: Run, tmp_path: Path) -> None:
    match = run(WISHES, GOOD)[-1]
    out = tmp_path / "out"
    assert option(match, "fixed") == str(out / "data" / "followup" / "baseline.nii.gz")
    assert option(match, "moving") == str(out / "data" / "followup" / "followup.nii.gz")
    assert option(match, "points") == str(out / "data" / "followup" / "baseline_points.csv")
    assert option(match, "ckpt_path") == str(out / "toy" / "models" / "model.pt")
    assert option(match, "report") == str(out / "report_toy.html")


def test_it_prints_the_errors_side_by_side_and_draws_every_pair(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(WISHES, GOOD)
    printed = capsys.readouterr().out
    assert "mild           3.00   untrained 9.00   fixed point 2.50" in printed
    assert "hard           6.00   untrained 13.00   fixed point 5.00" in printed
    assert "hard: 54% below the untrained network (promised: at least 40%)" in printed
    for case in ("mild", "hard"):
        assert Image.open(tmp_path / "out" / "toy" / f"matches_{case}.png").width > 500


def test_knobs_reach_every_step_of_the_bundle_and_lift_the_promise(run: Run) -> None:
    bad = {**GOOD, "eval": {"mild": 20.0, "hard": 20.0}}
    commands = run({**WISHES, "spacing": 4.0, "batch_size": 3}, bad, max_epochs=2, mode="mutual")
    *bundle_steps, match = commands[1:]
    assert [option(words, "max_epochs") for words in bundle_steps] == ["2"] * 5
    assert (option(match, "mode"), option(match, "spacing")) == ("mutual", "4.0")
    assert not {"--max_epochs", "--batch_size", "--demo_plan"} & set(match)  # nothing that inference does not know


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"mild": 4.1, "hard": 6.0}, r"mean error 4\.10 mm on mild is above the promised 4\.00"),
        ({"mild": 3.0, "hard": 8.0}, r"on hard is 38% below that of the untrained network, less than the promised 40%"),
    ],
)
def test_less_than_was_promised_is_an_error(run: Run, errors: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(WISHES, {**GOOD, "eval": errors})


def test_a_gain_without_anything_to_compare_with_is_refused_before_anything_runs(run: Run) -> None:
    with pytest.raises(InputError, match="expected_gain needs an entry 'untrained' in demo_evaluations"):
        run({**WISHES, "demo_evaluations": {}}, {})


def test_an_unknown_plan_is_refused_with_those_that_there_are(run: Run) -> None:
    known = ", ".join(PLANS)
    with pytest.raises(InputError, match=f"demo_plan must be one of {known}, got 'generation'"):
        run({"demo_plan": "generation"}, {})

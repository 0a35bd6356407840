# SPDX-License-Identifier: Apache-2.0
"""What the demo command runs and promises for a bundle that registers, with commands that only leave records."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_ext.commands.demo import demo
from monai_ext.errors import InputError
from tests.commands.test_demo_matching_plan import kind_of, option

WISHES: dict[str, object] = {
    "demo_plan": "registration",
    "demo_plain": {"use_correlation": False, "lambda_sam": 0.0},
    "expected_error_mm": {"coarse": 1.0, "deform": 0.8},
    "intensity": "percentile",
}
INFERENCE = {"_meta_": {}, "spacing": 2.0, "use_correlation": True, "lambda_sam": 1.0, "intensity": "window"}
ERRORS = {
    "before": 9.5,
    "affine": 1.8,
    "coarse": 0.9,
    "deform": 0.7,
    "instance": 0.5,
    "itk_affine": 3.0,
    "itk_bspline": 1.1,
}
COSTS = {name: {"seconds": 1.0} for name in ("embed", "embed again", *ERRORS)}

Run = Callable[..., list[list[str]]]


def record_of(errors: dict[str, float]) -> dict[str, object]:
    steps = [
        {"step": name, "tre_mm": {"mean": e, "max": 2 * e}, "dice": {"2": 0.9, "3": 0.8}, "folding_percent": 0.0}
        for name, e in errors.items()
    ]
    return {"steps": steps, "costs": COSTS}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the demo of a toy bundle, whose registrations err as told, and return the commands."""
    commands: list[list[str]] = []

    def run_demo(errors: dict[str, float] = ERRORS, **arguments: object) -> list[list[str]]:
        configs = tmp_path / "toy" / "configs"
        configs.mkdir(parents=True)
        contents = {"metadata": {}, "inference": INFERENCE, "demo": WISHES}
        for name, content in contents.items():
            (configs / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

        def record(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            commands.append(words)
            if "--fixed" in words:
                folder = Path(option(words, "output"))
                folder.mkdir(parents=True)
                (folder / "registration.json").write_text(json.dumps(record_of(errors)), encoding="utf-8")
            return subprocess.CompletedProcess(words, 0)

        monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", record)
        demo(str(tmp_path / "toy"), str(tmp_path / "out"), **arguments)
        return commands

    return run_demo


def registrations(commands: list[list[str]]) -> list[list[str]]:
    return [words for words in commands if "register" in words]


def test_an_embedder_and_both_networks_are_trained_before_the_pair_is_registered_three_ways(
    run: Run, tmp_path: Path
) -> None:
    commands = run()
    assert [kind_of(words) for words in commands] == [
        "demo_data", "training", "training", "training", "register", "register", "--fixed",
    ]  # fmt: skip
    embedder, ours, plain = (words for words in commands if "training" in words)
    out = tmp_path / "out"
    models = [out / "anatomical_embedding" / "models", out / "toy" / "models", out / "toy" / "plain" / "models"]
    assert [option(words, "ckpt_dir") for words in (embedder, ours, plain)] == [str(folder) for folder in models]
    assert {option(words, "embedder_path") for words in (ours, plain)} == {str(models[0] / "model.pt")}
    assert (option(plain, "use_correlation"), option(plain, "lambda_sam")) == ("False", "0.0")
    assert "--use_correlation" not in ours
    assert all(option(words, "resume") == "True" for words in (embedder, ours, plain))


def test_each_registration_gets_its_own_network_and_the_same_pair(run: Run, tmp_path: Path) -> None:
    commands = run()
    ours, plain = registrations(commands)
    out = tmp_path / "out"
    assert [option(words, "steps") for words in (ours, plain)] == ["affine,coarse,deform,instance", "affine,deform"]
    assert option(ours, "deform_ckpt") == str(out / "toy" / "models" / "model.pt")
    assert option(plain, "deform_ckpt") == str(out / "toy" / "plain" / "models" / "model.pt")
    assert (option(ours, "deform_intensity"), option(plain, "deform_use_correlation")) == ("percentile", "False")
    assert {option(words, "ckpt_path") for words in (ours, plain)} == {
        str(out / "anatomical_embedding" / "models" / "model.pt")
    }
    for name in ("fixed", "moving", "points", "fixed_label", "moving_label"):
        assert len({option(words, name) for words in commands if "--fixed" in words}) == 1


def test_an_embedder_that_is_given_is_not_trained(run: Run, tmp_path: Path) -> None:
    commands = run(embedder="mine.pt")
    assert [kind_of(words) for words in commands].count("training") == 2
    assert {option(words, "embedder_path") for words in commands if "training" in words} == {
        str(Path("mine.pt").absolute())
    }
    assert all("--embedder" not in words for words in commands)


def test_the_table_has_a_line_for_each_method_with_its_whole_time(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    with open(tmp_path / "out" / "toy" / "comparison.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["error_mm"]) for row in rows] == [9.5, 1.8, 0.9, 0.7, 0.5, 0.7, 3.0, 1.1]
    assert [float(row["seconds"]) for row in rows] == [0.0, 2.0, 4.0, 5.0, 6.0, 3.0, 1.0, 2.0]
    printed = capsys.readouterr().out
    assert all(row["method"] in printed for row in rows)
    assert "deform: 0.70 mm (promised: at most 0.80)" in printed


def test_knobs_reach_the_training_and_the_step_and_lift_the_promise(run: Run) -> None:
    commands = run({**ERRORS, "deform": 5.0}, max_epochs=2, spacing=4.0)
    assert [option(words, "max_epochs") for words in commands if "training" in words] == ["2"] * 3
    for words in registrations(commands):
        assert (option(words, "spacing"), option(words, "deform_spacing")) == ("4.0", "4.0")
        assert "--max_epochs" not in words


def test_less_than_was_promised_is_an_error(run: Run) -> None:
    with pytest.raises(InputError, match=r"mean error 0\.81 mm after deform is above the promised 0\.80"):
        run({**ERRORS, "deform": 0.81})

# SPDX-License-Identifier: Apache-2.0
"""What dg_matrix runs, repeats and writes, with commands that only leave their scores."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from monai_ext.commands._fire import main
from monai_ext.commands.dg_matrix import dg_matrix
from monai_ext.errors import InputError
from monai_ext.metrics import SCORES
from monai_ext.tables import write_table

SITES = ("north", "south", "west")
VARIANTS = {
    "points": {"mode": "points"},
    "whole box": {"mode": "box"},
    "plain": {"config": "plain.json", "time_of": "points"},
}
Run = Callable[..., list[list[str]]]


def option(words: list[str], name: str) -> str:
    """The last value of an option, which is the one that counts."""
    return words[len(words) - 1 - words[::-1].index(f"--{name}") + 1]


def leave_scores(words: list[str]) -> None:
    """Do what a training and an evaluation leave behind: seconds of two epochs, and a row for each site."""
    folder, source = Path(option(words, "output_dir")), option(words, "source_site")
    if "training" in words:
        folder.mkdir(parents=True, exist_ok=True)
        history = {"epochs": [{"seconds": 1.25, "processor_seconds": 9.0}, {"seconds": 2.0, "processor_seconds": 9.0}]}
        (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
        (folder / "run.json").write_text('{"device": "cuda:0"}', encoding="utf-8")
        return
    dice = {"points": 0.7, "whole_box": 0.6, "plain": 0.5}[folder.parents[1].name]
    rows = [
        {"case": site, "image": "", "site": site, "class": 1, "truth_voxels": 5,
         **dict.fromkeys(SCORES, 0.9 if site == source else dice - 0.1 * SITES.index(site))}
        for site in SITES
    ]  # fmt: skip
    write_table(folder / "cases.csv", tuple(rows[0]), rows)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a toy bundle; return what python was given."""
    configs = tmp_path / "toy" / "configs"
    configs.mkdir(parents=True)
    items = [{"image": f"{site}.nii", "site": site} for site in SITES]
    train = {
        "bundle_root": ".", "dataset_dir": ".", "source_site": None, "mode": "x", "max_epochs": 1, "cache": "none",
        "train": {"dataset": {"data": items}},
    }  # fmt: skip
    files = {"metadata": {}, "train": train, "evaluate": {}, "plain": {"cache": "none"}}
    files["sites"] = {"dg_variants": VARIANTS}
    files["wrong"] = {"dg_variants": {"plain": {"time_of": "points"}, "points": {}}}
    for name, content in files.items():
        (configs / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    commands: list[list[str]] = []
    failing: list[str] = []

    def record(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        if option(words, "source_site") in failing:
            return subprocess.CompletedProcess(words, 3)
        leave_scores(words)
        return subprocess.CompletedProcess(words, 0)

    def call(*, fail: str | None = None, **arguments: object) -> list[list[str]]:
        commands.clear()
        failing[:] = [fail] if fail else []
        given = {"bundle_root": str(tmp_path / "toy"), "dataset_dir": str(tmp_path), **arguments}
        dg_matrix(output_dir=str(tmp_path / "out"), **given)  # type: ignore[arg-type]
        return [*commands]

    monkeypatch.setattr("monai_ext.commands._run_step.subprocess.run", record)
    return call


def test_every_variant_trains_on_every_site_and_is_tested_on_all(run: Run, tmp_path: Path) -> None:
    commands = run(config="sites.json", max_epochs=7)
    assert [("training" in w, option(w, "source_site")) for w in commands] == [
        (training, site) for _ in VARIANTS for site in SITES for training in (True, False)
    ]
    assert {option(words, "max_epochs") for words in commands} == {"7"}
    assert len({option(words, "output_dir") for words in commands}) == 9
    assert len({option(words, "cache_dir") for words in commands}) == 1
    assert len({option(words, "embedding_dir") for words in commands}) == 1
    assert [option(w, "mode") for w in commands[:12]] == ["points"] * 6 + ["box"] * 6
    last = commands[-1]
    files = option(last, "config_file")
    order = [files.index(f"{name}.json") for name in ("train", "evaluate", "sites", "plain")]
    assert order == sorted(order)
    # as long as the epochs of "points" took, on a GPU by the clock
    assert (option(last, "time_limit"), option(last, "time_limit_clock")) == ("3.2", "wall")


def test_without_a_config_it_is_the_bundle_as_it_stands(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "toy").mkdir(parents=True)
    with pytest.raises(KeyError):  # the made-up scores know the variants only
        run()


def test_the_files_hold_the_matrix_the_means_and_the_comparison(run: Run, tmp_path: Path) -> None:
    run(config="sites.json")
    content = json.loads((tmp_path / "out" / "matrix.json").read_text(encoding="utf-8"))
    points = content["variants"]["points"]
    assert points["cells"]["north"]["west"]["dice"]["mean"] == pytest.approx(0.5)
    unseen = [0.6, 0.5, 0.7, 0.5, 0.7, 0.6]
    assert points["unseen"]["mean_of_pairs"]["dice"]["mean"] == pytest.approx(sum(unseen) / 6)
    assert content["training_seconds"]["plain"]["west"] == 3.2
    difference = content["compared"]["points less plain"]["dice"]["unseen"]["mean_difference"]
    assert difference == pytest.approx(0.2)
    with open(tmp_path / "out" / "matrix.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 27
    (row,) = (r for r in rows if (r["variant"], r["source"], r["target"]) == ("whole box", "south", "north"))
    assert (float(row["dice"]), row["in_domain"], row["cases"]) == (pytest.approx(0.6), "False", "1")
    page = (tmp_path / "out" / "matrix.html").read_text(encoding="utf-8")
    assert page.count("<table>") == 2 + 3 * 3
    assert page.count('class="own"') == 3 * 3 * 3
    assert "points less whole box" in page
    assert "http" not in page


def test_it_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dg_matrix"):
        run(config="sites.json", fail="south")
    assert not (tmp_path / "out" / "matrix.json").exists()
    commands = run(config="sites.json")
    assert len(commands) == 18 - 2  # the first variant had been trained on the north
    assert run(config="sites.json") == []
    assert len(run(config="sites.json", max_epochs=3)) == 18  # other knobs, other runs
    (tmp_path / "toy" / "configs" / "plain.json").write_text('{"cache": "some"}', encoding="utf-8")
    assert len(run(config="sites.json", max_epochs=3)) == 6  # so is another config, of the variants that have it


def test_a_variants_own_config_beats_the_knobs_of_all(run: Run) -> None:
    commands = run(config="sites.json", cache="disk")
    assert ["--cache" in words for words in commands] == [True] * 12 + [False] * 6


def test_chosen_sites_train_and_all_are_tested(run: Run, tmp_path: Path) -> None:
    commands = run(config="sites.json", sites="west")
    assert {option(words, "source_site") for words in commands} == {"west"}
    content = json.loads((tmp_path / "out" / "matrix.json").read_text(encoding="utf-8"))
    assert set(content["variants"]["points"]["cells"]["west"]) == set(SITES)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"sites": "east"}, "north, south, west"),
        ({"config": "wrong.json"}, "time_of"),
        ({"config": "none.json"}, "none.json"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(run: Run, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        run(**arguments)


def test_data_without_sites_are_refused(run: Run, tmp_path: Path) -> None:
    train = tmp_path / "toy" / "configs" / "train.json"
    train.write_text(train.read_text(encoding="utf-8").replace('"site"', '"place"'), encoding="utf-8")
    with pytest.raises(InputError, match="site"):
        run()


def test_the_command_line_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dg_matrix", "--help"]) == 0
    assert "demo_sites.json" in capsys.readouterr().out

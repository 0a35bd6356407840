# SPDX-License-Identifier: Apache-2.0
"""Sites, the published protocol and another run, scored by `CaseScores` from what an evaluator gives."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Orientation

from monai_ext.errors import InputError
from monai_ext.handlers import CaseScores
from monai_ext.metrics import PUBLISHED, SCORES, published_protocol, segmentation_scores, summarize_sites

Batch = list[dict[str, Any]]
AFFINE = torch.diag(torch.tensor([1.0, 1.5, 3.0, 1.0], dtype=torch.float64))
SITES = ("north", "north", "east", "east", "east", "west", "west")


def make_case(number: int, site: str, orientation: str = "RAS") -> Batch:
    """A ball, and a prediction of it that is moved by the case's number and has specks outside."""
    place = np.indices((32, 32, 8))
    ball = ((place[0] - 16) ** 2 + (place[1] - 15) ** 2 + (4 * (place[2] - 4)) ** 2 < 81).astype(np.uint8)
    found = np.roll(ball, number // 2, axis=0)
    found[number : number + 2, :2] = 1
    found[..., 0] = 1
    meta = {"filename_or_obj": f"/data/{site}-{number}.nii.gz"}
    maps = [MetaTensor(torch.from_numpy(voxels)[None], affine=AFFINE, meta=dict(meta)) for voxels in (found, ball)]
    turned = [Orientation(orientation, labels=None)(voxels) for voxels in maps]
    return [{"pred": turned[0], "label": turned[1], "image": turned[1], "site": site, "case": f"{site}-{number}"}]


def evaluate(batches: list[Batch], scores: CaseScores) -> dict[str, Any]:
    evaluator = Engine(lambda engine, batch: batch)
    scores.attach(evaluator)
    evaluator.run(batches)
    return read_json(scores.output_dir / "summary.json")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def batches() -> list[Batch]:
    return [make_case(number, site) for number, site in enumerate(SITES)]


def test_sites_are_tabled_and_the_unseen_ones_summarised(batches: list[Batch], tmp_path: Path) -> None:
    summary = evaluate(batches, CaseScores(tmp_path, 1, seed=3, bootstrap_samples=50, source_site="north"))
    expected = summarize_sites(read_rows(tmp_path / "cases.csv"), "north", samples=50, seed=3)
    assert read_json(tmp_path / "sites.json") == expected
    assert summary["domain_generalisation"] == {key: expected[key] for key in ("source", "unseen", "gap")}
    rows = read_rows(tmp_path / "sites.csv")
    assert [(row["site"], row["in_domain"], row["n"]) for row in rows[:: len(SCORES)]] == [
        ("east", "False", "3"), ("north", "True", "2"), ("west", "False", "2"),
    ]  # fmt: skip
    assert [row["score"] for row in rows[: len(SCORES)]] == list(SCORES)
    assert float(rows[0]["low"]) == expected["sites"]["east"]["dice"]["low"]


def test_without_a_source_nothing_is_added_to_what_was_written_before(batches: list[Batch], tmp_path: Path) -> None:
    plain = evaluate(batches, CaseScores(tmp_path, 1))
    assert plain.keys() == {"cases", "classes", "mean_foreground", "sites", "conventions"}
    assert read_json(tmp_path / "sites.json").keys() == {"source", "sites"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "cases.csv", "sites.csv", "sites.json", "summary.csv", "summary.json",
    }  # fmt: skip


def test_without_sites_there_is_no_table_of_them(
    batches: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = [[{**case, "site": ""} for case in batch] for batch in batches]
    with caplog.at_level(logging.WARNING):
        evaluate(nowhere, CaseScores(tmp_path, 1, source_site="north"))
    assert "no case names its site, so that source_site north tells nothing" in caplog.text
    assert not (tmp_path / "sites.json").exists()


def test_a_source_site_without_cases_is_warned_of(
    batches: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = evaluate(batches, CaseScores(tmp_path, 1, source_site="nort"))
    assert "no case is of the source site nort" in caplog.text
    assert summary["domain_generalisation"]["gap"]["dice"] is None


def test_both_protocols_are_scored_in_one_run(
    batches: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        summary = evaluate(batches, CaseScores(tmp_path, 1, protocols=["honest", "paper"]))
    rows, paper = read_rows(tmp_path / "cases.csv"), read_rows(tmp_path / "cases_paper.csv")
    assert paper[0].keys() == rows[0].keys()
    assert [row["case"] for row in paper] == [row["case"] for row in rows]
    found = {batch[0]["case"]: (batch[0]["pred"], batch[0]["label"]) for batch in batches}
    for row in paper:
        maps = published_protocol(*found[row["case"]], axis=2)
        assert maps is not None
        expected = segmentation_scores(*maps, 1, (1.0, 1.5, 3.0))[0]
        assert [float(row[score]) for score in SCORES] == pytest.approx([expected[score] for score in SCORES])
    means = [np.mean([float(row["dice"]) for row in table]) for table in (rows, paper)]
    assert summary["protocols"] == {
        "score": "dice", "cases": "all", "honest": pytest.approx(means[0]), "paper": pytest.approx(means[1]),
        "difference": pytest.approx(means[1] - means[0]), "left_out_by_paper": [], "paper_is": PUBLISHED,
    }  # fmt: skip
    assert means[1] > means[0] + 0.1  # the specks are outside of what the paper looks at
    line = f"{means[0]:.4f} honest, {means[1]:.4f} by the published protocol, difference {means[1] - means[0]:+.4f}"
    assert line in caplog.text


def test_the_published_mean_is_of_unseen_cases_where_a_source_is_named(batches: list[Batch], tmp_path: Path) -> None:
    summary = evaluate(batches, CaseScores(tmp_path, 1, protocols="paper", source_site="north"))
    unseen = [row for row in read_rows(tmp_path / "cases_paper.csv") if row["site"] != "north"]
    assert summary["protocols"]["cases"] == "unseen"
    assert summary["protocols"]["paper"] == pytest.approx(np.mean([float(row["dice"]) for row in unseen]))
    assert summary["protocols"]["honest"] == summary["domain_generalisation"]["unseen"]["pooled"]["dice"]["mean"]


@pytest.mark.parametrize("orientation", ["SAR", "LIP"])
def test_the_slices_of_a_plane_are_found_however_the_scan_lies(orientation: str, tmp_path: Path) -> None:
    written = []
    for name, own in (("upright", "RAS"), ("turned", orientation)):
        evaluate([make_case(1, "north", own)], CaseScores(tmp_path / name, 1, protocols="paper"))
        (row,) = read_rows(tmp_path / name / "cases_paper.csv")
        written.append([float(row[score]) for score in SCORES])
    assert written[1] == pytest.approx(written[0])
    evaluate([make_case(1, "north")], CaseScores(tmp_path / "coronal", 1, protocols="paper", plane="coronal"))
    assert float(read_rows(tmp_path / "coronal" / "cases_paper.csv")[0]["dice"]) != pytest.approx(written[0][0])


def test_a_case_without_truth_is_left_out_of_the_published_protocol_and_named(tmp_path: Path) -> None:
    empty = make_case(3, "east")
    empty[0]["label"] = torch.zeros_like(empty[0]["label"])
    summary = evaluate([make_case(0, "north"), empty], CaseScores(tmp_path, 1, protocols="paper"))
    assert summary["protocols"]["left_out_by_paper"] == ["east-3"]
    assert [row["case"] for row in read_rows(tmp_path / "cases_paper.csv")] == ["north-0"]


def test_pictures_and_plain_tensors_have_a_published_protocol_too(tmp_path: Path) -> None:
    picture, volume = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32, 3)
    picture[:, 10:20, 10:20] = volume[:, 10:20, 10:20] = 1
    batches: list[Batch] = [[{"pred": label, "label": label}] for label in (picture, volume)]
    evaluate(batches, CaseScores(tmp_path, 1, protocols="paper"))
    assert [(row["dice"], row["truth_voxels"]) for row in read_rows(tmp_path / "cases_paper.csv")] == [
        ("1.0", "100"), ("1.0", "200"),
    ]  # fmt: skip


def test_a_run_compared_with_itself_is_equal(
    batches: list[Batch], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(batches, CaseScores(tmp_path / "first", 1))
    other = tmp_path / "first" / "cases.csv"
    with caplog.at_level(logging.INFO):
        evaluate(batches, CaseScores(tmp_path / "second", 1, source_site="north", compare_to=other))
    paired = read_json(tmp_path / "second" / "paired.json")
    assert paired["other"] == str(other)
    assert paired["scores"].keys() == {"dice", "hd95_mm", "nsd"}
    for score in paired["scores"].values():
        assert (score["verdict"], score["unseen"]["n"], score["unseen"]["mean_difference"]) == ("equal", 5, 0)
    assert set(map(len, paired["unmatched"].values())) == {0}
    assert f"against {other}: equal, Dice +0.0000 over 5 unseen cases, p none" in caplog.text


def test_a_better_run_is_told_and_what_does_not_match_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worse = [make_case(number, "east") for number in range(2, 11)]
    better = [[{**case, "pred": case["label"]} for case in batch] for batch in worse]
    evaluate(worse[1:], CaseScores(tmp_path, 1))
    with caplog.at_level(logging.INFO):
        evaluate(better, CaseScores(tmp_path, 1, compare_to=tmp_path / "cases.csv"))  # read before it is replaced
    paired = read_json(tmp_path / "paired.json")
    assert paired["unmatched"]["only_here"] == ["east-2"]
    assert paired["scores"]["dice"]["unseen"]["p"] == 2 / 2**8
    assert paired["scores"]["hd95_mm"]["verdict"] == "better"
    assert "better, Dice +0." in caplog.text
    assert "cases that are not compared: {'only_here': 1}" in caplog.text


def test_files_of_an_earlier_evaluation_do_not_stay(batches: list[Batch], tmp_path: Path) -> None:
    evaluate(batches, CaseScores(tmp_path, 1))
    evaluate(batches, CaseScores(tmp_path, 1, protocols="paper", compare_to=tmp_path / "cases.csv"))
    assert (tmp_path / "paired.json").exists()
    nowhere = [[{**case, "site": ""} for case in batch] for batch in batches]
    evaluate(nowhere, CaseScores(tmp_path, 1))
    assert {path.name for path in tmp_path.iterdir()} == {"cases.csv", "summary.csv", "summary.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("", "no rows with case"), ("case,class\na,1\n", "no rows with dice, hd95_mm, nsd")],
)
def test_another_run_that_cannot_be_read_is_refused_at_once(tmp_path: Path, content: str, message: str) -> None:
    other = tmp_path / "cases.csv"
    if content is not None:
        other.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{message}.*; set compare_to to another run's cases.csv"):
        CaseScores(tmp_path, 1, compare_to=other)


def test_broken_numbers_of_another_run_name_its_file(batches: list[Batch], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("case,class,dice,hd95_mm,nsd\nnorth-0,1,much,1,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.csv: case north-0: dice must be a number, got 'much'"):
        evaluate(batches, CaseScores(tmp_path, 1, compare_to=other))


def test_unknown_protocols_and_planes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="protocols must be some of honest, paper, got official"):
        CaseScores(tmp_path, 1, protocols=["honest", "official"])
    with pytest.raises(ValueError, match="plane must be one of"):
        CaseScores(tmp_path, 1, plane="oblique")


def run_process(rank: int, folder: Path, batches: list[Batch], other: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    evaluate_all(batches[rank::2] + batches[:1], folder / f"written-by-{rank}", other)
    dist.destroy_process_group()


def evaluate_all(batches: list[Batch], folder: Path, other: Path) -> None:
    evaluator = Engine(lambda engine, batch: batch)
    CaseScores(folder, 1, source_site="north", protocols="paper", compare_to=other).attach(evaluator)
    evaluator.run(batches)


def test_two_processes_write_what_one_writes(batches: list[Batch], tmp_path: Path) -> None:
    evaluate(batches[1:], CaseScores(tmp_path / "other", 1))
    other = tmp_path / "other" / "cases.csv"
    evaluate_all(batches, tmp_path / "alone", other)
    # forked, since importing torch and MONAI twice takes longer than all the rest
    processes = mp.start_processes(run_process, (tmp_path, batches, other), nprocs=2, join=False, start_method="fork")
    assert any(processes.join(timeout=120) for _ in range(3))
    assert not (tmp_path / "written-by-1").exists()
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert {"cases.csv", "cases_paper.csv", "sites.json", "sites.csv", "paired.json", "summary.json"} <= names
    for name in names:
        assert (tmp_path / "written-by-0" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()

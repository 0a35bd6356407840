# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation of matching, through MONAI's evaluator, in one process and in two."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor

from monai_ext.data import read_point_pairs
from monai_ext.engines import PairEvaluator, smaller_is_better
from monai_ext.errors import InputError
from monai_ext.handlers import BestModel, LandmarkScores, MatchError
from monai_ext.matching import MatchedPoints, PointMatcher
from monai_ext.metrics import clustered_interval

SIZES = (4, 7, 1, 5, 3)


def make_cases(sizes: tuple[int, ...] = SIZES, shift: float = 0.0, axes: int = 3) -> list[dict[str, Any]]:
    """Pairs of scans whose points err by some mm; of each third the radius and box are not known."""
    random = np.random.default_rng(0)
    cases = []
    for number, size in enumerate(sizes):
        fixed, true = random.normal(0, 60, (2, size, axes))
        found = true + random.normal(0, 4, (size, axes)) + shift
        known = np.arange(size) % 3 != 2
        radius = np.where(known, random.uniform(2, 12, size), np.nan)
        reach = radius[:, None]
        scans = {
            key: MetaTensor(torch.zeros(1, *[2] * axes), meta={"filename_or_obj": f"/data/{name}-{number}.nii.gz"})
            for key, name in (("image", "followup"), ("reference", "base"))
        }
        cases.append({
            "case": f"patient-{number}",
            "site": "north" if number % 2 else "south",
            **scans,
            "points": torch.from_numpy(fixed),
            "truth": torch.from_numpy(true),
            "found": torch.from_numpy(found),
            "radius": torch.from_numpy(radius),
            "boxes": torch.from_numpy(np.stack([true - reach, true + reach], axis=1)),
            "point_names": [f"L{index}" for index in range(1, size + 1)],
        })  # fmt: skip
    return cases


def match(found: torch.Tensor) -> MatchedPoints:
    """What a matcher says of these places; every second one is not accepted."""
    index = torch.arange(len(found))
    return MatchedPoints(
        points=found,
        score=0.9 - 0.01 * index,
        local_score=0.8 - 0.01 * index,
        global_score=torch.ones(len(found)),
        cycle_error=1.5 * index.double(),
        accepted=index % 2 == 0,
        fallback=index == 1,
        anchors=10 * index,
        reasons=tuple("" if place % 2 == 0 else f"score low, place {place}" for place in index.tolist()),
    )


def evaluate(cases: list[dict[str, Any]], handlers: list[Any], sampler: bool = False) -> PairEvaluator:
    """Score all cases; in place of network and matcher stands a table of what they find."""
    found = {case["case"]: match(case["found"]) for case in cases}
    data = Dataset(cases)
    evaluator = PairEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            data,
            batch_size=2,
            sampler=DistributedSampler(data, even_divisible=True, shuffle=False) if sampler else None,
            collate_fn=list,
        ),
        network=torch.nn.Identity(),
        inferer=lambda image, network, case, **given: found[case],
        key_val_metric={"match_error_mm": MatchError()},
        metric_cmp_fn=smaller_is_better,
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


def run(items: list[dict[str, Any]], handler: Any) -> Engine:
    """The same without MONAI: one iteration whose output is these items."""
    engine = Engine(lambda engine, batch: items)
    handler.attach(engine)
    engine.run([0])
    return engine


def item(case: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**case, "pred": match(case["found"]), **changed}


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def errors_of(case: dict[str, Any]) -> list[float]:
    return [math.dist(*pair) for pair in zip(case["found"].tolist(), case["truth"].tolist(), strict=True)]


def test_the_table_of_points_holds_what_was_asked_known_and_found(tmp_path: Path) -> None:
    cases = make_cases()
    evaluate(cases, [LandmarkScores(tmp_path)])
    rows = read_rows(tmp_path / "points.csv")
    assert len(rows) == sum(SIZES)
    assert [(row["case"], row["point"]) for row in rows[3:6]] == [
        ("patient-0", "L4"),
        ("patient-1", "L1"),
        ("patient-1", "L2"),
    ]
    row, case, place = rows[5], cases[1], 1
    for kind, key in (("fixed", "points"), ("true", "truth"), ("found", "found")):
        written = [float(row[f"{kind}_{axis}_ras_mm"]) for axis in "xyz"]
        assert written == case[key][place].tolist()
    error = errors_of(case)[place]
    assert float(row["error_mm"]) == pytest.approx(error)
    apart = (case["found"] - case["truth"]).abs()[place].tolist()
    names = ("right_left_mm", "anterior_posterior_mm", "superior_inferior_mm")
    assert [float(row[name]) for name in names] == pytest.approx(apart)
    assert (row["accepted"], row["fallback"], row["anchors"], row["reason"]) == ("0", "1", "10", "score low, place 1")
    scores = [float(row[name]) for name in ("score", "local_score", "global_score", "cycle_error_mm")]
    assert scores == pytest.approx([0.89, 0.79, 1.0, 1.5])
    assert float(row["radius_mm"]) == case["radius"][place].item()
    assert row["within_radius"] == str(int(error <= case["radius"][place].item()))
    assert row["in_box"] == str(int(max(apart) <= case["radius"][place].item()))
    unknown = rows[6]
    assert (unknown["radius_mm"], unknown["within_radius"], unknown["in_box"]) == ("", "", "")


def test_a_table_of_points_can_be_read_back_as_pairs(tmp_path: Path) -> None:
    (case,) = make_cases((6,))
    run([item(case)], LandmarkScores(tmp_path))
    true, found = read_point_pairs(tmp_path / "points.csv", "true", "found")
    assert torch.equal(true.points, case["truth"])
    assert torch.equal(found.points, case["found"])


def test_the_table_of_cases_and_the_summary_hold_the_means(tmp_path: Path) -> None:
    cases = make_cases()
    evaluator = evaluate(cases, [LandmarkScores(tmp_path, hit_mm=6.0, bootstrap_samples=300, seed=3)])
    rows, summary = read_rows(tmp_path / "cases.csv"), read_summary(tmp_path)
    assert (rows[1]["case"], rows[1]["image"], rows[1]["reference"], rows[1]["site"]) == (
        "patient-1",
        "/data/followup-1.nii.gz",
        "/data/base-1.nii.gz",
        "north",
    )
    errors = [errors_of(case) for case in cases]
    for row, own in zip(rows, errors, strict=True):
        assert float(row["error_mm"]) == pytest.approx(np.mean(own))
        assert float(row["accepted_error_mm"]) == pytest.approx(np.mean(own[::2]))
        assert float(row["cpm_6mm"]) == pytest.approx(np.mean(np.array(own) <= 6))
        assert float(row["coverage"]) == pytest.approx(len(own[::2]) / len(own))
    pooled = [error for own in errors for error in own]
    assert (summary["cases"], summary["points"]) == (len(SIZES), sum(SIZES))
    assert summary["all"]["error_mm"]["mean"] == pytest.approx(np.mean(pooled))
    assert summary["accepted"]["error_mm"]["mean"] == pytest.approx(np.mean([e for own in errors for e in own[::2]]))
    interval = (summary["all"]["error_mm"]["low"], summary["all"]["error_mm"]["high"])
    assert interval == pytest.approx(clustered_interval(errors, 300, 3))
    metrics = evaluator.state.metrics
    assert metrics["match_error_mm"] == pytest.approx(np.mean(pooled))
    assert metrics["error_mm"] == summary["all"]["error_mm"]["mean"]
    assert metrics["accepted_error_mm"] == summary["accepted"]["error_mm"]["mean"]
    assert metrics["coverage"] == summary["coverage"]["mean"]
    for name in ("cpm_6mm", "cpm_radius", "hit_in_box", "cycle_error_mm"):
        assert metrics[name] == summary["all"][name]["mean"]
    assert metrics["hit_in_box"] >= metrics["cpm_radius"]


def test_the_summary_says_what_was_counted(tmp_path: Path) -> None:
    matcher = PointMatcher(mode="mutual", min_score=0.6, max_cycle_mm=5.0)
    evaluate(make_cases(), [LandmarkScores(tmp_path, hit_mm=12.5, matcher=matcher)])
    conventions = read_summary(tmp_path)["conventions"]
    assert (conventions["space"], conventions["units"], conventions["hit_mm"]) == ("RAS", "mm", 12.5)
    assert conventions["matcher"] == {
        "mode": "mutual",
        "query": "interp",
        "refine": True,
        "min_score": 0.6,
        "max_cycle_mm": 5.0,
    }
    assert conventions["axes"] == {"x": "right-left", "y": "anterior-posterior", "z": "superior-inferior"}
    assert conventions["abstained"].startswith("Points that were not accepted count in 'all'")
    assert conventions["bootstrap"] == {"samples": 1000, "seed": 0, "level": 0.95}


def test_what_the_output_has_goes_before_what_the_data_set_gave(tmp_path: Path) -> None:
    (case,) = make_cases((4,))
    other = {**case, "truth": torch.zeros(4, 3), "case": "another"}
    engine = Engine(lambda engine, batch: [{"pred": match(case["found"]), "truth": case["truth"], "case": "this"}])
    LandmarkScores(tmp_path).attach(engine)
    engine.run([[other]])
    (row,) = read_rows(tmp_path / "cases.csv")
    assert (row["case"], row["image"]) == ("this", "/data/followup-0.nii.gz")
    assert float(row["error_mm"]) == pytest.approx(np.mean(errors_of(case)))


def test_without_radius_boxes_and_names_the_rest_is_scored(tmp_path: Path) -> None:
    (case,) = make_cases((4,))
    bare = {key: case[key] for key in ("points", "truth", "found")}
    metrics = run([item(bare), item(bare)], LandmarkScores(tmp_path)).state.metrics
    assert [row["point"] for row in read_rows(tmp_path / "points.csv")] == ["1", "2", "3", "4"] * 2
    assert [row["case"] for row in read_rows(tmp_path / "cases.csv")] == ["case_0001", "case_0002"]
    assert metrics["error_mm"] == pytest.approx(np.mean(errors_of(case)))
    assert "cpm_radius" not in metrics
    assert read_summary(tmp_path)["all"]["hit_in_box"]["n"] == 0


def test_pictures_have_two_axes(tmp_path: Path) -> None:
    (case,) = make_cases((3,), axes=2)
    run([item(case)], LandmarkScores(tmp_path))
    row = read_rows(tmp_path / "points.csv")[0]
    assert (row["found_z_ras_mm"], row["superior_inferior_mm"]) == ("", "")
    assert float(row["error_mm"]) == pytest.approx(errors_of(case)[0])
    assert read_summary(tmp_path)["all"]["superior_inferior_mm"]["mean"] is None


def test_two_pairs_of_one_name_are_two_cases_and_one_pair_seen_twice_is_one(tmp_path: Path) -> None:
    one, other = make_cases((2, 3))
    run([item(one), item(one), item({**other, "case": "patient-0"})], LandmarkScores(tmp_path))
    assert [row["case"] for row in read_rows(tmp_path / "cases.csv")] == ["patient-0", "patient-0_2"]
    assert read_summary(tmp_path)["points"] == 5


def test_a_second_epoch_begins_anew(tmp_path: Path) -> None:
    evaluator = evaluate(make_cases(), [LandmarkScores(tmp_path)])
    first, error = (tmp_path / "points.csv").read_bytes(), evaluator.state.metrics["match_error_mm"]
    evaluator.run(2)
    assert (tmp_path / "points.csv").read_bytes() == first
    assert evaluator.state.metrics["match_error_mm"] == error


def test_a_score_that_is_no_number_is_left_out_and_a_place_is_refused(tmp_path: Path) -> None:
    (case,) = make_cases((4,))
    pred = match(case["found"])
    pred.score[1] = torch.nan
    run([item(case, pred=pred)], LandmarkScores(tmp_path))
    assert read_rows(tmp_path / "points.csv")[1]["score"] == ""
    assert read_summary(tmp_path)["all"]["score"]["n"] == 3
    pred.points[2, 0] = torch.nan
    for handler in (LandmarkScores(tmp_path), MatchError()):
        engine = Engine(lambda engine, batch: [item(case, pred=pred)])
        handler.attach(engine, *(["error"] if isinstance(handler, MatchError) else []))
        with pytest.raises(InputError, match=r"patient-0: the found places of 1 of 4 points are not finite: \[2\]"):
            engine.run([0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"truth": None}, "patient-0: there is no 'truth' to score by"),
        ({"truth": torch.zeros(3, 3)}, r"patient-0: 'truth' must be \(4, 3\) as the found places are, got \(3, 3\)"),
        ({"radius": torch.zeros(3)}, "patient-0: 'radius' must have 4 entries, got 3"),
        ({"point_names": ["a"]}, "patient-0: 'point_names' must name 4 points, got 1"),
    ],
)
def test_what_does_not_fit_is_named_with_its_case(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    (case,) = make_cases((4,))
    with pytest.raises(InputError, match=message):
        run([item(case, **changed)], LandmarkScores(tmp_path))
    assert not (tmp_path / "points.csv").exists()


def test_two_runs_are_compared_case_by_case(tmp_path: Path) -> None:
    sizes = (5,) * 8
    evaluate(make_cases(sizes), [LandmarkScores(tmp_path / "good")])
    evaluate(make_cases(sizes, shift=9.0)[1:], [LandmarkScores(tmp_path / "bad", compare_to=tmp_path / "good")])
    paired = json.loads((tmp_path / "bad" / "paired.json").read_text(encoding="utf-8"))
    error = paired["scores"]["error_mm"]
    assert (error["verdict"], error["higher_is_better"], error["unseen"]["n"]) == ("worse", False, 7)
    assert error["unseen"]["p"] == pytest.approx(2 / 2**7)
    good, bad = (
        [float(row["error_mm"]) for row in read_rows(tmp_path / name / "cases.csv")] for name in ("good", "bad")
    )
    assert error["unseen"]["mean_difference"] == pytest.approx(np.mean(np.subtract(bad, good[1:])))
    assert paired["scores"]["cpm_10mm"]["higher_is_better"]
    assert paired["unmatched"] == {"only_here": [], "only_there": ["patient-0"], "other_number_of_points": []}
    evaluate(make_cases(sizes), [LandmarkScores(tmp_path / "bad")])
    assert not (tmp_path / "bad" / "paired.json").exists()


def test_a_run_that_cannot_be_compared_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read .*; set compare_to to the folder of another run"):
        LandmarkScores(tmp_path, compare_to=tmp_path / "none")
    evaluate(make_cases(), [LandmarkScores(tmp_path, hit_mm=5.0)])
    with pytest.raises(InputError, match=r"no rows with cpm_10mm; .* the same hit_mm"):
        LandmarkScores(tmp_path, compare_to=tmp_path)
    with pytest.raises(ValueError, match="hit_mm must be positive, got 0"):
        LandmarkScores(tmp_path, hit_mm=0.0)


def test_the_epoch_with_the_smallest_error_is_kept(tmp_path: Path) -> None:
    shifts = iter((9.0, 0.0, 5.0))
    evaluator = Engine(lambda engine, batch: [item(case) for case in make_cases(shift=next(shifts))])
    MatchError().attach(evaluator, "match_error_mm")
    evaluator.metric_cmp_fn = smaller_is_better
    trainer = Engine(lambda engine, batch: None)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        evaluator.run([0])
        evaluator.state.epoch = trainer.state.epoch

    BestModel(tmp_path, torch.nn.Linear(1, 1), evaluator, key_metric="match_error_mm").attach(trainer)
    trainer.run([0], max_epochs=3)
    assert trainer.state.best_model["epoch"] == 2


@pytest.mark.parametrize(
    ("current", "best", "better"),
    [(1.0, 2.0, True), (2.0, 2.0, False), (3.0, 2.0, False), (9.0, math.nan, True), (math.nan, 2.0, False)],
)
def test_smaller_is_better_and_any_number_is_better_than_none(current: float, best: float, better: bool) -> None:
    assert smaller_is_better(current, best) is better


def test_no_point_gives_no_error() -> None:
    engine = Engine(lambda engine, batch: [])
    MatchError().attach(engine, "error")
    with pytest.raises(NotComputableError, match="at least one point"):
        engine.run([0])


def run_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    evaluator = evaluate(make_cases(), [LandmarkScores(folder / f"written-by-{rank}")], sampler=True)
    (folder / f"metrics-{rank}.json").write_text(json.dumps(evaluator.state.metrics), encoding="utf-8")
    dist.destroy_process_group()


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    assert len(SIZES) % 2  # so that the sampler shows one case to both
    alone = evaluate(make_cases(), [LandmarkScores(tmp_path / "alone")])
    processes = mp.start_processes(run_process, (tmp_path,), nprocs=2, join=False, start_method="fork")
    assert any(processes.join(timeout=120) for _ in range(3))
    assert not (tmp_path / "written-by-1").exists()
    for name in ("points.csv", "cases.csv", "summary.json"):
        assert (tmp_path / "written-by-0" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    for rank in (0, 1):
        assert json.loads((tmp_path / f"metrics-{rank}.json").read_text(encoding="utf-8")) == alone.state.metrics

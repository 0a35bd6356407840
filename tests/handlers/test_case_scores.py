# SPDX-License-Identifier: Apache-2.0
"""The tables of an evaluation, from real files through MONAI's evaluator, in one process and in two."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, DistributedSampler, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import AsDiscreted, Compose, EnsureChannelFirstd, LoadImaged, Orientation, SaveImaged
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.handlers import CaseScores
from monai_ext.metrics import EMPTY_BOTH, EMPTY_ONE, SCORES, segmentation_scores
from monai_ext.report.cases import group_cases
from monai_ext.report.sources import read_run_folder

SPACING = (1.0, 1.5, 2.5)
CLASSES = 3


class Threshold(torch.nn.Module):
    """Three logits of a grey value: it finds classes 1 and 2 by their intensity."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - image, image - 0.5 - 2 * (image - 1.5).relu(), 2 * (image - 1.5)], dim=1)


def write_volumes(folder: Path, count: int = 5) -> list[dict[str, Any]]:
    """Volumes whose grey values are the classes with noise; case 3 has no class 2."""
    random = np.random.default_rng(0)
    items = []
    for number in range(count):
        labels = np.zeros((8, 7, 6), np.uint8)
        labels[1:4, 2:5, 1:4], labels[5:7, 2:6, 2:5] = 1, 2 if number != 3 else 0
        image = labels + random.normal(0, 0.4, labels.shape)
        paths = [folder / kind / f"scan-{number}.nii.gz" for kind in ("image", "label")]
        for path, voxels in zip(paths, (image.astype(np.float32), labels), strict=True):
            path.parent.mkdir(exist_ok=True, parents=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING, 1])), path)
        site = "north" if number % 2 else "south"
        items.append({"image": str(paths[0]), "label": str(paths[1]), "site": site, "subject": f"p{number}"})
    return items


def evaluate(
    items: list[dict[str, Any]],
    handlers: list[Any],
    post: list[Any] | None = None,
    sampler: bool = False,
    inferer: Inferer | None = None,
) -> SupervisedEvaluator:
    reading = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])
    data = Dataset(items, reading)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            data,
            batch_size=2,
            sampler=DistributedSampler(data, even_divisible=True, shuffle=False) if sampler else None,
        ),
        network=Threshold(),
        inferer=inferer,
        postprocessing=Compose([AsDiscreted("pred", argmax=True), *(post or [])]),
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return write_volumes(tmp_path_factory.mktemp("volumes"))


def test_the_tables_hold_every_case_and_class(items: list[dict[str, Any]], tmp_path: Path) -> None:
    scores = CaseScores(tmp_path, CLASSES, class_names=["grey", "white"], prompt_source="none", slices="all")
    evaluator = evaluate(items, [scores])
    rows = read_rows(tmp_path / "cases.csv")
    assert list(rows[0])[:8] == ["case", "image", "label", "prediction", "site", "subject", "class", "class_name"]
    assert [(row["case"], row["class_name"]) for row in rows[:3]] == [
        ("scan-0", "grey"),
        ("scan-0", "white"),
        ("scan-1", "grey"),
    ]
    assert len(rows) == 2 * len(items)
    assert (rows[2]["image"], rows[2]["label"]) == (items[1]["image"], items[1]["label"])
    assert (rows[2]["site"], rows[2]["subject"], rows[2]["prediction"]) == ("north", "p1", "")

    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == len(items)
    dice = [float(row["dice"]) for row in rows]
    assert summary["classes"][1]["metrics"]["dice"]["mean"] == pytest.approx(np.mean(dice[1::2]))
    assert evaluator.state.metrics["mean_dice"] == pytest.approx(np.mean(dice))
    assert evaluator.state.metrics["dice_white"] == pytest.approx(np.mean(dice[1::2]))
    assert 0.3 < evaluator.state.metrics["mean_dice"] < 1
    assert set(summary["sites"]) == {"north", "south"}
    assert summary["conventions"] == {
        "prompt_source": "none",
        "slices": "all",
        "empty_both": EMPTY_BOTH,
        "empty_one": EMPTY_ONE,
        "nsd_tolerance_mm": 1.0,
        "bootstrap": {"samples": 1000, "seed": 0, "level": 0.95},
    }
    flat = read_rows(tmp_path / "summary.csv")
    assert len(flat) == 3 * 5
    assert {row["name"] for row in flat} == {"grey", "white", "mean_foreground"}
    assert float(flat[0]["low"]) == summary["classes"][0]["metrics"]["dice"]["low"]


def test_distances_are_in_mm_by_the_affine(items: list[dict[str, Any]], tmp_path: Path) -> None:
    evaluate(items[:1], [CaseScores(tmp_path, CLASSES)])
    image, label = (nib.load(items[0][key]).get_fdata() for key in ("image", "label"))
    prediction = Threshold()(torch.from_numpy(image)[None, None]).argmax(1)
    expected = segmentation_scores(prediction, label, CLASSES, SPACING)
    written = read_rows(tmp_path / "cases.csv")
    for row, own in zip(written, expected, strict=True):
        assert [float(row[key]) for key in ("hd95_mm", "asd_mm", "truth_voxels")] == pytest.approx(
            [own[key] for key in ("hd95_mm", "asd_mm", "truth_voxels")]
        )
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["classes"][0]["metrics"]["dice"]["low"] is None  # one case has no interval


def test_the_path_of_a_saved_prediction_is_listed(items: list[dict[str, Any]], tmp_path: Path) -> None:
    saving = SaveImaged(
        "pred", output_dir=tmp_path / "predictions", separate_folder=False, print_log=False, savepath_in_metadict=True
    )
    evaluate(items[:2], [CaseScores(tmp_path, CLASSES)], post=[saving])
    paths = [Path(row["prediction"]) for row in read_rows(tmp_path / "cases.csv")]
    assert all(path.is_absolute() and path.is_file() for path in paths)
    assert paths[0].name.startswith("scan-0")


def test_a_prediction_is_looked_for_where_it_was_told(items: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "scan-1.nii.gz").touch()
    evaluate(items[:2], [CaseScores(tmp_path, CLASSES, prediction_dir=tmp_path)])
    found = [row["prediction"] for row in read_rows(tmp_path / "cases.csv")]
    assert found == ["", "", str(tmp_path / "scan-1.nii.gz"), str(tmp_path / "scan-1.nii.gz")]


def test_files_of_one_name_in_several_folders_are_cases_of_their_own(tmp_path: Path) -> None:
    items = [item for folder in "abcd" for item in write_volumes(tmp_path / folder, 1)]
    evaluate(items, [CaseScores(tmp_path, CLASSES)])
    rows = read_rows(tmp_path / "cases.csv")
    assert [row["case"] for row in rows[::2]] == ["scan-0", "scan-0_2", "scan-0_3", "scan-0_4"]
    assert rows[2]["image"] == items[1]["image"]


def test_the_data_list_names_cases_and_slices(items: list[dict[str, Any]], tmp_path: Path) -> None:
    named = [{**items[0], "case": "heart", "slice": place} for place in (7, 31)]
    evaluate(named, [CaseScores(tmp_path, CLASSES)])
    assert [row["case"] for row in read_rows(tmp_path / "cases.csv")][::2] == ["heart_slice_0007", "heart_slice_0031"]


@pytest.mark.parametrize("turned", ["pred", "label"])
def test_a_map_that_was_not_turned_back_is_scored_all_the_same(turned: str, tmp_path: Path) -> None:
    labels = torch.zeros(2, 1, 6, 6, 6)
    labels[0, :, 1:4, 2:5, :3], labels[1, :, 2:5, 2:4, :2] = 1, 1
    affine = torch.diag(torch.tensor([-1.0, 1.0, 2.5, 1.0]))
    output = {key: MetaTensor(voxels, affine=affine) for key, voxels in zip(("pred", "label"), labels, strict=True)}
    written = []
    for number, maps in enumerate([output, {**output, turned: Orientation("SAR", labels=None)(output[turned])}]):
        evaluator = Engine(lambda engine, batch, maps=maps: [maps])
        CaseScores(tmp_path / str(number), 1).attach(evaluator)
        evaluator.run([0])
        row = read_rows(tmp_path / str(number) / "cases.csv")[0]
        written.append([float(row[name]) for name in SCORES])
    assert written[1] == pytest.approx(written[0])
    assert written[0][0] == pytest.approx(2 * 8 / (27 + 12))


def test_pictures_without_affine_are_measured_in_pixels(tmp_path: Path) -> None:
    label = np.zeros((20, 30), np.uint8)
    label[5:9, 5:20] = 1
    image = np.roll(label, 3, axis=0) * np.uint8(1)
    items = [{"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}]
    for path, pixels in zip(items[0].values(), (image, label), strict=True):
        Image.fromarray(pixels).save(path)
    evaluate(items, [CaseScores(tmp_path, CLASSES)])
    row = read_rows(tmp_path / "cases.csv")[0]
    assert (row["case"], float(row["hd95_mm"])) == ("image", 3)


def test_a_second_epoch_begins_anew(items: list[dict[str, Any]], tmp_path: Path) -> None:
    evaluator = evaluate(items[:2], [CaseScores(tmp_path, CLASSES)])
    first = (tmp_path / "cases.csv").read_bytes()
    evaluator.run(2)
    assert (tmp_path / "cases.csv").read_bytes() == first


def test_an_error_names_the_file(items: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image/scan-0\.nii\.gz: the prediction holds values"):
        evaluate(items[:1], [CaseScores(tmp_path, num_classes=1)])
    assert not (tmp_path / "cases.csv").exists()


@pytest.mark.parametrize("names", [["grey", "white"], ["background", "grey", "white"], {"1": "grey", 2: "white"}])
def test_class_names_come_in_three_ways(names: Any, tmp_path: Path) -> None:
    assert CaseScores(tmp_path, CLASSES, class_names=names).class_names == {1: "grey", 2: "white"}


def test_a_wrong_number_of_class_names_is_refused(tmp_path: Path) -> None:
    assert CaseScores(tmp_path, 1).class_names == {1: "class 1"}
    with pytest.raises(InputError, match="2 foreground classes"):
        CaseScores(tmp_path, CLASSES, class_names=["grey"])


class Prompted(Inferer):
    """Leaves a record of prompts with each prediction, as a batch of the data loader has it."""

    def __call__(self, inputs: MetaTensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        pred = network(inputs)
        slices = [{"index": i, "prompt": "null" if i < 2 else "self", "box": None} for i in range(6)]
        pred.meta = {**pred.meta, "prompts": [json.dumps({"plane": "axial", "slices": slices})] * len(pred)}
        return pred


def test_the_prompts_of_every_case_and_their_sum_are_written(items: list[dict[str, Any]], tmp_path: Path) -> None:
    evaluate(items[:3], [CaseScores(tmp_path, CLASSES, prompt_source="self")], inferer=Prompted())
    assert [row["prompts"] for row in read_rows(tmp_path / "cases.csv")] == ["self 4, null 2"] * 6
    conventions = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["conventions"]
    assert conventions["prompt_source"] == "self"
    assert conventions["prompts"] == {"null": 6, "self": 12}  # slices of three cases
    report = group_cases(read_run_folder(tmp_path, tmp_path).rows)
    assert [case.name for case in report] == ["scan-0", "scan-1", "scan-2"]
    assert report[0].rows[0]["prompts"] == "self 4, null 2"


def run_process(rank: int, folder: Path, items: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    evaluator = evaluate(items, [CaseScores(folder / f"written-by-{rank}", CLASSES)], sampler=True)
    (folder / f"metrics-{rank}.json").write_text(json.dumps(evaluator.state.metrics), encoding="utf-8")
    dist.destroy_process_group()


def test_two_processes_write_what_one_writes(items: list[dict[str, Any]], tmp_path: Path) -> None:
    assert len(items) % 2  # so that the sampler shows one case to both
    alone = evaluate(items, [CaseScores(tmp_path / "alone", CLASSES)])
    # forked, since importing torch and MONAI twice takes longer than all the rest
    processes = mp.start_processes(run_process, (tmp_path, items), nprocs=2, join=False, start_method="fork")
    assert any(processes.join(timeout=120) for _ in range(3))
    assert not (tmp_path / "written-by-1").exists()
    for name in ("cases.csv", "summary.json", "summary.csv"):
        assert (tmp_path / "written-by-0" / name).read_text(encoding="utf-8") == (tmp_path / "alone" / name).read_text(
            encoding="utf-8"
        )
    for rank in (0, 1):
        assert json.loads((tmp_path / f"metrics-{rank}.json").read_text(encoding="utf-8")) == alone.state.metrics

# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training: what is on them, and that the trackers get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MLFlowHandler, ValidationHandler
from PIL import Image

from monai_ext.handlers import SampleOverlays
from monai_ext.handlers._drawing import draw, take_sample
from monai_ext.report.palette import class_colour


def item(number: int, affine: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """A volume (1, 12, 10, 8) in RAS with an object that is largest in axial slice 5, front left."""
    label = torch.zeros(1, 12, 10, 8)
    label[:, 1:3, 7:9, 2:7] = 1
    label[:, 1:4, 6:9, 5] = 1
    label[:, 6, 5, 5] = 2
    meta = {"filename_or_obj": f"/data/head-{number}.nii.gz"}
    affine = torch.eye(4) if affine is None else affine
    noise = torch.rand(label.shape)
    return {"image": MetaTensor(label + noise, affine=affine, meta=meta), "label": MetaTensor(label, affine=affine)}


def evaluator_of(handlers: list[Any], count: int = 3) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([item(number) for number in range(count)]), batch_size=2),
        network=torch.nn.Identity(),
        inferer=lambda image, network: (image > 1).float(),
        val_handlers=handlers,
    )


def test_a_picture_is_drawn_after_each_validation(tmp_path: Path) -> None:
    evaluator = evaluator_of([SampleOverlays(tmp_path, cases=2, panel=64)])
    evaluator.run(3)
    evaluator.run(14)
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == ["epoch_0003.png", "epoch_0014.png"]
    with Image.open(tmp_path / "overlays" / "epoch_0003.png") as picture:
        width, height = picture.size
        pixels = np.asarray(picture)
    assert 3 * 53 <= width <= 3 * 64 + 24  # image, truth, prediction
    assert 2 * 64 <= height <= 2 * 64 + 48  # two cases
    assert (pixels == class_colour(1)).all(-1).any()


def test_validations_between_the_intervals_are_skipped(tmp_path: Path) -> None:
    evaluator = evaluator_of([SampleOverlays(tmp_path, interval=5)])
    for epoch in (1, 5, 7, 10):
        evaluator.run(epoch)
    assert sorted(path.name for path in (tmp_path / "overlays").iterdir()) == ["epoch_0005.png", "epoch_0010.png"]


def test_the_slice_with_most_of_the_object_is_shown_upright() -> None:
    one = item(0)
    sample = take_sample("head", {**one, "pred": torch.zeros_like(one["label"])}, "axial")
    assert sample.title == "head  axial 6/8"
    truth = sample.maps["truth"]
    assert truth.shape == (10, 12)  # rows run from front to back, columns from right to left
    expected = one["label"][0, :, :, 5].numpy()[::-1, ::-1].T
    assert (truth == expected).all()
    assert (np.argwhere(truth == 1).mean(0) < (5, 99)).all()  # the front is on top
    assert np.argwhere(truth == 1).mean(0)[1] > 6  # the patient's left is on the right


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("flips", [(1,), (1, 2), (3,)])
def test_the_picture_does_not_depend_on_the_order_of_axes(plane: str, flips: tuple[int, ...]) -> None:
    upright = {**item(0), "pred": torch.zeros(1, 12, 10, 8)}
    upright["pred"] = MetaTensor(upright["pred"], affine=torch.eye(4))
    turned = {}
    for key, value in upright.items():
        affine = torch.eye(4)
        for axis in flips:
            affine[axis - 1, axis - 1], affine[axis - 1, 3] = -1, value.shape[axis] - 1
        affine = affine[:, [2, 0, 1, 3]]
        turned[key] = MetaTensor(value.as_tensor().flip(flips).permute(0, 3, 1, 2), affine=affine)
    one, other = (take_sample("head", output, plane) for output in (upright, turned))
    assert (one.image == other.image).all()
    assert (one.maps["truth"] == other.maps["truth"]).all()


def test_long_voxels_are_drawn_long() -> None:
    one = item(0, torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0])))
    one["pred"] = one["label"]
    assert take_sample("head", one, "axial").aspect == 1
    coronal = take_sample("head", one, "coronal")
    assert coronal.aspect == 3
    assert draw([coronal], panel=96).height == pytest.approx(96 + 24, abs=1)


def test_without_truth_the_prediction_chooses_the_slice() -> None:
    one = item(0)
    prediction = torch.zeros(1, 12, 10, 8)
    prediction[:, 4:8, 4:8, 2] = 1
    sample = take_sample("head", {"image": one["image"].as_tensor(), "pred": prediction}, "axial")
    assert (sample.title, list(sample.maps)) == ("head  axial 3/8", ["prediction"])
    empty = take_sample("head", {"image": prediction, "label": prediction * 0, "pred": prediction}, "axial")
    assert empty.title == "head  axial 3/8"


def test_pictures_keep_their_colours_and_probabilities_are_cut() -> None:
    image = torch.rand(3, 20, 30)
    image[0] += 1
    output = {"image": image, "label": torch.zeros(1, 20, 30), "pred": torch.full((1, 20, 30), 0.7)}
    sample = take_sample("photo", output, "axial")
    assert sample.image.shape == (30, 20, 3)  # MONAI reads pictures as (x, y)
    assert sample.image[..., 0].mean() > sample.image[..., 1].mean() + 50
    assert (sample.maps["prediction"] == 1).all()


def test_what_cannot_be_drawn_does_not_stop_the_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = evaluator_of([SampleOverlays(tmp_path)], count=1)
    evaluator.inferer = lambda image, network: image[..., :2]
    evaluator.run()
    assert "head-0: not drawn, image, label and pred must be of one grid" in caplog.text
    assert not (tmp_path / "overlays").exists()


@pytest.mark.parametrize("wrong", [{"interval": 0}, {"cases": 0}, {"plane": "oblique"}])
def test_senseless_settings_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be"):
        SampleOverlays(tmp_path, **wrong)


def test_tensorboard_gets_the_picture(tmp_path: Path) -> None:
    evaluator_of([SampleOverlays(tmp_path, cases=1, log_dir=tmp_path / "board")]).run(7)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    shown = events.Images("overlays")
    assert [event.step for event in shown] == [7]
    with Image.open(tmp_path / "overlays" / "epoch_0007.png") as picture:
        assert (shown[0].width, shown[0].height) == picture.size


def mlflow_of(folder: Path) -> MLFlowHandler:
    # as `--tracking mlflow` makes it
    return MLFlowHandler(tracking_uri=f"sqlite:///{folder}/mlruns.db", iteration_log=False, run_name="demo")


def artifacts_of(folder: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments)
    assert len(runs) == 1
    return [entry.path for entry in client.list_artifacts(runs[0].info.run_id, "overlays")]


@pytest.fixture
def no_mlflow_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_mlflow_elsewhere")
def test_mlflow_gets_the_picture_through_the_evaluator(tmp_path: Path) -> None:
    # tracking appends its handler at the end
    evaluator_of([SampleOverlays(tmp_path, cases=1), mlflow_of(tmp_path)]).run(2)
    assert artifacts_of(tmp_path) == ["overlays/epoch_0002.png"]


@pytest.mark.usefixtures("no_mlflow_elsewhere")
def test_mlflow_gets_the_picture_through_the_trainer(tmp_path: Path) -> None:
    overlays = SampleOverlays(tmp_path, cases=1)
    evaluator = evaluator_of([overlays])
    network = torch.nn.Conv3d(1, 1, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset([item(0)]), batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.MSELoss(),
        train_handlers=[ValidationHandler(1, evaluator), overlays, mlflow_of(tmp_path)],
    )
    trainer.run()
    assert artifacts_of(tmp_path) == ["overlays/epoch_0001.png"]


def prompted(number: int, record: object, as_list: bool = False) -> dict[str, torch.Tensor]:
    """A case whose prediction is its truth and remembers its prompts, as the inferer leaves it."""
    one = item(number)
    text = record if isinstance(record, str) else json.dumps(record)
    one["pred"] = MetaTensor(one["label"].as_tensor().clone(), affine=torch.eye(4))
    one["pred"].meta["prompts"] = [text] if as_list else text
    return one


def one_slice(kind: str, plane: str = "axial", **entry: object) -> dict[str, object]:
    return {"plane": plane, "prompt_source": "self", "slices": [{"index": 5, "prompt": kind, "box": None, **entry}]}


# axial slice 5 of `item`: the object of class 1 is in columns 8 to 10 and rows 1 to 3 of the upright slice
BOX = [8, 1, 10, 3]


@pytest.mark.parametrize("as_list", [False, True])
def test_box_is_drawn_around_the_object(as_list: bool) -> None:
    sample = take_sample("head", prompted(0, one_slice("self", box=BOX), as_list), "axial")
    assert sample.prompt is not None
    assert sample.prompt.text == "self-prompt box"
    picture = np.asarray(draw([sample], panel=240)).astype(int)[18:218]  # 20 pixels to each of the slice
    truth, prediction = (picture[:, left : left + 240] for left in (6 + 246, 6 + 2 * 246))
    rows, columns = np.nonzero((prediction == 255).all(-1) & (truth != 255).any(-1))
    assert (columns.min(), columns.max()) == (8 * 20, 11 * 20 - 1)
    assert (rows.min(), rows.max()) == (1 * 20, 4 * 20 - 1)
    changed = (prediction != truth).any(-1)
    assert not changed[25:75, 165:215].any()  # within the box, and far from it, nothing is covered
    assert not changed[:, :150].any()


def test_box_of_a_volume_with_other_axes_is_drawn_at_the_same_place() -> None:
    one = prompted(0, one_slice("self", box=BOX))
    turned = {}
    for key, value in one.items():
        affine = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
        affine[0, 3] = value.shape[1] - 1
        flipped = MetaTensor(value.as_tensor().flip(1).permute(0, 3, 1, 2), affine=affine[:, [2, 0, 1, 3]])
        flipped.meta["prompts"] = value.meta.get("prompts", "")
        turned[key] = flipped
    pictures = [np.asarray(draw([take_sample("head", output, "axial")])) for output in (one, turned)]
    assert (pictures[0] == pictures[1]).all()


def test_points_are_drawn_as_plus_and_minus() -> None:
    points = one_slice("points", points=[[2, 6, 1], [5, 6, 0]])
    sample = take_sample("head", prompted(0, points), "axial")
    without = take_sample("head", prompted(0, one_slice("null")), "axial")
    after, before = (np.asarray(draw([found], panel=240))[18:218, 6 + 2 * 246 : 738] for found in (sample, without))
    rows, columns = np.nonzero((after == 255).all(-1) & (before != 255).any(-1))
    plus, minus = columns < 80, columns >= 80
    assert (np.ptp(rows[plus]), np.ptp(columns[plus])) == (8, 8)
    assert (np.ptp(rows[minus]), np.ptp(columns[minus])) == (0, 8)


def test_box_that_leaves_the_slice_is_drawn_along_its_border() -> None:
    sample = take_sample("head", prompted(0, one_slice("box", box=[-9, -9, 99, 99])), "axial")
    picture = np.asarray(draw([sample], panel=240))
    assert picture.shape[1] == 3 * 246 + 6
    assert (picture[18 + 1, 6 + 2 * 246 + 1 : 738] == 255).all(-1).sum() > 100


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        {"slices": 3},
        {"slices": [{"index": 5, "prompt": "self", "box": [1]}]},
        one_slice("self", "coronal", box=BOX),
        {"plane": "axial", "slices": []},
    ],
)
def test_case_without_a_usable_record_is_drawn_without_a_box(record: object) -> None:
    assert take_sample("head", prompted(0, record), "axial").prompt is None


def test_record_of_a_picture_needs_no_plane() -> None:
    pred = MetaTensor(torch.zeros(1, 9, 7))
    pred.meta["prompts"] = json.dumps({"slices": [{"index": 0, "prompt": "self", "box": [1, 1, 3, 4]}]})
    sample = take_sample("photo", {"image": torch.rand(1, 9, 7), "pred": pred}, "axial")
    assert sample.prompt is not None
    assert sample.prompt.box == (1, 1, 3, 4)


def test_boxes_reach_the_picture_through_an_evaluator(tmp_path: Path) -> None:
    def infer(image: MetaTensor, network: torch.nn.Module) -> MetaTensor:
        pred = MetaTensor((image > 1).float()).copy_meta_from(image)
        pred.meta["prompts"] = [json.dumps(one_slice("self", box=BOX))] * len(image)
        return pred

    overlays = SampleOverlays(tmp_path, cases=2, panel=240)
    evaluator = evaluator_of([overlays], count=2)
    evaluator.inferer = infer
    evaluator.run(1)
    assert [sample.prompt and sample.prompt.box for sample in overlays._samples] == [tuple(BOX)] * 2

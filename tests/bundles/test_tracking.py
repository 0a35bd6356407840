# SPDX-License-Identifier: Apache-2.0
"""TensorBoard and MLflow both get the loss, the metric and the sample pictures of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bundles.profiles import Profile
from tests.bundles.runs import TRAIN, read_json, run

mlflow = pytest.importorskip("mlflow", reason='pip install "monai-ext[tracking]"')
board = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason='pip install "monai-ext[tracking]"'
)


@pytest.fixture(scope="module")
def tracked(profile: Profile, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run of two epochs with both."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        run(profile.name, "training", TRAIN, folder, data, tracking="mlflow", tensorboard=True, max_epochs=2)
        assert list(Path.cwd().iterdir()) == []
    return folder / "eval"


@pytest.fixture(scope="module")
def epochs(tracked: Path) -> list[dict[str, Any]]:
    return read_json(tracked / "history.json")["epochs"]


def test_tensorboard_shows_loss_metric_and_pictures(tracked: Path, epochs: list[dict[str, Any]]) -> None:
    events = board.EventAccumulator(str(tracked)).Reload()
    loss = [event.value for event in events.Scalars("train_loss")]
    assert len(loss) == 8  # four batches an epoch
    assert sum(loss[:4]) / 4 == pytest.approx(epochs[0]["train_loss"], rel=0.2)  # its last batch is smaller
    dice = [event.value for event in events.Scalars("mean_dice")]
    assert dice == pytest.approx([epoch["val_mean_dice"] for epoch in epochs], abs=1e-5)
    pictures = events.Images("overlays")
    assert [picture.step for picture in pictures] == [1, 2]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert pictures[0].width > pictures[0].height / 4


def test_mlflow_keeps_loss_metric_and_pictures_in_its_database(tracked: Path, epochs: list[dict[str, Any]]) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{tracked / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("monai_experiment")
    (tracked_run,) = client.search_runs([experiment.experiment_id])
    number = tracked_run.info.run_id
    assert tracked_run.info.status == "FINISHED"
    assert tracked_run.data.params["max_epochs"] == "2"
    assert len(client.get_metric_history(number, "train_loss")) == 8
    dice = [entry.value for entry in client.get_metric_history(number, "mean_dice")]
    assert dice == pytest.approx([epoch["val_mean_dice"] for epoch in epochs], abs=1e-5)
    for name in ("epoch_0001.png", "epoch_0002.png"):
        assert f"overlays/{name}" in {artifact.path for artifact in client.list_artifacts(number, "overlays")}
        kept = next((tracked / "mlruns").glob(f"{number}/artifacts/overlays/{name}"))
        assert kept.read_bytes() == (tracked / "overlays" / name).read_bytes()


def test_without_either_nothing_of_them_is_written(trained: Path) -> None:
    files = {path.name for path in (trained / "eval").iterdir()}
    assert not any(name.startswith(("events", "mlruns")) for name in files)

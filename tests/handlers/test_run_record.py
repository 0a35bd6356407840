# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: finished, failed, interrupted, resumed, validated, in one process and in two."""

from __future__ import annotations

import contextlib
import gc
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler, StatsHandler, ValidationHandler

from monai_ext import __version__
from monai_ext.engines import GuardedTrainer
from monai_ext.handlers import RunCheckpoint, RunRecord
from monai_ext.handlers._provenance import bundle_identity, command_line, config_files_of


class Metric:
    """Gives an evaluator a metric that follows a list, an entry per epoch."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        engine.state.metrics["mean_dice"] = self.values[engine.state.epoch - 1]
        engine.state.metrics["confusion"] = torch.zeros(2, 2)


class StopAt:
    """Ends training in the middle of an epoch, as an interrupt or an error."""

    def __init__(self, iteration: int, error: BaseException) -> None:
        self.iteration, self.error = iteration, error

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self.stop)

    def stop(self, engine: Engine) -> None:
        raise self.error


def items(count: int = 5) -> list[dict[str, torch.Tensor]]:
    numbers = torch.Generator().manual_seed(0)
    return [{key: torch.rand(1, generator=numbers) for key in ("image", "label")} for _ in range(count)]


def trainer_of(
    folder: Path,
    epochs: int = 4,
    values: list[float] | None = None,
    interval: int = 1,
    first: bool = True,
    before: list[Any] | None = None,
    extra: list[Any] | None = None,
    resume: bool = False,
    checkpoint: bool = True,
    data: list[dict[str, torch.Tensor]] | None = None,
    rate: float = 0.1,
    knobs: dict[str, Any] | None = None,
) -> tuple[GuardedTrainer, RunRecord]:
    """A tiny training with a record, a validation, a learning-rate schedule and a checkpoint."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).requires_grad_(False))
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items()), batch_size=5),
        network=network,
        val_handlers=[Metric(values or [0.1, 0.4, 0.3, 0.4, 0.2, 0.1])],
    )
    record = RunRecord(
        folder,
        "toy",
        knobs=knobs or {"batch_size": 2, "device": torch.device("cpu"), "image_size": (8, 8)},
        network=network,
        seed=3,
        evaluator=evaluator,
        key_metric="mean_dice",
        config_files=["train.json"],
    )
    schedule = LrScheduleHandler(torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5), print_lr=False)
    validation = ValidationHandler(interval=interval, validator=evaluator)
    objects = {"network": network, "optimizer": optimizer, "record": record}
    saving = [RunCheckpoint(folder, objects, resume=resume)] if checkpoint else []
    trainer = GuardedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(data or items()), batch_size=2),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        train_handlers=[
            *(before or []),
            *([record] if first else []),
            schedule,
            validation,
            *([] if first else [record]),
            *(extra or []),
            *saving,
        ],
    )
    return trainer, record


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_run_says_what_was_run_and_with_what(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path)
    trainer.run()
    run = read(tmp_path, "run.json")
    assert set(run) == {
        "bundle", "bundle_version", "files", "started", "finished", "seconds", "status", "seed", "knobs",
        "config_files", "command", "versions", "hardware", "parameters", "best", "device",
    }  # fmt: skip
    assert (run["bundle"], run["status"], run["seed"], run["device"]) == ("toy", "finished", 3, "cpu")
    assert run["knobs"] == {"batch_size": 2, "device": "cpu", "image_size": [8, 8]}
    assert run["parameters"] == {"trainable": 2, "total": 4}
    assert set(run["versions"]) == {"python", "torch", "monai", "monai_ext", "ignite", "numpy"}
    assert run["versions"]["monai_ext"] == __version__
    assert run["hardware"]["processes"] == 1
    assert run["hardware"]["cores"] >= 1
    assert run["hardware"]["cpu"]
    assert run["started"] <= run["finished"]
    assert run["seconds"] > 0


def test_the_history_has_loss_rate_and_validation_of_each_epoch(tmp_path: Path) -> None:
    losses: dict[int, list[float]] = {}
    trainer, _ = trainer_of(tmp_path, interval=2)

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine: Engine) -> None:
        losses.setdefault(engine.state.epoch, []).extend(float(one["loss"]) for one in engine.state.output)

    trainer.run()
    rows = read(tmp_path, "history.json")["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [len(losses[row["epoch"]]) for row in rows] == [5] * 4
    for row in rows:
        assert row["train_loss"] == pytest.approx(sum(losses[row["epoch"]]) / 5, rel=1e-6)
    assert [row["learning_rate"] for row in rows] == [0.1, 0.05, 0.025, 0.0125]
    assert [row.get("val_mean_dice") for row in rows] == [None, 0.4, None, 0.4]
    assert "val_confusion" not in rows[1]
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 for row in rows)


def test_the_best_epoch_is_the_first_of_equals(tmp_path: Path) -> None:
    trainer_of(tmp_path)[0].run()
    assert read(tmp_path, "run.json")["best"] == {"metric": "mean_dice", "value": 0.4, "epoch": 2}


def test_it_does_not_matter_whether_record_or_validation_comes_first(tmp_path: Path) -> None:
    for name, first in (("record", True), ("validation", False)):
        trainer_of(tmp_path / name, first=first)[0].run()
    one, other = (read(tmp_path / name, "history.json")["epochs"] for name in ("record", "validation"))
    for row in [*one, *other]:
        del row["seconds"], row["processor_seconds"]
    assert one == other


def test_files_are_up_to_date_while_the_run_goes_on(tmp_path: Path) -> None:
    seen = []
    trainer, _ = trainer_of(tmp_path)

    @trainer.on(Events.ITERATION_COMPLETED)
    def look(engine: Engine) -> None:
        history = tmp_path / "history.json"
        count = len(read(tmp_path, "history.json")["epochs"]) if history.exists() else 0
        seen.append((engine.state.epoch, read(tmp_path, "run.json")["status"], count))

    trainer.run()
    assert set(seen) == {(epoch, "running", epoch - 1) for epoch in (1, 2, 3, 4)}


def test_an_error_is_recorded_and_raised(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, extra=[StopAt(5, ValueError("scan is broken"))])
    with pytest.raises(ValueError, match="scan is broken"):
        trainer.run()
    run = read(tmp_path, "run.json")
    assert (run["status"], run["error"]) == ("failed", "ValueError: scan is broken")
    assert run["finished"] is not None
    assert len(read(tmp_path, "history.json")["epochs"]) == 1


def test_an_interrupt_is_recorded(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, extra=[StopAt(5, KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert read(tmp_path, "run.json")["status"] == "failed"


def test_a_run_whose_end_another_handler_hides_has_failed(tmp_path: Path) -> None:
    trainer, record = trainer_of(tmp_path, before=[StatsHandler()], extra=[StopAt(5, ValueError("broken"))])
    with contextlib.suppress(ValueError):  # pytest.raises would keep the trainer alive with the traceback
        trainer.run()
    assert read(tmp_path, "run.json")["status"] == "running"
    del trainer, record
    gc.collect()
    run = read(tmp_path, "run.json")
    assert (run["status"], run["error"]) == ("failed", "ended early, see the log")


def without_times(folder: Path) -> list[dict[str, Any]]:
    rows = read(folder, "history.json")["epochs"]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]


def test_a_resumed_run_goes_on_with_the_history(tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole")[0].run()
    stopped, _ = trainer_of(tmp_path / "parts", extra=[StopAt(8, ValueError("stop"))])
    with pytest.raises(ValueError, match="stop"):
        stopped.run()
    before = read(tmp_path / "parts", "run.json")
    trainer_of(tmp_path / "parts", resume=True)[0].run()
    after = read(tmp_path / "parts", "run.json")
    assert len(without_times(tmp_path / "parts")) == 4
    assert [row["val_mean_dice"] for row in without_times(tmp_path / "parts")] == [0.1, 0.4, 0.3, 0.4]
    assert without_times(tmp_path / "parts")[:2] == without_times(tmp_path / "whole")[:2]
    assert after["started"] == before["started"]
    assert after["seconds"] > before["seconds"]
    assert after["status"] == "finished"
    assert "error" not in after
    assert not (tmp_path / "parts" / "run_backup_1.json").exists()


def test_epochs_after_the_restored_one_are_dropped(tmp_path: Path) -> None:
    trainer, record = trainer_of(tmp_path, epochs=3, checkpoint=False)
    trainer.run()
    state = json.loads(json.dumps(record.state_dict()))  # plain values only
    again, resumed = trainer_of(tmp_path, epochs=2, checkpoint=False)
    resumed.load_state_dict(state)

    @again.on(Events.STARTED)
    def restore(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = 1, engine.state.epoch_length

    seen = []

    @again.on(Events.EPOCH_STARTED)
    def look(engine: Engine) -> None:
        seen.append([row["epoch"] for row in resumed.state_dict()["epochs"]])

    again.run()
    assert seen == [[1]]
    assert [row["epoch"] for row in read(tmp_path, "history.json")["epochs"]] == [1, 2]
    assert without_times(tmp_path)[0]["train_loss"] == state["epochs"][0]["train_loss"]


def test_a_record_outside_the_checkpoint_goes_on_from_its_file(tmp_path: Path) -> None:
    trainer_of(tmp_path, epochs=2, checkpoint=False)[0].run()
    before, run = without_times(tmp_path), read(tmp_path, "run.json")
    again, _ = trainer_of(tmp_path, epochs=3, checkpoint=False)

    @again.on(Events.STARTED)
    def restore(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = 2, 2 * engine.state.epoch_length

    again.run()
    assert without_times(tmp_path)[:2] == before
    assert len(without_times(tmp_path)) == 3
    assert read(tmp_path, "run.json")["started"] == run["started"]
    assert read(tmp_path, "run.json")["seconds"] > run["seconds"]


def test_resuming_a_finished_run_loses_nothing(tmp_path: Path) -> None:
    trainer_of(tmp_path)[0].run()
    before = read(tmp_path, "history.json"), read(tmp_path, "run.json")["best"]
    trainer_of(tmp_path, resume=True)[0].run()
    assert (read(tmp_path, "history.json"), read(tmp_path, "run.json")["best"]) == before
    assert read(tmp_path, "run.json")["status"] == "finished"


def test_a_new_run_keeps_the_record_of_the_old_one(tmp_path: Path) -> None:
    trainer_of(tmp_path, epochs=2)[0].run()
    old = read(tmp_path, "run.json"), read(tmp_path, "history.json")
    trainer_of(tmp_path, epochs=1)[0].run()
    assert (read(tmp_path, "run_backup_1.json"), read(tmp_path, "history_backup_1.json")) == old
    assert len(read(tmp_path, "history.json")["epochs"]) == 1


def test_a_run_that_is_refused_at_its_start_leaves_the_files_alone(tmp_path: Path) -> None:
    trainer_of(tmp_path, epochs=2)[0].run()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    trainer, _ = trainer_of(tmp_path)

    @trainer.on(Events.STARTED)
    def refuse(engine: Engine) -> None:
        raise ValueError("checkpoint of another network")

    with pytest.raises(ValueError, match="another network"):
        trainer.run()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_an_evaluation_has_its_own_file(tmp_path: Path) -> None:
    trainer_of(tmp_path, epochs=1)[0].run()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    network = torch.nn.Linear(1, 1)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items()), batch_size=5),
        network=network,
        val_handlers=[Metric([0.75]), RunRecord(tmp_path, "toy", {"amp": False}, network, seed=0)],
    )
    evaluator.run()
    written = read(tmp_path, "evaluation.json")
    assert (written["status"], written["metrics"], written["knobs"]) == (
        "finished",
        {"mean_dice": 0.75},
        {"amp": False},
    )
    (tmp_path / "evaluation.json").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_parameters_are_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="monai_ext"):
        trainer_of(tmp_path, epochs=1)[0].run()
    assert "2 trainable of 4 parameters (50.00 %)" in caplog.text


def test_name_and_version_come_from_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "my_bundle"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text('{"version": "0.3.1"}', encoding="utf-8")
    expected = {"bundle": "my_bundle", "bundle_version": "0.3.1"}
    assert bundle_identity(root) == expected
    monkeypatch.chdir(root)
    assert bundle_identity(".") == expected
    assert bundle_identity("toy") == {"bundle": "toy", "bundle_version": None}


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["run", "--config_file", "a.json"], ["a.json"]),
        (["run", "--config-file=b.json", "--seed", "1"], ["b.json"]),
        (["run", "--config_file", "['a.json','b.json']"], ["a.json", "b.json"]),
        (["run", "training"], []),
    ],
)
def test_config_files_are_found_in_the_command(words: list[str], files: list[str]) -> None:
    assert config_files_of(words) == files


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/usr/bin/python3", "-m", "monai.bundle", "run", "--config_file", "['a.json', 'b.json']"]
    monkeypatch.setattr(sys, "orig_argv", words)
    assert shlex.split(command_line()) == ["python3", *words[1:]]


def run_process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # a rate of zero, so that both see the losses of the untrained network
    trainer, _ = trainer_of(
        folder / f"written-by-{rank}", checkpoint=False, epochs=1, data=items(6)[rank * 2 :][: 2 + 2 * rank], rate=0.0
    )
    trainer.run()
    dist.destroy_process_group()


def test_two_processes_record_the_mean_over_all_samples(tmp_path: Path) -> None:
    trainer_of(tmp_path / "alone", checkpoint=False, epochs=1, data=items(6), rate=0.0)[0].run()
    processes = mp.start_processes(run_process, (tmp_path,), nprocs=2, join=False, start_method="fork")
    assert any(processes.join(timeout=120) for _ in range(3))
    assert not (tmp_path / "written-by-1").exists()
    rows = without_times(tmp_path / "written-by-0")
    expected = without_times(tmp_path / "alone")
    assert rows[0].pop("train_loss") == pytest.approx(expected[0].pop("train_loss"), rel=1e-6)
    assert rows == expected
    assert read(tmp_path / "written-by-0", "run.json")["hardware"]["processes"] == 2

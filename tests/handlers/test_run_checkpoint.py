# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from resumable_run import build

from monai_ext.errors import InputError
from monai_ext.handlers.run_checkpoint import RunCheckpoint

EPOCHS = 3


@pytest.fixture(autouse=True)
def _one_thread(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "monai_ext")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def finished(folder: Path, **settings: object) -> torch.nn.Module:
    """Train some epochs and return the network."""
    trainer, network, *_ = build(folder, **{"max_epochs": EPOCHS, **settings})
    trainer.run()
    return network


def epoch_in(file: Path) -> int:
    return torch.load(file, weights_only=True)["trainer"]["epoch"]


def test_the_last_two_epochs_are_kept(tmp_path: Path) -> None:
    finished(tmp_path)
    assert epoch_in(tmp_path / "checkpoint.pt") == EPOCHS
    assert epoch_in(tmp_path / "checkpoint_previous.pt") == EPOCHS - 1


def test_interval_saves_every_other_epoch_and_the_last(tmp_path: Path) -> None:
    finished(tmp_path, interval=2)
    assert epoch_in(tmp_path / "checkpoint.pt") == 3
    assert epoch_in(tmp_path / "checkpoint_previous.pt") == 2


def test_resume_without_a_checkpoint_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished(tmp_path, resume=True)
    assert "there is no checkpoint yet" in caplog.text
    assert epoch_in(tmp_path / "checkpoint.pt") == EPOCHS


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "missing"])
def test_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    weights = finished(tmp_path).state_dict()
    newest = tmp_path / "checkpoint.pt"
    content = bytearray(newest.read_bytes())
    content[content.index(b"best_metric")] ^= 1  # a flipped bit that torch.load alone would not notice
    damages = {"truncated": content[: len(content) // 2], "empty": b"", "flipped": content}
    newest.unlink() if damage == "missing" else newest.write_bytes(damages[damage])

    resumed = finished(tmp_path, resume=True).state_dict()

    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)
    assert f"of epoch {EPOCHS - 1}" in caplog.text
    assert (tmp_path / "checkpoint_damaged_1.pt").exists() == (damage != "missing")
    assert epoch_in(tmp_path / "checkpoint_previous.pt") == EPOCHS - 1


def test_two_damaged_checkpoints_are_refused_and_kept(tmp_path: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint_previous.pt"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="no checkpoint can be read"):
        finished(tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"not a checkpoint"


def test_another_architecture_is_refused_by_its_first_different_weights(tmp_path: Path) -> None:
    finished(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    trainer, network, *_ = build(tmp_path, resume=True, channels=6, max_epochs=EPOCHS)
    untouched = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"network\.0\.weight is 4x1x3x3 there and 6x1x3x3 here.*without --resume"):
        trainer.run()
    torch.testing.assert_close(network.state_dict(), untouched, rtol=0, atol=0)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_other_knobs_are_refused_by_name(tmp_path: Path) -> None:
    finished(tmp_path, fingerprint={"batch_size": 2, "image_size": (8, 8), "backbone": "tiny"})
    knobs = {"batch_size": 4, "image_size": [8, 8], "backbone": "tiny", "tuning": "lora"}
    with pytest.raises(
        InputError, match=r'run: batch_size is 2 there and 4 here; tuning is missing there and "lora" here\. Use'
    ):
        finished(tmp_path, resume=True, fingerprint=knobs)


def test_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="is not a checkpoint of a run"):
        finished(tmp_path, resume=True)


def test_objects_of_another_run_are_refused(tmp_path: Path) -> None:
    net = torch.nn.Linear(1, 1)
    run(RunCheckpoint(tmp_path, {"network": net}))
    with pytest.raises(InputError, match="ema is in only one of the two"):
        run(RunCheckpoint(tmp_path, {"network": net, "ema": net}, resume=True))


def test_finished_run_says_so_and_does_not_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = finished(tmp_path).state_dict()
    trainer, network, *_ = build(tmp_path, resume=True, max_epochs=EPOCHS)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("trained"))
    completed = []
    trainer.add_event_handler(Events.COMPLETED, lambda: completed.append(True))
    trainer.run()
    assert "all 3 epochs are done" in caplog.text
    assert completed == [True]
    torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)


def test_longer_run_goes_on_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished(tmp_path)
    finished(tmp_path, resume=True, max_epochs=EPOCHS + 1)
    assert "max_epochs was 3 and is now 4" in caplog.text
    assert "training goes on with epoch 4 of 4" in caplog.text
    assert epoch_in(tmp_path / "checkpoint.pt") == 4


def test_new_run_keeps_the_older_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finished(tmp_path)
    older = (tmp_path / "checkpoint.pt").read_bytes()
    finished(tmp_path, max_epochs=1)
    assert (tmp_path / "checkpoint_backup_1.pt").read_bytes() == older
    assert "checkpoint_backup_1.pt; to go on with that run" in caplog.text
    assert epoch_in(tmp_path / "checkpoint.pt") == 1


def test_crash_in_the_first_epoch_of_a_new_run_does_not_resume_the_older_run(tmp_path: Path) -> None:
    finished(tmp_path)
    trainer, *_ = build(tmp_path, max_epochs=EPOCHS)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), crash)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    trainer, _, _, history = build(tmp_path, resume=True, max_epochs=1)
    trainer.run()
    assert [row["epoch"] for row in history.rows] == [1]


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tmp-abc-checkpoint.pt").touch()
    (tmp_path / ".tmp-abc-model.pt").touch()
    finished(tmp_path, max_epochs=1)
    assert not list(tmp_path.glob(".tmp-*"))


def test_full_disk_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"checkpoint\.pt: could not be written .*No space left"):
        run(RunCheckpoint(tmp_path, {"network": torch.nn.Linear(1, 1)}), fresh=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_early_stop_between_two_intervals_is_saved(tmp_path: Path) -> None:
    trainer, *_ = build(tmp_path, interval=5, max_epochs=4)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: trainer.terminate())
    trainer.run()
    assert epoch_in(tmp_path / "checkpoint.pt") == 2


def test_stop_in_the_middle_of_an_epoch_is_not_saved(tmp_path: Path) -> None:
    trainer, *_ = build(tmp_path, max_epochs=4)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=8), lambda: trainer.terminate())
    trainer.run()
    assert epoch_in(tmp_path / "checkpoint.pt") == 1


def test_state_that_could_not_be_loaded_again_is_refused_at_the_first_save(tmp_path: Path) -> None:
    class Careless:
        def state_dict(self) -> dict[str, object]:
            return {"rows": [{1, 2}]}

        def load_state_dict(self, state: dict[str, object]) -> None: ...

    with pytest.raises(TypeError, match=r"objects\['record'\]\['rows'\]\[0\] is a set"):
        run(RunCheckpoint(tmp_path, {"record": Careless()}))


def test_best_metric_of_trainer_and_evaluator_come_back(tmp_path: Path) -> None:
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.75, 2
    run(RunCheckpoint(tmp_path, {"evaluator": evaluator}))
    other = Engine(lambda engine, batch: None)
    run(RunCheckpoint(tmp_path, {"evaluator": other}, resume=True))
    assert (other.state.best_metric, other.state.best_metric_epoch) == (0.75, 2)


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("False", False), (True, True)])
def test_resume_understands_the_command_line(tmp_path: Path, given: bool | str, meant: bool) -> None:
    assert RunCheckpoint(tmp_path, {}, resume=given).resume is meant


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume must be true or false, got 'yes'"):
        RunCheckpoint(tmp_path, {}, resume="yes")
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        RunCheckpoint(tmp_path, {}, interval=0)


def run(checkpoint: RunCheckpoint, fresh: bool = True) -> None:
    """Run one epoch of an engine that does nothing, or only save."""
    engine = Engine(lambda engine, batch: None)
    if fresh:
        checkpoint.attach(engine)
        engine.run([0], max_epochs=1)
    else:
        checkpoint.save(engine)


def crash() -> None:
    raise KeyboardInterrupt

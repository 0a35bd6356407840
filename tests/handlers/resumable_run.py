# SPDX-License-Identifier: Apache-2.0
"""A tiny training run, and a driver that kills it with SIGKILL at given moments and starts it again.

``python resumable_run.py FOLDER SEED`` imports torch once and forks a fresh process for every start. The driver
itself never computes anything, so that its children start with clean thread pools. All slowing down is done here,
by replacing `torch.save` and `os.replace` in the child.
"""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler, MeanSquaredError, ValidationHandler, from_engine
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd
from torch import nn

from monai_ext.engines import GuardedTrainer
from monai_ext.handlers.best_model import BestModel
from monai_ext.handlers.epoch_seed import EpochSeed
from monai_ext.handlers.run_checkpoint import RunCheckpoint

EPOCHS = 10


class History:
    """Stands for the run record: something in the checkpoint that is neither network nor optimizer."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def attach(self, trainer: GuardedTrainer) -> None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: GuardedTrainer) -> None:
        rate = trainer.optimizer.param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.state.epoch, "loss": trainer.state.output[0]["loss"], "rate": rate})

    def state_dict(self) -> dict[str, object]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, list[dict[str, float]]]) -> None:
        self.rows = list(state["rows"])


def tiny_network(channels: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(channels, 1, 1),
    )


def items(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    numbers = torch.Generator().manual_seed(seed)
    return [{k: torch.rand(1, 8, 8, generator=numbers) for k in ("image", "label")} for _ in range(count)]


def build(
    folder: Path,
    resume: bool | str = False,
    channels: int = 4,
    max_epochs: int = EPOCHS,
    fingerprint: dict[str, object] | None = None,
    interval: int = 1,
    pause: float = 0.0,
) -> tuple[GuardedTrainer, nn.Module, torch.optim.Optimizer, History]:
    """Return a trainer with everything that a bundle's train.json has, in its order."""
    network: nn.Module = tiny_network(channels)
    if dist.is_initialized():
        network = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    transform = Compose([RandGaussianNoised("image", prob=1.0), RandShiftIntensityd("image", offsets=0.1, prob=0.5)])
    data = Dataset(items(12, seed=1), transform)
    sampler = DistributedSampler(data, seed=3) if dist.is_initialized() else None
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items(2, seed=2)), batch_size=2),
        network=network,
        key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda new, best: new < best,
    )
    history = History()
    objects = {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler, "history": history}
    trainer = GuardedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=DataLoader(data, batch_size=2, shuffle=sampler is None, sampler=sampler),
        network=network,
        optimizer=optimizer,
        loss_function=lambda pred, label: (time.sleep(pause), ((pred - label) ** 2).mean())[1],
        clip_norm=1.0,
        accumulation_steps=2,
        train_handlers=[
            EpochSeed(5),
            ValidationHandler(1, evaluator),
            LrScheduleHandler(scheduler),
            history,
            BestModel(folder, network, evaluator),
            RunCheckpoint(folder, {**objects, "evaluator": evaluator}, resume, interval, fingerprint),
        ],
    )
    return trainer, network, optimizer, history


def train(folder: Path, resume: bool, pause: float = 0.0) -> None:
    """Train to the end and leave everything that two runs should have in common in ``result.pt``."""
    trainer, network, optimizer, history = build(folder, resume, pause=pause)
    trainer.run()
    result = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history.rows,
        "best": trainer.state.best_model,
    }
    torch.save(result, folder / f"result{dist.get_rank() if dist.is_initialized() else ''}.pt")


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(seed)
    run_and_kill(folder / "whole", [])
    by_time = [("delay", chance.uniform(0.0, 0.4)) for _ in range(4)]
    by_event = [("writing", chance.randrange(1, 5)) for _ in range(3)] + [("renamed", 1)]
    moments = by_time + by_event
    chance.shuffle(moments)
    run_and_kill(folder / "killed", moments)
    run_two_processes(folder / "whole2", die_in_epoch=0)
    run_two_processes(folder / "killed2", die_in_epoch=4)
    run_two_processes(folder / "killed2", die_in_epoch=0)


def run_and_kill(folder: Path, moments: list[tuple[str, float]]) -> None:
    """Start the run once for each moment and kill it there; then start it once more and let it end."""
    folder.mkdir()
    for kind, value in moments:
        child = fork(lambda: slow_child(folder))
        killed = kill_at(child, folder / f"{kind}_{value}_{child}", value if kind == "delay" else 20)
        sys.stdout.write(f"{kind} {value:.3f} killed={killed}\n")
        sys.stdout.flush()  # or each child would write it again
    end(fork(lambda: train(folder, resume=True)))


def kill_at(child: int, marker: Path, seconds: float) -> bool:
    """Kill a child when it leaves its marker or after some seconds; return whether it was still at work."""
    started = time.monotonic()
    while time.monotonic() - started < seconds and not marker.exists():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def slow_child(folder: Path) -> None:
    """Train slowly, above all while a file is half written or half renamed, and leave a marker there."""
    save, replace = torch.save, os.replace
    counts = {"writing": 0, "renamed": 0}

    def mark(kind: str) -> None:
        counts[kind] += 1
        (folder / f"{kind}_{counts[kind]}_{os.getpid()}").touch()
        time.sleep(0.08)

    def slow_save(content: object, file: io.BufferedWriter | Path) -> None:
        if isinstance(file, Path):
            return save(content, file)
        buffer = io.BytesIO()
        save(content, buffer)
        half = buffer.tell() // 2
        file.write(buffer.getvalue()[:half])
        file.flush()
        mark("writing")
        file.write(buffer.getvalue()[half:])
        return None

    def slow_replace(source: str, target: str) -> None:
        replace(source, target)
        if "checkpoint_previous" in str(target):
            mark("renamed")

    torch.save, os.replace = slow_save, slow_replace
    train(folder, resume=True, pause=0.01)


def run_two_processes(folder: Path, die_in_epoch: int) -> None:
    """Run two gloo processes; with ``die_in_epoch`` both kill themselves when that epoch starts."""
    folder.mkdir(exist_ok=True)
    rendezvous = folder / f"rendezvous_{die_in_epoch}"
    children = [fork(lambda rank=rank: process(folder, rendezvous, rank, die_in_epoch)) for rank in (0, 1)]
    if die_in_epoch:
        for child in children:
            os.waitpid(child, 0)
    else:
        for child in children:
            end(child)


def process(folder: Path, rendezvous: Path, rank: int, die_in_epoch: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    replace = os.replace

    def noted_replace(source: str, target: str) -> None:
        with open(folder / f"written_by_{rank}", "a", encoding="utf-8") as file:
            file.write(f"{Path(target).name}\n")
        replace(source, target)

    os.replace = noted_replace
    if die_in_epoch:
        EpochSeed.__call__ = dying(EpochSeed.__call__, die_in_epoch)
    train(folder, resume=True)
    dist.destroy_process_group()


def dying(seed: Callable[..., None], epoch: int) -> Callable[..., None]:
    def call(self: EpochSeed, engine: GuardedTrainer) -> None:
        if engine.state.epoch == epoch:
            dist.barrier()
            os.kill(os.getpid(), signal.SIGKILL)
        seed(self, engine)

    return call


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        logging.basicConfig(level=logging.WARNING)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(child: int) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise SystemExit(f"a run ended with {status}")


if __name__ == "__main__":
    main()

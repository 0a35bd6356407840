# SPDX-License-Identifier: Apache-2.0
"""LossEpoch tells the epoch, from 0, and a resumed run its own."""

from __future__ import annotations

from ignite.engine import Engine

from monai_ext.handlers import LossEpoch
from monai_ext.losses import StagedSAMedLoss


def test_a_resumed_run_goes_on_with_the_epoch_it_had() -> None:
    loss, seen = StagedSAMedLoss(), []
    trainer = Engine(lambda engine, batch: seen.append(loss.epoch))
    LossEpoch(loss).attach(trainer)
    trainer.load_state_dict({"epoch": 3, "max_epochs": 5, "epoch_length": 2})
    trainer.run([0, 0])
    assert seen == [3, 3, 4, 4]

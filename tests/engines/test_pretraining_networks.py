# SPDX-License-Identifier: Apache-2.0
"""Each network of stage 1 trains in the project's trainer with its loss, which sees what the network gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from monai.engines import IterationEvents

from monai_ext.engines import GuardedTrainer
from monai_ext.losses import MaskedPatchLoss, NTXentLoss, ReconstructionLoss
from monai_ext.networks.blocks.denoising_decoder import DenoisingDecoder
from monai_ext.networks.blocks.grid_head import GridHead
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.expert_student import ExpertStudent
from monai_ext.networks.nets.headed_student import HeadedStudent
from monai_ext.networks.nets.mae import build_mae
from monai_ext.networks.nets.mae_encoder import build_mae_encoder
from monai_ext.networks.nets.resnet_sk import build_resnet_sk
from monai_ext.networks.nets.simclr import SimCLR

SIDE = 32


def student(level: str) -> ExpertStudent:
    return ExpertStudent(level, sam_type="vit_tiny", image_size=SIDE)


def distillation() -> Distillation:
    teacher = build_mae_encoder("small", SIDE)
    return Distillation(student("patch"), GridHead(256, teacher.out_channels, teacher.grid), teacher)


def denoising() -> HeadedStudent:
    return HeadedStudent(student("pixel"), DenoisingDecoder(channels=(256, 8, 8, 8, 8)))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(
    ("build", "loss", "channels"),
    [
        (distillation, ReconstructionLoss("l2"), 1),
        (denoising, ReconstructionLoss(), 1),
        (lambda: SimCLR(build_resnet_sk("small")), NTXentLoss(), 2),
        (lambda: build_mae("small", SIDE), MaskedPatchLoss(norm_pix_loss=True), 1),
    ],
)
def test_it_learns_one_batch_by_heart(
    build: Callable[[], nn.Module], loss: nn.Module, channels: int, amp: bool
) -> None:
    torch.manual_seed(0)
    network = build()
    image = torch.rand(3, channels, SIDE, SIDE)
    losses: list[float] = []
    trainer = GuardedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": image, "label": image}] * 6,
        network=network,
        optimizer=torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], lr=1e-3),
        loss_function=loss,
        amp=amp,
        clip_norm=1.0,
    )
    told = IterationEvents.LOSS_COMPLETED
    trainer.add_event_handler(told, lambda engine: losses.append(float(engine.state.output["loss"])))
    trainer.run()
    assert min(losses[-2:]) < losses[0]

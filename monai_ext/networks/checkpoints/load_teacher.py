# SPDX-License-Identifier: Apache-2.0
"""A teacher's weights, which a pre-training does not start without unless it is told to."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn as nn

from monai_ext.errors import InputError
from monai_ext.files import sha256_of
from monai_ext.networks.checkpoints.mae import load_mae
from monai_ext.networks.checkpoints.simclr import load_simclr
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.mae_encoder import MAEEncoder
from monai_ext.networks.nets.resnet_sk import ResNetSK
from monai_ext.networks.nets.simclr import SimCLR
from monai_ext.networks.nets.simclr_teacher import SimCLRTeacher

logger = logging.getLogger(__name__)

UNTRAINED = "nobody: the teacher's weights were random"
SOURCES = {
    SimCLR: "SimCLRv2's r50_2x_sk1 (gs://simclr-checkpoints/simclrv2/pretrained, Apache-2.0; how to convert it stands "
    "in docs/samora_pretraining.md), or what pretrain_image_teacher.json wrote",
    MAEEncoder: "mae_pretrain_vit_large.pth (https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth, "
    "CC BY-NC 4.0), or what pretrain_patch_teacher.json wrote",
}


def load_teacher(
    network: Distillation | SimCLR | MAEEncoder, path: str | Path | None, untrained_teacher: bool = False
) -> None:
    """Load the weights of the teacher inside a distillation, or of the network that trains a teacher further.

    Of a distillation ``taught_by`` becomes the file's name and SHA-256, or says that the teacher was random; that goes
    into the expert's file.

    Args:
        network: changed in place.
        path: see `load_simclr` and `load_mae`; None (or empty) needs the next argument.
        untrained_teacher: go on with random weights where no file is given: for tries, or to train a teacher from
            nothing.

    Raises:
        InputError: no file is given and random weights are not asked for; or the file does not fit.
        ValueError: a distillation without a teacher, or with one that is of neither kind.

    Example:
        >>> from monai_ext.networks.nets.mae import build_mae
        >>> load_teacher(build_mae("small"), None)
        Traceback (most recent call last):
        ...
        monai_ext.errors.InputError: teacher_path is not set: ... or set untrained_teacher to True for a try.
    """
    simclr, mae = _kinds_of(network.teacher if isinstance(network, Distillation) else network)
    if not path and not untrained_teacher:
        source = SOURCES[SimCLR if mae is None else MAEEncoder]
        raise InputError(f"teacher_path is not set: give {source}; or set untrained_teacher to True for a try.")
    if mae is not None:
        load_mae(mae, path)
    elif isinstance(simclr, SimCLR):
        _load_projecting(simclr, path, needs_head=isinstance(network, Distillation))
    elif simclr is not None:
        load_simclr(simclr, path)
    if isinstance(network, Distillation):
        network.taught_by = f"{Path(path).name} (SHA-256 {sha256_of(path)})" if path else UNTRAINED


def _kinds_of(teacher: nn.Module | None) -> tuple[SimCLR | ResNetSK | None, MAEEncoder | None]:
    """The same weights as a network that our loaders know."""
    if isinstance(teacher, SimCLRTeacher):
        return (teacher.encoder if teacher.head is None else SimCLR(teacher.encoder, teacher.head)), None
    if isinstance(teacher, SimCLR | ResNetSK):
        return teacher, None
    if isinstance(teacher, MAEEncoder):
        return None, teacher
    raise ValueError(f"teacher must be SimCLR's network or a masked autoencoder, got {type(teacher).__name__}.")


def _load_projecting(network: SimCLR, path: str | Path | None, needs_head: bool) -> None:
    """A teacher of projections is nothing without its head; one that trains further may get a new one."""
    before = [weight.clone() for weight in network.head.parameters()]
    load_simclr(network, path)
    is_new = all(torch.equal(old, now) for old, now in zip(before, network.head.parameters(), strict=True))
    if path and needs_head and is_new:
        raise InputError(f"{path}: has no projection head; give a file with one, or set teacher_feature to pooled.")

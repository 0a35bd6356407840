# SPDX-License-Identifier: Apache-2.0
"""The expert that a pre-training leaves behind, with the licence it inherits from its teacher."""

from __future__ import annotations

from pathlib import Path

from monai_ext.networks.checkpoints.expert_file import ExpertFile
from monai_ext.networks.checkpoints.teacher_file import licence_of
from monai_ext.networks.nets.distillation import Distillation
from monai_ext.networks.nets.headed_student import HeadedStudent


def save_expert(network: HeadedStudent | Distillation, path: str | Path, licence: str = "") -> None:
    """Write the expert of a network of stage 1, without head and teacher, but with what is known of the teacher.

    Args:
        network: that was trained.
        path: of the ``.safetensors`` file.
        licence: kept with the expert; empty for the one of its teacher's weights.

    Raises:
        InputError: another ending.

    Example:
        >>> save_expert(network, "models/image_expert.safetensors")  # doctest: +SKIP
    """
    student = network.student
    taught_by = network.taught_by if isinstance(network, Distillation) else ""
    ExpertFile.of(student.image_encoder, student.level, licence or licence_of(network), taught_by).write(path)

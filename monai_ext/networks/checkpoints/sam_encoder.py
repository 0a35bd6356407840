# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's weights for its image encoder alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch.nn as nn

from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.checkpoints.sam import import_sam
from monai_ext.networks.checkpoints.sam_resize import fit_sam
from monai_ext.networks.nets.sam import SAM_PRESETS
from monai_ext.networks.state_match import check

Encoder = TypeVar("Encoder", bound=nn.Module)
PREFIX = "image_encoder."
logger = logging.getLogger(__name__)


def load_sam_encoder(encoder: Encoder, path: str | Path | None) -> Encoder:
    """Load Segment Anything's encoder into one that stands alone; its low-rank updates are not touched.

    Args:
        encoder: our encoder or the package's, of any image size, changed in place.
        path: whole weights, as published or as ``convert`` wrote them. None (or empty) leaves the encoder random, with
            a warning.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to another ``sam_type``.
    """
    if not path:
        logger.warning(
            "Segment Anything's encoder is random: no pretrained weights were given. Fetch a file that the bundle's "
            "large_files.yml names, check it with `python -m monai_ext convert`, and set `pretrained` to it."
        )
        return encoder
    imported = import_sam(read_state(path), str(path))
    sam_type = str(imported.knobs["sam_type"])
    wanted = {f"{PREFIX}{name}": weight for name, weight in encoder.state_dict().items() if "lora_" not in name}
    given = {name: w for name, w in imported.state.items() if name.startswith(PREFIX) and "lora_" not in name}
    fitted = fit_sam(given, wanted, SAM_PRESETS[sam_type].global_blocks)
    check(fitted, wanted, f"{path} ({sam_type}, image_size {imported.knobs['image_size']})")
    encoder.load_state_dict({name.removeprefix(PREFIX): weight for name, weight in fitted.items()}, strict=False)
    logger.info("Loaded Segment Anything's encoder (%s, %d keys) from %s.", sam_type, len(fitted), path)
    return encoder

# SPDX-License-Identifier: Apache-2.0
"""DeSAM's weights: Segment Anything's to start from, and those that training made, the authors' code's too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState
from monai_ext.networks.checkpoints.sam import DESAM_PART, import_sam, load_sam
from monai_ext.networks.nets.sam import PUBLISHED_TOKENS

Network = TypeVar("Network", bound=nn.Module)
HEAD = f"{DESAM_PART}seg_outputs.1.weight"


def import_desam(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Recognise the weights that DeSAM starts from, or a whole DeSAM; names are ours already.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

    Returns:
        Of kind ``sam`` (plain Segment Anything) or ``desam`` (a whole network, ours or of the published code, whose
        files have the same names). Knobs: ``sam_type``, ``image_size``, ``num_classes``, ``in_channels`` if there is
        a stem. One mask is one object with ``num_classes`` 1 or 2; 1 is taken.

    Raises:
        InputError: these are the weights of something else, or have low-rank updates, which DeSAM has no place for.

    Example:
        >>> from monai_ext.networks.nets.sam import build_plain_sam
        >>> imported = import_desam(build_plain_sam("vit_tiny", 64).state_dict())
        >>> imported.kind, imported.knobs
        ('sam', {'sam_type': 'vit_tiny', 'image_size': 64})
    """
    imported = import_sam(state, source)
    if imported.knobs.get("tuning") == "lora":
        raise InputError(
            f"{source}: has low-rank updates (LoRA), which DeSAM has no place for; merge them first, `python -m "
            "monai_ext export` writes plain_sam.pth."
        )
    kept = ("sam_type", "image_size", "in_channels")
    knobs: dict[str, object] = {name: value for name, value in imported.knobs.items() if name in kept}
    if HEAD not in imported.state:
        return replace(imported, kind="sam", knobs=knobs, foundation_only=True, ambiguous={})
    objects = imported.state[HEAD].shape[0]
    knobs["num_classes"] = 1 if objects == 1 else objects + 1
    ambiguous: dict[str, tuple[object, ...]] = {"num_classes": (1, 2)} if objects == 1 else {}
    return replace(imported, kind="desam", knobs=knobs, foundation_only=False, ambiguous=ambiguous)


def load_desam(network: Network, path: str | Path | None) -> Network:
    """Load Segment Anything into a DeSAM, whose mask module stays as initialised; see `load_sam`.

    With more objects than the published decoder has mask tokens, what belongs to single masks starts anew.
    """
    tokens = network.get_submodule("mask_decoder.mask_tokens").get_parameter("weight").shape[0]
    return load_sam(network, path, new_tokens=tokens != PUBLISHED_TOKENS)

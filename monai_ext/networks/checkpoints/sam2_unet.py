# SPDX-License-Identifier: Apache-2.0
"""SAM 2's trunk and the authors' SAM2-UNet under our names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState, State, Table, rename
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.nets.hiera import HIERA_PRESETS
from monai_ext.networks.state_match import check, first_names

Network = TypeVar("Network", bound=nn.Module)
logger = logging.getLogger(__name__)

# (pattern at the start of a published name, what to put there); a name that no row fits is left out
SAM2: Table = (
    (r"image_encoder\.trunk\.blocks\.(\d+)\.", r"encoder.blocks.\1.block."),
    (r"image_encoder\.trunk\.", "encoder."),
)
SAM2_TRUNK: Table = ((r"blocks\.(\d+)\.", r"encoder.blocks.\1.block."), (r"(pos_embed|patch_embed)", r"encoder.\1"))
SAM2_UNET: Table = ((r"(?!up4\.)", ""),)  # up4 is built by the published code and never used
OWN: Table = ((r"", ""),)


def import_sam2_unet(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Bring any of the states that SAM2-UNet can start from under the names of our network.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

    Returns:
        Of kind ``sam2`` (a whole SAM 2 or 2.1 checkpoint), ``sam2_trunk`` (its trunk alone), ``sam2_unet`` (the
        authors' SAM2-UNet), ``own`` (written by this project) or ``own_trunk`` (by its ``convert``); its knobs
        always have ``backbone``.

    Raises:
        InputError: these are the weights of something else.

    Example:
        >>> from monai_ext.networks.nets.hiera import build_sam2_trunk
        >>> imported = import_sam2_unet(build_sam2_trunk("nano").state_dict())
        >>> imported.kind, imported.knobs, len(imported.left_out)
        ('sam2_trunk', {'backbone': 'nano'}, 0)
    """
    kind, table = _recognise(state, source)
    renamed, left_out = rename(state, table)
    if kind == "own" and not any(name.startswith("rfb1.") for name in renamed):
        kind = "own_trunk"
    knobs = {"backbone": _backbone_of(renamed, source), **_knobs_of(renamed)}
    return ImportedState(renamed, kind, knobs, left_out, foundation_only=kind in ("sam2", "sam2_trunk", "own_trunk"))


def trunk_state(network: nn.Module) -> State:
    """Return the part of a SAM2-UNet's state that SAM 2 publishes: the encoder without adapters and LoRA."""
    state = network.state_dict()
    return {n: w for n, w in state.items() if n.startswith("encoder.") and not re.search(r"prompt_learn|lora_", n)}


def load_trunk(network: Network, path: str | Path | None) -> Network:
    """Load the frozen trunk of a SAM2-UNet and return the network; the rest of it is not touched.

    Args:
        network: the network, changed in place.
        path: a SAM 2 or 2.1 checkpoint as published, its trunk, what ``convert`` wrote, or a whole SAM2-UNet. None
            (or empty) leaves the trunk random, with a warning.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to another backbone.
    """
    if not path:
        logger.warning(
            "The encoder's trunk is random: no pretrained weights were given. Import SAM 2's with `python -m "
            "monai_ext convert sam2_unet --source FILE --output FILE` and set `pretrained` to the result."
        )
        return network
    imported = import_sam2_unet(read_state(path), str(path))
    weights = {n: w for n, w in imported.state.items() if not re.search(r"prompt_learn|lora_", n)}
    weights = {n: w for n, w in weights.items() if n.startswith("encoder.")}
    check(weights, trunk_state(network), f"{path} (backbone {imported.knobs['backbone']})")
    network.load_state_dict(weights, strict=False)
    logger.info("Loaded the trunk (%s, %d keys) from %s.", imported.knobs["backbone"], len(weights), path)
    return network


def _recognise(state: Mapping[str, Tensor], source: str) -> tuple[str, Table]:
    if any(name.startswith("image_encoder.trunk.") for name in state):
        return "sam2", SAM2
    if "pos_embed_window" in state and "patch_embed.proj.weight" in state:
        return "sam2_trunk", SAM2_TRUNK
    if "encoder.pos_embed_window" in state:
        return ("sam2_unet", SAM2_UNET) if any(name.startswith("up4.") for name in state) else ("own", OWN)
    raise InputError(
        f"{source}: {len(state)} keys, none of image_encoder.trunk.* (SAM 2), blocks.* with pos_embed_window (its "
        f"trunk) or encoder.* (SAM2-UNet); it begins with {first_names(state)}; these are another network's weights."
    )


def _backbone_of(renamed: State, source: str) -> str:
    """Tell the variant by its width and depth."""
    stem = renamed.get("encoder.patch_embed.proj.weight")
    width = 0 if stem is None else stem.shape[0]
    indices = {int(found[1]) for name in renamed if (found := re.match(r"encoder\.blocks\.(\d+)\.", name))}
    for name, preset in HIERA_PRESETS.items():
        if (preset.embed_dim, sum(preset.stages)) == (width, max(indices, default=-1) + 1):
            return name
    known = ", ".join(f"{n} {p.embed_dim} x {sum(p.stages)}" for n, p in HIERA_PRESETS.items() if n != "nano")
    raise InputError(
        f"{source}: a trunk of {width} channels and {max(indices, default=-1) + 1} blocks is none of SAM 2's ({known})."
    )


def _knobs_of(renamed: State) -> dict[str, object]:
    """Tell the other arguments of a whole SAM2-UNet; nothing for a trunk."""
    head, adapter = renamed.get("head.weight"), renamed.get("encoder.blocks.0.prompt_learn.0.weight")
    lora, stem = renamed.get("encoder.blocks.0.block.attn.qkv.lora_q_down"), renamed.get("stem.weight")
    if head is None:
        return {}
    knobs: dict[str, object] = {"num_classes": head.shape[0], "decoder_channels": head.shape[1]}
    knobs["decoder_attention"] = any(name.startswith("up1.gate.") for name in renamed)
    knobs["tuning"] = "adapter" if adapter is not None else "lora" if lora is not None else "full"
    if adapter is not None:
        knobs["adapter_dim"] = adapter.shape[0]
    if lora is not None:
        knobs["lora_rank"] = lora.shape[0]
    if stem is not None:
        knobs["in_channels"] = stem.shape[1]
    return knobs

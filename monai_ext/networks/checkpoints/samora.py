# SPDX-License-Identifier: Apache-2.0
"""SAMora's weights: Segment Anything's to start from, and those that training made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState, State
from monai_ext.networks.checkpoints.sam import import_sam
from monai_ext.networks.nets.sam import PUBLISHED_TOKENS

LEVELS = ("image", "patch", "pixel")
EXPERT = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.qkv\.experts\.(\w+)\.lora_q_down")
FUSION = re.compile(r"hl_attention\.(\d+)\.levels\.0\.query\.weight")
SECOND_STAGE = "second_decoder."  # H-SAM's


def import_samora(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Recognise the weights that SAMora starts from, or a whole SAMora of ours; names are ours already.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

    Returns:
        Of kind ``sam`` (plain Segment Anything) or ``samora``. Knobs: ``sam_type``, ``image_size``, ``num_classes``,
        ``decoder``, ``experts`` and, where there are any, ``lora_rank``, ``lora_blocks`` and what the shapes tell of
        HL-Attn; ``in_channels`` if there is a stem. Two masks are one object with ``num_classes`` 1 or two classes; 1
        is taken.
        How many heads HL-Attn has, its scope and its signal are not in the weights, nor is ``lora_alpha``.

    Raises:
        InputError: these are the weights of something else, or have low-rank updates of another method.

    Example:
        >>> from monai_ext.networks.nets.sam import build_plain_sam
        >>> imported = import_samora(build_plain_sam("vit_tiny", 64).state_dict())
        >>> imported.kind, imported.knobs["num_classes"], imported.knobs["decoder"], imported.knobs["experts"]
        ('sam', 4, 'samed', [])
    """
    imported = import_sam(state, source)
    if imported.knobs.get("tuning") == "lora":
        raise InputError(
            f"{source}: has low-rank updates (LoRA) that are no experts of SAMora; merge them first, `python -m "
            "monai_ext export` writes plain_sam.pth."
        )
    kept = ("sam_type", "image_size", "in_channels")
    knobs: dict[str, object] = {name: value for name, value in imported.knobs.items() if name in kept}
    tokens = imported.state["mask_decoder.mask_tokens.weight"].shape[0]
    knobs["num_classes"] = 1 if tokens == 2 else tokens
    knobs["decoder"] = "hsam" if any(name.startswith(SECOND_STAGE) for name in imported.state) else "samed"
    knobs.update(_experts_of(imported.state))
    knobs.update(_fusion_of(imported.state))
    own = knobs["experts"] or "in_channels" in knobs or knobs["decoder"] == "hsam"
    plain = tokens == PUBLISHED_TOKENS and not own
    ambiguous: dict[str, tuple[object, ...]] = {"num_classes": (1, 2)} if tokens == 2 else {}
    kind = "sam" if plain else "samora"
    return replace(imported, kind=kind, knobs=knobs, foundation_only=plain, ambiguous=ambiguous)


def _experts_of(state: State) -> dict[str, object]:
    found = {(match[2], int(match[1])): weight for name, weight in state.items() if (match := EXPERT.fullmatch(name))}
    names = {level for level, _ in found}
    knobs: dict[str, object] = {"experts": [level for level in LEVELS if level in names]}
    if found:
        blocks = sorted({index for _, index in found})
        knobs["lora_rank"] = next(iter(found.values())).shape[0]
        depth = 1 + max(int(match[1]) for n in state if (match := re.match(r"image_encoder\.blocks\.(\d+)\.", n)))
        if len(blocks) < depth:
            knobs["lora_blocks"] = blocks
    return knobs


def _fusion_of(state: State) -> dict[str, object]:
    found = {int(match[1]): weight for name, weight in state.items() if (match := FUSION.fullmatch(name))}
    if not found:
        return {}
    first = f"hl_attention.{min(found)}.levels.0"
    return {
        "hl_dim": next(iter(found.values())).shape[0],
        "hl_blocks": sorted(found),
        "hl_norm": f"{first}.norm_high.weight" in state,
        "hl_out_proj": f"{first}.proj.weight" in state,
    }

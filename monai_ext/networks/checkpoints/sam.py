# SPDX-License-Identifier: Apache-2.0
"""Segment Anything's weights: published ones, those of networks built on it, and back to the published form."""

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
from monai_ext.networks.checkpoints.sam_resize import TOKEN_PARTS, fit_sam
from monai_ext.networks.layers.lora import LoRAQKV
from monai_ext.networks.layers.lora_experts import LoRAExpertsQKV
from monai_ext.networks.nets.sam import PATCH, PUBLISHED_TOKENS, SAM_PRESETS
from monai_ext.networks.state_match import check, first_names, shape_text

Network = TypeVar("Network", bound=nn.Module)
logger = logging.getLogger(__name__)

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
DESAM_PART = "mask_decoder.pimm."  # lies among the decoder's in the published files of DeSAM
# names are ours already; some training scripts keep the pixel statistics, which are arguments here
SAM: Table = ((r"(?!pixel_mean$|pixel_std$)", ""),)


def import_sam(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Recognise Segment Anything's weights, published or trained further here, and what they tell of the network.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

    Returns:
        Of kind ``sam`` (plain Segment Anything: Meta's files, MedSAM, our own merged ones) or ``own`` (with anything
        more or fewer: low-rank updates, a stem, another number of masks). Knobs: ``sam_type``, ``image_size``,
        ``num_classes``, ``tuning`` and what belongs to it, ``in_channels`` if there is a stem.

        Four mask tokens are the published ones, of which one class uses the first, or four classes of their own;
        shapes cannot tell. Then ``knobs`` says 1 and ``ambiguous`` (1, 4): the user's own ``num_classes`` must decide.
        A scale of low-rank updates (``lora_alpha``) is not in the weights either.

    Raises:
        InputError: these are the weights of something else.

    Example:
        >>> from monai_ext.networks.nets.sam import build_plain_sam
        >>> imported = import_sam(build_plain_sam("vit_tiny", 64).state_dict())
        >>> imported.kind, imported.knobs
        ('sam', {'sam_type': 'vit_tiny', 'image_size': 64, 'num_classes': 1, 'tuning': 'full'})
    """
    renamed, left_out = rename(state, SAM)
    _require_sam(renamed, source)
    tokens = renamed["mask_decoder.mask_tokens.weight"].shape[0]
    knobs: dict[str, object] = {
        "sam_type": _type_of(renamed, source),
        "image_size": _image_size_of(renamed, source),
        "num_classes": 1 if tokens == PUBLISHED_TOKENS else tokens,
        **_tuning_of(renamed),
    }
    if "stem.weight" in renamed:
        knobs["in_channels"] = renamed["stem.weight"].shape[1]
    plain = knobs["tuning"] == "full" and tokens == PUBLISHED_TOKENS and "stem.weight" not in renamed
    ambiguous: dict[str, tuple[object, ...]] = {"num_classes": (1, tokens)} if tokens == PUBLISHED_TOKENS else {}
    return ImportedState(renamed, "sam" if plain else "own", knobs, left_out, plain, ambiguous)


def sam_state(network: nn.Module) -> State:
    """Return the part of a network's state that Segment Anything publishes: no LoRA, nothing of DeSAM's own."""
    return {n: w for n, w in network.state_dict().items() if _is_published(n)}


def load_sam(network: Network, path: str | Path | None, new_tokens: bool | None = None) -> Network:
    """Load Segment Anything into a network that has its three parts; LoRA and all else is not touched.

    Position embeddings are resized to the network's ``image_size``, see `fit_sam`.

    Args:
        network: with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``, changed in place.
        path: weights as published, or what ``convert`` wrote. None (or empty) leaves them random, with a warning.
        new_tokens: leave what belongs to single masks as initialised. None: if the network's ``num_classes`` is more
            than 1, where each class has a token of its own and the published ones mean something else.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to another ``sam_type``.
    """
    if not path:
        logger.warning(
            "Segment Anything's part of the network is random: no pretrained weights were given. Fetch a file that "
            "the bundle's large_files.yml names, check it with `python -m monai_ext convert`, and set `pretrained` to "
            "it."
        )
        return network
    if new_tokens is None:
        new_tokens = int(getattr(network, "num_classes", 1)) > 1
    imported = import_sam(read_state(path), str(path))
    sam_type, image_size = str(imported.knobs["sam_type"]), imported.knobs["image_size"]
    given = {n: w for n, w in imported.state.items() if _is_published(n)}
    wanted = sam_state(network)
    fitted = fit_sam(given, wanted, SAM_PRESETS[sam_type].global_blocks, new_tokens)
    if new_tokens:
        wanted = {n: w for n, w in wanted.items() if not n.startswith(TOKEN_PARTS)}
    check(fitted, wanted, f"{path} ({sam_type}, image_size {image_size})")
    network.load_state_dict(fitted, strict=False)
    _tell(network, imported, fitted, str(path), new_tokens)
    return network


def plain_sam_state(network: nn.Module) -> State:
    """Return copies of a network's three parts under plain Segment Anything's names, low-rank updates merged in.

    Of several experts, the selected one is merged.

    The network is left as it is. The result loads strictly into
    ``build_plain_sam(sam_type, image_size, num_mask_tokens)``; `resize_plain_sam` brings it to another size.
    """
    state = sam_state(network)
    for name, layer in network.named_modules():
        if isinstance(layer, (LoRAQKV, LoRAExpertsQKV)) and f"{name}.weight" in state:
            state[f"{name}.weight"] = layer.merged_weight()
    return {name: weight.detach().cpu().clone().contiguous() for name, weight in state.items()}


def _is_published(name: str) -> bool:
    return name.startswith(PARTS) and "lora_" not in name and not name.startswith(DESAM_PART)


def _last_part(name: str) -> str:
    return DESAM_PART.rstrip(".") if name.startswith(DESAM_PART) else name.rpartition(".")[2]


def _require_sam(state: State, source: str) -> None:
    needed = ("image_encoder.patch_embed.proj.weight", "image_encoder.pos_embed", "mask_decoder.mask_tokens.weight")
    if all(name in state for name in needed) and state[needed[1]].ndim == 4:
        return
    other = "a SAM 2 checkpoint, which has another encoder" if _is_sam2(state) else "another network's weights"
    raise InputError(
        f"{source}: {len(state)} keys, not Segment Anything's image_encoder.*, prompt_encoder.* and mask_decoder.*; it "
        f"begins with {first_names(state)}; these are {other}."
    )


def _is_sam2(state: State) -> bool:
    return any(name.startswith("image_encoder.trunk.") for name in state)


def _type_of(state: State, source: str) -> str:
    """Tell the variant by its width and depth."""
    width = state["image_encoder.pos_embed"].shape[3]
    indices = {int(found[1]) for n in state if (found := re.match(r"image_encoder\.blocks\.(\d+)\.", n))}
    depth = max(indices, default=-1) + 1
    for name, preset in SAM_PRESETS.items():
        if (preset.embed_dim, preset.depth) == (width, depth):
            return name
    known = ", ".join(f"{name} {preset.embed_dim} x {preset.depth}" for name, preset in SAM_PRESETS.items())
    raise InputError(
        f"{source}: an image encoder of {width} channels and {depth} blocks is none of Segment Anything's ({known})."
    )


def _image_size_of(state: State, source: str) -> int:
    position = state["image_encoder.pos_embed"]
    if position.shape[1] != position.shape[2]:
        raise InputError(f"{source}: image_encoder.pos_embed is {shape_text(position)}, must be square.")
    return int(position.shape[1]) * PATCH


def _tuning_of(state: State) -> dict[str, object]:
    """Tell how the encoder was tuned; without low-rank updates ``full`` and ``frozen`` have the same weights."""
    down = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.qkv\.lora_q_down")
    found = {int(match[1]): weight for name, weight in state.items() if (match := down.fullmatch(name))}
    if not found:
        return {"tuning": "full"}
    knobs: dict[str, object] = {"tuning": "lora", "lora_rank": next(iter(found.values())).shape[0]}
    depth = 1 + max(int(match[1]) for n in state if (match := re.match(r"image_encoder\.blocks\.(\d+)\.", n)))
    if len(found) < depth:
        knobs["lora_blocks"] = sorted(found)
    return knobs


def _tell(network: nn.Module, imported: ImportedState, fitted: State, path: str, new_tokens: bool) -> None:
    position = fitted["image_encoder.pos_embed"].shape[1] * PATCH
    logger.info(
        "Loaded Segment Anything (%s, %d keys) from %s%s%s.",
        imported.knobs["sam_type"],
        len(fitted),
        path,
        ""
        if position == imported.knobs["image_size"]
        else f", resized from {imported.knobs['image_size']} to {position}",
        f"; its mask tokens were left out, {network.num_classes} classes start anew" if new_tokens else "",
    )
    rest = sorted({_last_part(name) for name in imported.state if not _is_published(name)})
    if rest:
        logger.warning(
            "%s is a whole network of ours: only its Segment Anything part was taken, not %s; to use all of it, name "
            "it as ckpt_path.",
            path,
            ", ".join(rest),
        )

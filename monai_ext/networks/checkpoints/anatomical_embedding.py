# SPDX-License-Identifier: Apache-2.0
"""Anatomical embedding's published weights under our names, and 2-D ResNets blown up to three dimensions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState, State, Table, rename
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
from monai_ext.networks.state_match import check, first_names, shape_text

Network = TypeVar("Network", bound=nn.Module)
logger = logging.getLogger(__name__)

# the last row keeps what no other fits, so that the strict comparison names it
PUBLISHED: Table = (
    (r"backbone\.conv1\.conv\.", "encoder.stem.conv."),
    (r"backbone\.conv1\.bn\.", "encoder.stem.norm."),
    (r"backbone\.(layer\d\.\d\.\w+)\.bn\.", r"encoder.\1.norm."),
    (r"backbone\.", "encoder."),
    (r"neck\.lateral_convs\.(\d+)\.conv\.", r"local_head.laterals.\1."),
    (r"neck\.fpn_convs\.0\.conv\.", "local_head.output."),
    (r"read_out_head\.lateral_convs\.(\d+)\.conv\.", r"global_head.laterals.\1."),
    (r"read_out_head\.fpn_convs\.0\.conv\.", "global_head.output."),
    (r"semantic_head\.lateral_convs\.(\d+)\.conv\.", r"semantic_head.laterals.\1."),
    (r"semantic_head\.fpn_convs\.0\.conv\.", "semantic_head.output."),
    (r"", ""),
)
RESNET: Table = (
    (r"conv1\.", "encoder.stem.conv."),
    (r"bn1\.", "encoder.stem.norm."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"encoder.\1.conv\2.conv."),
    (r"(layer\d\.\d)\.bn(\d)\.", r"encoder.\1.conv\2.norm."),
    (r"(layer\d\.\d)\.downsample\.0\.", r"encoder.\1.downsample.conv."),
    (r"(layer\d\.\d)\.downsample\.1\.", r"encoder.\1.downsample.norm."),
)
# a 2-D ResNet-18 goes down before its first stage, not in it, so it has no such weights
NEW_IN_OURS = "encoder.layer1.0.downsample."
STEM = "encoder.stem.conv.weight"


def import_anatomical_embedding(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Bring the authors' weights, or a network of ours, under our names; every name and shape must fit.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

    Returns:
        Of kind ``published`` (the authors' SAM and UAE files) or ``own``. Knobs: ``spatial_dims``, ``in_channels``,
        ``base_channels``, ``embedding_dim``, ``lateral_kernel``, ``semantic_head``, and ``stage_channels`` where they
        do not follow from ``base_channels``.

    Raises:
        InputError: these are the weights of something else, or not all of them.

    Example:
        >>> imported = import_anatomical_embedding(ResNetFPN3d(base_channels=2, embedding_dim=4).state_dict())
        >>> imported.kind, imported.knobs["base_channels"], imported.knobs["lateral_kernel"]
        ('own', 2, 1)
    """
    kind = "published" if "backbone.conv1.conv.weight" in state else "own"
    renamed, left_out = rename(state, PUBLISHED) if kind == "published" else (dict(state), ())
    knobs = _knobs_of(renamed, source)
    with torch.device("meta"):  # names and shapes are enough
        wanted = ResNetFPN3d(**knobs).state_dict()  # type: ignore[arg-type]
    check(renamed, wanted, source, "fetch the whole file of an anatomical embedding again.")
    return ImportedState(renamed, kind, knobs, left_out)


def load_anatomical_embedding(network: Network, path: str | Path | None) -> Network:
    """Load a whole trained network, the authors' or our own, and return it.

    Args:
        network: a `ResNetFPN3d`, changed in place.
        path: of the weights. None (or empty) leaves the network as it is.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to a network of other arguments.
    """
    if not path:
        return network
    imported = import_anatomical_embedding(read_state(path), str(path))
    knobs = ", ".join(f"{name} {value}" for name, value in imported.knobs.items())
    check(imported.state, network.state_dict(), f"{path} ({knobs})", "build the network with these arguments.")
    network.load_state_dict(imported.state)
    logger.info("Loaded the anatomical embedding (%s, %d keys) from %s.", imported.kind, len(imported.state), path)
    return network


def load_inflated_resnet(network: Network, path: str | Path | None) -> Network:
    """Start the encoder of a network from a 2-D ResNet-18 (torchvision's names), and return the network.

    Args:
        network: a `ResNetFPN3d`, changed in place; heads and the first stage's shortcut stay as they are.
        path: of the 2-D weights. None (or empty) leaves the network random, with a warning.

    Raises:
        InputError: the file is missing, is no 2-D ResNet-18, or has other widths.
    """
    if not path:
        logger.warning(
            "The encoder is random: no pretrained weights were given. Training from scratch works; the published "
            "networks started from torchvision's ResNet-18, whose file `pretrained_2d` may name."
        )
        return network
    wanted = {n: w for n, w in network.state_dict().items() if n.startswith("encoder.")}
    state = inflate_resnet(read_state(path), wanted, str(path))
    network.load_state_dict(state, strict=False)
    logger.info("Started the encoder from the 2-D ResNet in %s (%d keys).", path, len(state))
    return network


def inflate_resnet(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str = "the given weights"
) -> State:
    """Turn a 2-D ResNet-18's weights into those of the encoder, 2-D or 3-D.

    A kernel is repeated along z and divided by its depth there, so that a volume that does not change along z gives
    what the slice gave. The stem is special, as in the published code: its three colours become three slices. More
    input channels share its response equally; in 2-D the colours are added up unless there are three.

    Args:
        state: torchvision's names; the classifier ``fc`` is left out.
        wanted: the names and shapes of the encoder.
        source: how error messages call it.

    Raises:
        InputError: another network, or other widths.
    """
    renamed, left_out = rename(state, RESNET)
    stem = renamed.get(STEM)
    if stem is None or stem.ndim != 4 or stem.shape[1] != 3:
        raise InputError(
            f"{source}: {len(state)} keys, none of them a 2-D ResNet's conv1.weight with three colours; it begins with "
            f"{first_names(dict(state))}; give torchvision's resnet18 weights."
        )
    if unknown := [name for name in left_out if not name.startswith("fc.")]:
        raise InputError(f"{source}: {unknown[0]} is no part of a ResNet-18; give torchvision's resnet18 weights.")
    inflated = {name: _inflate(name, weight, wanted.get(name)) for name, weight in renamed.items()}
    needed = {name: weight for name, weight in wanted.items() if not name.startswith(NEW_IN_OURS)}
    check(inflated, needed, source, "inflating needs base_channels 64 for torchvision's resnet18.")
    return inflated


def _knobs_of(state: State, source: str) -> dict[str, object]:
    """Tell the arguments of the network by the shapes of its weights."""
    needed = (STEM, "local_head.output.weight", *(f"encoder.layer{stage}.0.conv1.conv.weight" for stage in range(1, 5)))
    if missing := [name for name in needed if name not in state or state[name].ndim not in (4, 5)]:
        raise InputError(
            f"{source}: {len(state)} keys without {missing[0]}, not backbone.*, neck.* and read_out_head.* (published) "
            f"or encoder.*, local_head.* and global_head.* (ours); it begins with {first_names(state)}; these are "
            "another network's weights."
        )
    stem, lateral = state[STEM], state.get("local_head.laterals.0.weight")
    widths = [state[name].shape[0] for name in needed[2:]]
    knobs: dict[str, object] = {
        "spatial_dims": stem.ndim - 2,
        "in_channels": stem.shape[1],
        "base_channels": stem.shape[0],
        "embedding_dim": state["local_head.output.weight"].shape[0],
        "lateral_kernel": None if lateral is None else _lateral_kernel(lateral, source),
        "semantic_head": any(name.startswith("semantic_head.") for name in state),
    }
    if widths != [stem.shape[0] * 2**stage for stage in range(4)]:
        knobs["stage_channels"] = widths
    if "encoder.stem.norm.running_mean" not in state:
        knobs["norm"] = "instance" if "encoder.stem.norm.weight" not in state else ("group", {"num_groups": 1})
    return knobs


def _lateral_kernel(weight: Tensor, source: str) -> int:
    side = int(weight.shape[-1])
    if side not in (1, 3):
        raise InputError(f"{source}: local_head.laterals.0.weight is {shape_text(weight)}, its sides must be 1 or 3.")
    return side


def _inflate(name: str, weight: Tensor, wanted: Tensor | None) -> Tensor:
    """Bring one weight to the form that is wanted; one that cannot be is left for the comparison to name."""
    if wanted is None or weight.ndim != 4 or re.search(r"norm\.", name):
        return weight
    if name == STEM:
        return _inflate_stem(weight, wanted)
    if wanted.ndim == 4:
        return weight
    depth = wanted.shape[2]
    return weight[:, :, None].expand(-1, -1, depth, -1, -1).contiguous() / depth


def _inflate_stem(weight: Tensor, wanted: Tensor) -> Tensor:
    channels = wanted.shape[1]
    if wanted.ndim == 5:
        return weight[:, None].expand(-1, channels, -1, -1, -1).contiguous() / channels  # colours -> slices
    if channels == weight.shape[1]:
        return weight
    return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1).contiguous() / channels

# SPDX-License-Identifier: Apache-2.0
"""SimCLRv2's published weights, as TensorFlow variables or converted for PyTorch, under our names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState, State, Table, rename
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.checkpoints.simclr_tensorflow import from_tensorflow, is_tensorflow
from monai_ext.networks.checkpoints.teacher_file import read_licence
from monai_ext.networks.nets.resnet_sk import RESNET_SK_PRESETS, ResNetSK
from monai_ext.networks.nets.simclr import SimCLR
from monai_ext.networks.state_match import check, first_names

Network = TypeVar("Network", ResNetSK, SimCLR)
logger = logging.getLogger(__name__)

SIMCLR_LICENCE = (
    "Apache-2.0: learnt from the published weights of SimCLRv2 (https://github.com/google-research/simclr)."
)
REMEDY = "set teacher to the network that the weights are of."

_BLOCK = r"resnet\.net\.(\d)\.blocks\.(\d+)\."
_OURS = r"encoder.layer\1.\2."
# of the files that users convert with a port to PyTorch: {"resnet": ..., "head": ...}
CONVERTED: Table = (
    (r"resnet\.net\.0\.0\.", "encoder.stem.0.conv."),
    (r"resnet\.net\.0\.1\.0\.", "encoder.stem.0.norm."),
    (r"resnet\.net\.0\.2\.", "encoder.stem.1.conv."),
    (r"resnet\.net\.0\.3\.0\.", "encoder.stem.1.norm."),
    (r"resnet\.net\.0\.4\.", "encoder.stem.2.conv."),
    (r"resnet\.net\.0\.5\.0\.", "encoder.stem.2.norm."),
    (_BLOCK + r"projection\.shortcut\.2\.", _OURS + "shortcut.conv."),
    (_BLOCK + r"projection\.bn\.0\.", _OURS + "shortcut.norm."),
    (_BLOCK + r"net\.0\.", _OURS + "reduce.conv."),
    (_BLOCK + r"net\.1\.0\.", _OURS + "reduce.norm."),
    (_BLOCK + r"net\.2\.main_conv\.0\.", _OURS + "kernel.branches.conv."),
    (_BLOCK + r"net\.2\.main_conv\.1\.0\.", _OURS + "kernel.branches.norm."),
    (_BLOCK + r"net\.2\.mixing_conv\.0\.", _OURS + "kernel.squeeze.conv."),
    (_BLOCK + r"net\.2\.mixing_conv\.1\.0\.", _OURS + "kernel.squeeze.norm."),
    (_BLOCK + r"net\.2\.mixing_conv\.2\.", _OURS + "kernel.select."),
    (_BLOCK + r"net\.3\.", _OURS + "expand.conv."),
    (_BLOCK + r"net\.4\.0\.", _OURS + "expand.norm."),
    (r"resnet\.fc\.", "encoder.fc."),
    (r"head\.layers\.", "head.layers."),
)
OWN: Table = ((r"(?=encoder\.|head\.)", ""), (r"(?=stem\.|layer\d\.|fc\.)", "encoder."))


def import_simclr(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Bring any of the states that SimCLRv2's network can start from under the names of `SimCLR`.

    Args:
        state: name -> weight: converted files with their two parts as prefixes (``resnet.net...``, ``head.layers...``),
            or the variables of a TensorFlow checkpoint under their own names.
        source: how error messages call it.

    Returns:
        Of kind ``simclr_converted``, ``simclr_tensorflow`` or ``own`` (written by this project); its knobs have
        ``teacher``.

    Raises:
        InputError: these are the weights of something else.

    Example:
        >>> from monai_ext.networks.nets.resnet_sk import build_resnet_sk
        >>> import_simclr(SimCLR(build_resnet_sk("small")).state_dict()).knobs
        {'teacher': 'small'}
    """
    if is_tensorflow(state):
        renamed, left_out = from_tensorflow(state, source)
        return ImportedState(renamed, "simclr_tensorflow", {"teacher": _teacher_of(renamed, source)}, left_out)
    converted = any(name.startswith("resnet.net.") for name in state)
    renamed, left_out = rename(state, CONVERTED if converted else OWN)
    kind = "simclr_converted" if converted else "own"
    return ImportedState(renamed, kind, {"teacher": _teacher_of(renamed, source)}, left_out)


def load_simclr(network: Network, path: str | Path | None) -> Network:
    """Load SimCLRv2's weights.

    The encoder's ``licence`` becomes the one that the file names, or for published sizes the one of the published
    weights.

    Args:
        network: `ResNetSK`, or `SimCLR` with its projection head, changed in place. What is given and not wanted
            (head, classifier) is left out; a head that is wanted and not given stays random, with a warning.
        path: ``{"resnet": ..., "head": ...}`` as converted, what `save_teacher` wrote, or a ``.safetensors`` file of
            TensorFlow variables. None (or empty) leaves all random, with a warning.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to another network.
    """
    if not path:
        logger.warning(
            "SimCLR's network is random: no weights were given. A random teacher teaches little; convert "
            "r50_2x_sk1, or train one with pretrain_image_teacher.json, and set teacher_path."
        )
        return network
    imported = import_simclr(_read(path), str(path))
    encoder = network if isinstance(network, ResNetSK) else network.encoder
    wanted = network.state_dict(prefix="encoder.") if encoder is network else network.state_dict()
    given = {name: weight for name, weight in imported.state.items() if _is_wanted(name, wanted)}
    if isinstance(network, SimCLR) and not any(name.startswith("head.") for name in given):
        wanted = {name: weight for name, weight in wanted.items() if not name.startswith("head.")}
        logger.warning("%s has no projection head: it stays random.", path)
    check(given, wanted, f"{path} (teacher {imported.knobs['teacher']})", REMEDY)
    if encoder is network:
        given = {name.removeprefix("encoder."): weight for name, weight in given.items()}
    network.load_state_dict(given, strict=False)
    encoder.licence = _licence(path, str(imported.knobs["teacher"]))
    logger.info("Loaded SimCLR's network (%s, %d keys) from %s.", imported.kind, len(given), path)
    return network


def _read(path: str | Path) -> State:
    """Read a state dict; of a file with two side by side, names get the part's name before them."""
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # no PyTorch file, or none at all: read_state reads it or says what is wrong
        return read_state(path)
    if not isinstance(parts, dict) or not isinstance(parts.get("resnet"), dict):
        return read_state(path)
    return {f"{part}.{name}": weight for part in ("resnet", "head") for name, weight in parts.get(part, {}).items()}


def _is_wanted(name: str, wanted: Mapping[str, Tensor]) -> bool:
    """Whether the network has this part at all."""
    optional = re.match(r"head\.|encoder\.fc\.", name)
    return optional is None or any(own.startswith(optional[0]) for own in wanted)


def _teacher_of(state: State, source: str) -> str:
    stem = state.get("encoder.stem.2.conv.weight")
    width = 0 if stem is None else len(stem)
    blocks = tuple(
        len({name.split(".")[2] for name in state if name.startswith(f"encoder.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    for name, preset in RESNET_SK_PRESETS.items():
        if (preset.base_channels, preset.layers) == (width, blocks):
            return name
    known = ", ".join(f"{name} {preset.base_channels} {preset.layers}" for name, preset in RESNET_SK_PRESETS.items())
    raise InputError(
        f"{source}: a stem of {width} channels and stages of {blocks} blocks are none of ours ({known}); it begins "
        f"with {first_names(state) or 'no name that we know'}; {REMEDY}"
    )


def _licence(path: str | Path, teacher: str) -> str:
    told = read_licence(path)
    return (SIMCLR_LICENCE if teacher != "small" else "") if told is None else told

# SPDX-License-Identifier: Apache-2.0
"""Published weights of masked autoencoders, of which there are three kinds."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import ImportedState, State
from monai_ext.networks.checkpoints.reading import read_state
from monai_ext.networks.checkpoints.teacher_file import read_licence
from monai_ext.networks.nets.mae_encoder import MAE_PRESETS, MAEEncoder
from monai_ext.networks.state_match import check, first_names

Network = TypeVar("Network", bound=MAEEncoder)
logger = logging.getLogger(__name__)

MAE_LICENCE = (
    "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): learnt from the published weights of masked "
    "autoencoders (https://github.com/facebookresearch/mae), which may not be used commercially."
)
# what a published file is called -> whether its decoder predicts patches normalised one by one
TARGETS = ((r"mae_pretrain_vit_\w+_full", True), (r"mae_visualize_vit_", False))
REMEDY = (
    "set teacher to the network that the weights are of, and teacher_size (to train it further: image_size) to the "
    "size it was trained with, 224 if published."
)
_DECODER = re.compile(r"decoder_|mask_token$")
_TOLD = {
    "mae_encoder": "the encoder alone, without a decoder",
    "mae_raw": "encoder and decoder, which predicts pixels as they are (norm_pix_loss false)",
    "mae_normalised": "encoder and decoder, which predicts normalised patches (norm_pix_loss true)",
    "mae": "encoder and decoder; whether it predicts normalised patches cannot be seen (norm_pix_loss is yours to say)",
}


def import_mae(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Recognise the weights of a masked autoencoder; names are kept.

    Args:
        state: what `read_state` returned.
        source: how error messages call it. The two kinds with a decoder have the same names and shapes; only the
            published names of their files tell them apart.

    Returns:
        Of kind ``mae_encoder`` (the encoder alone), ``mae_raw`` or ``mae_normalised`` (with a decoder that predicts
        pixels, or normalised patches), or ``mae`` (with a decoder of which that is not known: ``norm_pix_loss`` is
        ambiguous). Its knobs have ``teacher``, ``image_size`` and, with a decoder, ``norm_pix_loss``. A linear
        classifier (``head``) or the norm that fine-tuned files have instead is no part of it.

    Raises:
        InputError: these are the weights of something else.

    Example:
        >>> from monai_ext.networks.nets.mae import build_mae
        >>> imported = import_mae(build_mae("small", image_size=64).state_dict(), "mae_visualize_vit_small.pth")
        >>> imported.kind, imported.knobs
        ('mae_raw', {'teacher': 'small', 'image_size': 64, 'norm_pix_loss': False})
    """
    missing = [
        name for name in ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm.weight") if name not in state
    ]
    if missing:
        raise InputError(
            f"{source}: is no masked autoencoder, it has no {missing[0]}; it begins with {first_names(state)}; give a "
            "file of MAE's pre-training, such as mae_pretrain_vit_large.pth."
        )
    kept = {name: weight for name, weight in state.items() if not name.startswith("head.")}
    left_out = tuple(name for name in state if name not in kept)
    knobs: dict[str, object] = {"teacher": _teacher_of(kept, source), "image_size": _size_of(kept)}
    if not any(_DECODER.match(name) for name in kept):
        return ImportedState(kept, "mae_encoder", knobs, left_out)
    normalised = next((value for pattern, value in TARGETS if re.match(pattern, Path(source).name)), None)
    knobs["norm_pix_loss"] = bool(normalised)
    if normalised is None:
        return ImportedState(kept, "mae", knobs, left_out, ambiguous={"norm_pix_loss": (False, True)})
    return ImportedState(kept, "mae_normalised" if normalised else "mae_raw", knobs, left_out)


def load_mae(network: Network, path: str | Path | None) -> Network:
    """Load a masked autoencoder, or its encoder alone, and say which of the three kinds of file it was.

    The network's ``licence`` becomes the one that the file names, or for published sizes the one of the published
    weights: what is trained further from them stays under it.

    Args:
        network: `MAEEncoder` or `MaskedAutoencoder`, changed in place. A decoder that is given and not wanted is left
            out; one that is wanted and not given stays random, with a warning.
        path: of the file. None (or empty) leaves all random, with a warning.

    Raises:
        InputError: the file is missing, is not what it should be, or belongs to another network.
    """
    if not path:
        logger.warning(
            "The masked autoencoder is random: no weights were given. A random teacher teaches little; fetch "
            "mae_pretrain_vit_large.pth, or train one with pretrain_patch_teacher.json, and set teacher_path."
        )
        return network
    imported = import_mae(read_state(path), str(path))
    wanted, given = network.state_dict(), imported.state
    if not any(_DECODER.match(name) for name in wanted):
        given = {name: weight for name, weight in given.items() if not _DECODER.match(name)}
    elif imported.kind == "mae_encoder":
        wanted = {name: weight for name, weight in wanted.items() if not _DECODER.match(name)}
        logger.warning(
            "%s holds the encoder alone: the decoder stays random. To go on with reconstruction give "
            "mae_visualize_vit_large.pth or mae_pretrain_vit_large_full.pth.",
            path,
        )
    check(given, wanted, f"{path} (teacher {imported.knobs['teacher']})", REMEDY)
    network.load_state_dict(given, strict=False)
    network.licence = _licence(path, str(imported.knobs["teacher"]))
    logger.info("Loaded %s: %s.", path, _TOLD[imported.kind])
    if network.licence:
        logger.info("The licence of these weights, and of what learns from them, says: %s", network.licence)
    return network


def _teacher_of(state: State, source: str) -> str:
    width = state["cls_token"].shape[-1]
    indices = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    depth = max(indices, default=-1) + 1
    for name, preset in MAE_PRESETS.items():
        if (preset.embed_dim, preset.depth) == (width, depth):
            return name
    known = ", ".join(f"{name} {preset.embed_dim} x {preset.depth}" for name, preset in MAE_PRESETS.items())
    raise InputError(f"{source}: a network of {width} channels and {depth} blocks is none of ours ({known}); {REMEDY}")


def _size_of(state: State) -> int:
    patch = state["patch_embed.proj.weight"].shape[-1]
    return round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch


def _licence(path: str | Path, teacher: str) -> str:
    told = read_licence(path)
    return (MAE_LICENCE if teacher != "small" else "") if told is None else told

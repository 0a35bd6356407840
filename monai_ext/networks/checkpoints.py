# SPDX-License-Identifier: Apache-2.0
"""Published weights under our names: one table a source, pure functions, and never a pickle that runs code."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn as nn
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.nets.hiera import HIERA_PRESETS

State = dict[str, Tensor]
Table = tuple[tuple[str, str], ...]
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


@dataclass(frozen=True)
class ImportedState:
    """A published state dict under our names.

    Attributes:
        state: our name -> weight.
        kind: ``sam2`` (a whole SAM 2 or 2.1 checkpoint), ``sam2_trunk`` (its trunk alone), ``sam2_unet`` (the authors'
            SAM2-UNet), ``own`` (written by this project) or ``own_trunk`` (by its ``convert``).
        knobs: arguments of the network that these weights fit, as far as names and shapes tell them; always
            ``backbone``.
        left_out: published names that have no counterpart, on purpose.
    """

    state: State
    kind: str
    knobs: dict[str, int | str | bool]
    left_out: tuple[str, ...]

    @property
    def trunk_only(self) -> bool:
        """Whether the rest of the network is to be trained."""
        return self.kind in ("sam2", "sam2_trunk", "own_trunk")


@dataclass(frozen=True)
class StateMatch:
    """How a state dict and the names and shapes that a network wants fit together."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} keys matched, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.wrong_shape)} of another shape"
        )


def import_sam2_unet(state: Mapping[str, Tensor], source: str = "the given weights") -> ImportedState:
    """Bring any of the states that SAM2-UNet can start from under the names of our network.

    Args:
        state: what `read_state` returned.
        source: how error messages call it.

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
    return ImportedState(renamed, kind, {"backbone": _backbone_of(renamed, source), **_knobs_of(renamed)}, left_out)


IMPORTERS = {"sam2_unet": import_sam2_unet}  # package of a bundle's network -> importer of published weights


def rename(state: Mapping[str, Tensor], table: Table) -> tuple[State, tuple[str, ...]]:
    """Apply the first row of ``table`` that fits each name; return the new state and the names that none fits.

    Example:
        >>> rename({"image_encoder.trunk.pos_embed": torch.zeros(1), "memory.x": torch.zeros(1)}, SAM2)
        ({'encoder.pos_embed': tensor([0.])}, ('memory.x',))
    """
    renamed: State = {}
    left_out = []
    for name, weight in state.items():
        row = next((row for row in table if re.match(row[0], name)), None)
        if row is None:
            left_out.append(name)
        else:
            renamed[re.sub(f"^{row[0]}", row[1], name, count=1)] = weight
    return renamed, tuple(left_out)


def compare(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> StateMatch:
    """Compare names and shapes; ``wanted`` may lie on the meta device."""
    shared = [name for name in wanted if name in state]
    wrong = tuple(name for name in shared if state[name].shape != wanted[name].shape)
    return StateMatch(
        matched=tuple(name for name in shared if name not in wrong),
        missing=tuple(name for name in wanted if name not in state),
        unexpected=tuple(name for name in state if name not in wanted),
        wrong_shape=wrong,
    )


def check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> StateMatch:
    """Return `compare`'s result if everything fits.

    Raises:
        InputError: something does not; the first names and shapes of each kind are named.
    """
    match = compare(state, wanted)
    if match.complete:
        return match
    lines = []
    if match.wrong_shape:
        shapes = [f"{n} is {_shape(state[n])}, must be {_shape(wanted[n])}" for n in match.wrong_shape[:2]]
        lines.append("another shape: " + ", ".join(shapes))
    if match.missing:
        lines.append("missing: " + ", ".join(f"{n} {_shape(wanted[n])}" for n in match.missing[:2]))
    if match.unexpected:
        lines.append("unexpected: " + ", ".join(f"{n} {_shape(state[n])}" for n in match.unexpected[:2]))
    raise InputError(
        f"{source}: does not fit this network ({match}); {'; '.join(lines)}; "
        "use the backbone, number of classes and tuning that the weights were made with."
    )


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


def read_state(path: str | Path) -> State:
    """Read a state dict from ``.pt``, ``.pth`` or ``.safetensors``, with no way for the file to run code.

    What training scripts wrap around it (``model``, ``state_dict``, ``network``; ``module.`` before each name) is
    taken off.

    Raises:
        InputError: the file is missing, empty, cut short, no weights at all, or asks for code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of the weights.")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty (0 bytes); fetch it again.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("model", "state_dict", "network"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds a {type(content).__name__}, must be a state dict (name -> tensor).")
    other = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        kind = type(content[other]).__name__
        raise InputError(f"{path}: entry {other!r} is a {kind}, must be a tensor; give a state dict.")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): weight for name, weight in content.items()}
    return dict(content)


def _recognise(state: Mapping[str, Tensor], source: str) -> tuple[str, Table]:
    if any(name.startswith("image_encoder.trunk.") for name in state):
        return "sam2", SAM2
    if "pos_embed_window" in state and "patch_embed.proj.weight" in state:
        return "sam2_trunk", SAM2_TRUNK
    if "encoder.pos_embed_window" in state:
        return ("sam2_unet", SAM2_UNET) if any(name.startswith("up4.") for name in state) else ("own", OWN)
    first = ", ".join(f"{name} {_shape(weight)}" for name, weight in list(state.items())[:3])
    raise InputError(
        f"{source}: {len(state)} keys, none of image_encoder.trunk.* (SAM 2), blocks.* with pos_embed_window (its "
        f"trunk) or encoder.* (SAM2-UNet); it begins with {first}; these are another network's weights."
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


def _knobs_of(renamed: State) -> dict[str, int | str | bool]:
    """Tell the other arguments of a whole SAM2-UNet; nothing for a trunk."""
    head, adapter = renamed.get("head.weight"), renamed.get("encoder.blocks.0.prompt_learn.0.weight")
    lora, stem = renamed.get("encoder.blocks.0.block.attn.qkv.lora_q_down"), renamed.get("stem.weight")
    if head is None:
        return {}
    knobs: dict[str, int | str | bool] = {"num_classes": head.shape[0], "decoder_channels": head.shape[1]}
    knobs["decoder_attention"] = any(name.startswith("up1.gate.") for name in renamed)
    knobs["tuning"] = "adapter" if adapter is not None else "lora" if lora is not None else "full"
    if adapter is not None:
        knobs["adapter_dim"] = adapter.shape[0]
    if lora is not None:
        knobs["lora_rank"] = lora.shape[0]
    if stem is not None:
        knobs["in_channels"] = stem.shape[1]
    return knobs


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: is no readable safetensors file ({_first_line(error)}); fetch it again.") from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints about file formats, which our message replaces
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # anything at all: the unpickler raises KeyError, EOFError ... on what is no checkpoint
        text = str(error)
        if "unsupported global" in text.lower() or "unsupported class" in text.lower():
            reason = "asks for Python code to be run, which is refused; have its author save a plain state dict"
        elif "TorchScript" in text:
            reason = "is an exported TorchScript program; give the state dict that it was made from"
        else:
            reason = "is no readable PyTorch checkpoint (a text or web page, or cut short?); fetch it again"
        raise InputError(f"{path}: {reason}.") from error


def _shape(weight: Tensor) -> str:
    return "x".join(str(side) for side in weight.shape) or "scalar"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

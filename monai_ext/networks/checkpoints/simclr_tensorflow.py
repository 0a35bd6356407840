# SPDX-License-Identifier: Apache-2.0
"""TensorFlow variables of SimCLRv2, which are numbered as the published code makes them, under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints.common import State
from monai_ext.networks.nets.resnet_sk import RESNET_SK_PRESETS, ResNetSK, build_resnet_sk

_CONV = re.compile(r"base_model/conv2d(?:_(\d+))?/kernel$")
_NORM = re.compile(r"base_model/batch_normalization(?:_(\d+))?/(gamma|beta|moving_mean|moving_variance)$")
_HEAD = re.compile(r"head_contrastive/nl_(\d+)/(dense|batch_normalization)/(\w+)$")
_CLASSIFIER = re.compile(r"head_supervised/linear_layer/dense/(kernel|bias)$")
_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_EACH = 3  # layers of the projection head: linear, normalisation, rectifier


def is_tensorflow(state: Mapping[str, Tensor]) -> bool:
    """Return whether these are the variables of a SimCLR checkpoint.

    Example:
        >>> is_tensorflow({"base_model/conv2d/kernel": torch.zeros(3, 3, 3, 64)})
        True
    """
    return "base_model/conv2d/kernel" in state


def from_tensorflow(state: Mapping[str, Tensor], source: str = "the given weights") -> tuple[State, tuple[str, ...]]:
    """Bring the variables of a SimCLRv2 checkpoint under the names of `SimCLR`; return them and what is left out.

    Convolutions and normalisations have numbers, from which only the order of the published code tells what they are.
    Optimiser state and averaged copies are left out. Where TensorFlow is installed, a file of them is written by ::

        reader = tf.train.load_checkpoint("r50_2x_sk1/model.ckpt-250228")
        names = reader.get_variable_to_shape_map()
        safetensors.numpy.save_file({name: reader.get_tensor(name) for name in names}, "r50_2x_sk1.safetensors")

    Args:
        state: name of the variable -> its value, kernels as TensorFlow has them (H, W, in, out).
        source: how error messages call it.

    Raises:
        InputError: the numbers of layers are those of no network of ours, or a number is missing.
    """
    numbers = {"conv2d": _numbers(state, _CONV), "batch_normalization": _numbers(state, _NORM)}
    for what, found in numbers.items():
        if found != list(range(len(found))):
            raise InputError(f"{source}: {what} must be numbered without a gap, got {found}; write the file again.")
    width = 2 * state["base_model/conv2d/kernel"].shape[-1]
    convs, norms = _order(width, len(numbers["conv2d"]), len(numbers["batch_normalization"]), source)
    renamed: State = {}
    left_out = []
    for name, value in state.items():
        own = _name_of(name, convs, norms)
        if own is None:
            left_out.append(name)
        else:
            renamed[own] = _transposed(value) if name.endswith("kernel") else value
    return _completed(renamed), tuple(left_out)


def _numbers(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> list[int]:
    return sorted({int(found[1] or 0) for name in state if (found := pattern.match(name))})


def _order(width: int, convs: int, norms: int, source: str) -> tuple[list[str], list[str]]:
    """Our names of convolutions and of normalisations, in the order in which the published code makes them."""
    for teacher, preset in RESNET_SK_PRESETS.items():
        if preset.base_channels != width:
            continue
        with torch.device("meta"):
            own = _layers(build_resnet_sk(teacher))
        if (len(own[0]), len(own[1])) == (convs, norms):
            return own
    raise InputError(
        f"{source}: {convs} convolutions and {norms} normalisations of width {width} are none of "
        f"{', '.join(RESNET_SK_PRESETS)}; give the checkpoint of one with selective kernels (sk1)."
    )


def _layers(network: ResNetSK) -> tuple[list[str], list[str]]:
    parts = [(f"encoder.{name}", part) for name, part in network.named_modules()]
    convs = [name for name, part in parts if isinstance(part, torch.nn.Conv2d)]
    return convs, [name for name, part in parts if isinstance(part, torch.nn.BatchNorm2d)]


def _name_of(name: str, convs: list[str], norms: list[str]) -> str | None:
    """Our name of a variable; None for what is left out."""
    if found := _CONV.match(name):
        return f"{convs[int(found[1] or 0)]}.weight"
    if found := _NORM.match(name):
        return f"{norms[int(found[1] or 0)]}.{_NAMES[found[2]]}"
    if found := _HEAD.match(name):
        layer = _EACH * int(found[1]) + (found[2] == "batch_normalization")
        return f"head.layers.{layer}.{_NAMES[found[3]]}" if found[3] in _NAMES else None
    if found := _CLASSIFIER.match(name):
        return f"encoder.fc.{_NAMES[found[1]]}"
    return None


def _transposed(kernel: Tensor) -> Tensor:
    """(H, W, in, out) -> (out, in, H, W), and (in, out) -> (out, in)."""
    return (kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T).contiguous()


def _completed(state: State) -> State:
    """Add what TensorFlow does not keep: counters, and the bias that the head's last normalisation does not have."""
    for name in [name for name in state if name.endswith(".running_mean")]:
        layer = name.removesuffix("running_mean")
        state.setdefault(f"{layer}bias", torch.zeros_like(state[name]))
        state.setdefault(f"{layer}num_batches_tracked", torch.tensor(0))
    return state

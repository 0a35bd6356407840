# SPDX-License-Identifier: Apache-2.0
"""Builds what a bundle's ``inference.json`` describes, outside of a MONAI workflow."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from monai.bundle import ConfigParser

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import check, read_state


def read_inference(bundle: Path, knobs: Mapping[str, object] | None = None) -> ConfigParser:
    """Read a bundle's ``configs/inference.json`` for use on the CPU, with some of its knobs changed.

    A knob is set where the config names it at the top level, else as an argument of ``network_def``. As with
    ``monai.bundle run``, the bundle's own Python package comes first on the path.

    Raises:
        InputError: the bundle has no such config.
    """
    path = bundle / "configs" / "inference.json"
    if not path.is_file():
        raise InputError(f"{path}: is missing; a bundle needs it to be exported or checked.")
    if str(bundle) not in sys.path:
        sys.path.insert(0, str(bundle))
    parser = ConfigParser()
    parser.read_config(str(path))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"] = str(bundle)
    parser["device"] = "$torch.device('cpu')"
    for name, value in (knobs or {}).items():
        parser[name if name in parser.get() else f"network_def::{name}"] = value
    return parser


def build(parser: ConfigParser, name: str) -> Any:
    """Build one part of a config.

    Raises:
        InputError: the config does not name it.
    """
    if name not in parser.get():
        raise InputError(f"configs/inference.json: must have an entry {name!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns each time that a config is code; the bundle is the user's own
        return parser.get_parsed_content(name, instantiate=True)


def load_network(parser: ConfigParser, weights: Path) -> nn.Module:
    """Build ``network_def`` in evaluation mode with the weights of a file, all of which must fit.

    Raises:
        InputError: the file is missing, unreadable, or of another architecture.
    """
    state = read_state(weights)
    network = build(parser, "network_def")
    check(state, network.state_dict(), str(weights))
    network.load_state_dict(state)
    return network.eval()


def package_of(parser: ConfigParser) -> str:
    """Return the Python package that the bundle's network comes from, which names the method."""
    target = parser.get("network_def", {}).get("_target_", "")
    return str(target).split(".", 1)[0]

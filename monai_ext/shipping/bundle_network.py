# SPDX-License-Identifier: Apache-2.0
"""Builds what a bundle's ``inference.json`` describes, outside of a MONAI workflow."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from monai.bundle import ConfigParser

from monai_ext.errors import InputError
from monai_ext.networks.checkpoints import check, read_state


def read_inference(
    bundle: Path,
    arguments: Mapping[str, object] | None = None,
    knobs: Mapping[str, object] | None = None,
    override: str | None = None,
) -> ConfigParser:
    """Read a bundle's ``configs/inference.json`` for use on the CPU.

    As with ``monai.bundle run``, the bundle's own Python package comes first on the path.

    Args:
        bundle: its folder.
        arguments: of ``network_def``, as weights tell them; they give way to ``knobs``.
        knobs: top-level entries to change.
        override: another config on top: a path, or the name of a file in the bundle's ``configs``.

    Raises:
        InputError: there is no such config or knob.
    """
    path = bundle / "configs" / "inference.json"
    files = [path, *_override_of(bundle, override)]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing}: there is no such config.")
    if str(bundle) not in sys.path:
        sys.path.insert(0, str(bundle))
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"] = str(bundle)
    parser["device"] = "$torch.device('cpu')"
    for name, value in (arguments or {}).items():
        if name not in (knobs or {}):
            parser[f"network_def::{name}"] = value
    for name, value in (knobs or {}).items():
        if name not in parser.get():
            close = difflib.get_close_matches(name, list(parser.get()), n=1)
            raise InputError(f"{name}: is no knob of {path}{f' (did you mean {close[0]}?)' if close else ''}.")
        parser[name] = value
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


def _override_of(bundle: Path, override: str | None) -> list[Path]:
    if override is None:
        return []
    return [Path(override) if Path(override).is_file() else bundle / "configs" / override]

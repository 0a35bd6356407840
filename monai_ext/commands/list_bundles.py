# SPDX-License-Identifier: Apache-2.0
"""`python -m monai_ext list`: which bundles are here."""

from __future__ import annotations

import textwrap
from pathlib import Path

from monai_ext.commands._bundle import all_bundles, read_metadata

RUNNABLE = ("train", "evaluate", "inference")


def list_bundles(short: bool = False) -> None:
    """Show the bundles found: version, task, weights, and the commands that run them.

    Looked for in ./bundles, in the working folder and beside the installed package.

    Args:
        short: print the names only, one a line.

    Example:
        python -m monai_ext list
    """
    bundles = all_bundles()
    if short:
        print("\n".join(bundle.name for bundle in bundles))
    elif bundles:
        print("\n\n".join(_describe(bundle) for bundle in bundles))
    else:
        print("No bundle found in ./bundles, here, or beside the package.")


def _describe(bundle: Path) -> str:
    metadata = read_metadata(bundle)
    description = textwrap.wrap(str(metadata.get("description", "")), 96)
    lines = [f"{bundle.name} {metadata.get('version', '?')}  ({metadata.get('task', 'task not stated')})"]
    lines += [f"    {line}" for line in description]
    lines += [f"  {'folder':<10} {_shown(bundle)}", f"  {'weights':<10} {_weights(bundle)}"]
    kinds = [kind for kind in RUNNABLE if (bundle / f"configs/{kind}.json").is_file()]
    lines += [f"  {kind:<10} {_command(bundle, kind)}" for kind in kinds]
    return "\n".join(lines)


def _weights(bundle: Path) -> str:
    files = [bundle / "models" / name for name in ("model.pt", "model.ts", "model.onnx")]
    found = [f"{file.name} ({file.stat().st_size / 1e6:.1f} MB)" for file in files if file.is_file()]
    return ", ".join(found) or "none yet: train, or import published ones with `python -m monai_ext convert`"


def _command(bundle: Path, kind: str) -> str:
    root, configs = _shown(bundle), f"{_shown(bundle)}/configs"
    # an evaluation is an override of the training config
    file = f"{configs}/{kind}.json" if kind != "evaluate" else f"\"['{configs}/train.json','{configs}/evaluate.json']\""
    return f"python -m monai.bundle run --bundle_root {root} --config_file {file}"


def _shown(folder: Path) -> str:
    """Return the folder relative to the working folder where it lies below it."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)

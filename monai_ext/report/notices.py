# SPDX-License-Identifier: Apache-2.0
"""What to say where something is missing: which file, and the command that makes it."""

from __future__ import annotations

from pathlib import Path

from monai_ext.report.markup import Markup, tag
from monai_ext.report.sources import RunFolder

_TRAIN = (
    "python -m monai.bundle run training --bundle_root {root} "
    "--config_file {root}/configs/train.json --dataset_dir DATA"
)
_EVALUATE = (
    "python -m monai.bundle run evaluating --bundle_root {root} "
    "--config_file \"['{root}/configs/train.json','{root}/configs/evaluate.json']\" --dataset_dir DATA"
)
_COMMANDS = {
    "run.json": _TRAIN,
    "history.json": _TRAIN,
    "overlays": _TRAIN,
    "cases.csv": _EVALUATE,
    "summary.json": _EVALUATE,
    "predictions": _EVALUATE,
    "parity.json": "python -m monai_ext export {root}",
}
_REMEDIES = {
    "LICENSE": "Put the licence of the code there.",
    "data_license.txt": "Write down in docs/data_license.txt where the data come from and what may be done with them.",
    "large_files.yml": "Name the files of weights there, each with its address, licence and sha256.",
    "metadata.json": "A bundle needs configs/metadata.json: MONAI itself reads it.",
}


def missing_notice(folder: RunFolder, name: str) -> Markup:
    """Return a paragraph: what is wrong with the file ``name`` and how to get it."""
    reason = folder.problems.get(name, "is missing")
    parts: list[object] = [tag("strong", name), f" {reason}. "]
    if name in _COMMANDS:
        parts += ["It is written by", tag("code", command_for(folder, name), class_="command")]
    else:
        parts.append(_REMEDIES.get(name, ""))
    return tag("div", *parts, class_="missing")


def command_for(folder: RunFolder, name: str) -> str:
    """Return the command that writes the file ``name``."""
    root = folder.bundle_root
    if root.is_relative_to(Path.cwd()):
        root = root.relative_to(Path.cwd())  # a report is shared: no more of the machine in it than needed
    return _COMMANDS[name].format(root=root.as_posix())

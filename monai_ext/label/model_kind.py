# SPDX-License-Identifier: Apache-2.0
"""What a bundle can do in a server, read from its config."""

from __future__ import annotations

import json
from pathlib import Path

from monai_ext.errors import InputError

PROMPTED, MATCHING, SEGMENTATION = "prompted", "matching", "segmentation"


def model_kind(folder: Path) -> str:
    """Return ``prompted`` (takes clicks and boxes), ``matching`` (two scans), or ``segmentation``.

    Raises:
        InputError: the bundle has no ``inference.json`` or weights, or it is none of these.
    """
    config = folder / "configs" / "inference.json"
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{config}: cannot be read ({error}); a bundle that is served needs it.") from error
    if not any((folder / "models" / name).is_file() for name in ("model.pt", "model.ts")):
        raise InputError(f"{folder}: no weights; train the bundle or put them to models/model.pt.")
    chain = content.get("pre_transforms", content.get("preprocessing", {})).get("transforms", [])
    names = {str(step.get("_target_", "")).rsplit(".", 1)[-1] for step in chain if isinstance(step, dict)}
    if "ReferenceFromRequestd" in names:
        return MATCHING
    if not {"postprocessing", "post_transforms"} & content.keys():
        raise InputError(f"{folder}: inference.json has no postprocessing, so a server cannot answer with its results.")
    return PROMPTED if "PromptFromRequestd" in names else SEGMENTATION

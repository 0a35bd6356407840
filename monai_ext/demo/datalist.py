# SPDX-License-Identifier: Apache-2.0
"""The JSON list of images and labels in training, validation and test parts."""

from __future__ import annotations

from collections.abc import Sequence

from monai_ext.demo.mni_brain import CLASS_NAMES, LABEL_RULE
from monai_ext.demo.slabs import SLABS

LICENCE_FILE = "LICENSE-ICBM152.txt"

Item = dict[str, str]


def make_datalist(
    name: str,
    description: str,
    items: dict[str, list[Item]],
    to_root: str = "",
    class_names: Sequence[str] = CLASS_NAMES,
    label_rule: str = LABEL_RULE,
) -> dict[str, object]:
    """Return a decathlon-style data list.

    Args:
        name: title of the data.
        description: what the images are.
        items: per part the items, with paths relative to the JSON's folder.
        to_root: path from the JSON's folder to the root of the demo data, where the licence lies.
        class_names: of the label values from 0.
        label_rule: how the labels were made.

    Example:
        >>> make_datalist("a", "b", {"training": [], "validation": [], "test": []})["labels"]["2"]
        'grey matter'
    """
    return {
        "name": name,
        "description": f"{description} All parts come from one average brain: scores say that the software works, "
        "not how well a method does on new people.",
        "licence": f"ICBM 152 notice, free for any purpose with the notice kept: {to_root}{LICENCE_FILE}",
        "label_rule": label_rule,
        "slabs_mm": {slab.part: [slab.lower, slab.upper] for slab in SLABS},
        "labels": {str(value): text for value, text in enumerate(class_names)},
        **{slab.part: items[slab.part] for slab in SLABS},
    }


def slab_subject(part: str) -> str:
    """Return the `subject` of a slab: never shared by two parts, shared by all sites that scan the slab."""
    return f"mni152_{part}"

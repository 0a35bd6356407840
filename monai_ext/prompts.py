# SPDX-License-Identifier: Apache-2.0
"""Where prompts travel: three texts in an image's metadata, JSON, since only texts survive every way of batching.

``user_prompts`` (by `PromptFromRequestd`) and ``true_boxes`` (by `TrueBoxd`) go in; ``prompts``, the record of what
was used (by `PromptedSliceInferer`), comes out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

USER_PROMPTS = "user_prompts"
TRUE_BOXES = "true_boxes"
RECORD = "prompts"
Record = dict[str, Any]


def with_meta(image: Tensor, entries: Mapping[str, str]) -> MetaTensor:
    """Return the same voxels with more metadata; the given image keeps its own.

    Example:
        >>> import torch
        >>> with_meta(torch.zeros(1, 4, 4), {"prompts": ""}).meta["prompts"]
        ''
    """
    if not isinstance(image, MetaTensor):
        image = MetaTensor(image)
    copy = MetaTensor(image.as_tensor()).copy_meta_from(image)
    copy.meta = {**image.meta, **entries}
    return copy


def read_record(image: object) -> Record | None:
    """Return the record in an image's metadata, None where there is none."""
    text = image.meta.get(RECORD) if isinstance(image, MetaTensor) else None
    if isinstance(text, list | tuple) and len(text) == 1:  # a batch of one
        text = text[0]
    return json.loads(text) if isinstance(text, str) and text else None


def count_prompts(record: Mapping[str, Any]) -> Counter[str]:
    """Count the slices by the prompt that they got.

    Example:
        >>> count_prompts({"slices": [{"index": 0, "prompt": "self"}, {"index": 1, "prompt": "self"}]})
        Counter({'self': 2})
    """
    return Counter(str(entry["prompt"]) for entry in record["slices"])


def counts_text(counts: Mapping[str, int]) -> str:
    """Write counts in a line, the most frequent first.

    Example:
        >>> counts_text({"null": 12, "self": 31})
        'self 31, null 12'
    """
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))

# SPDX-License-Identifier: Apache-2.0
"""The two views of an image that a contrastive network learns from, and how alike it finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor


class ViewPanels:
    """Turn the output of a contrastive network for one image into pictures, for `SamplePictures`.

    The title of the second view has the cosine between the projections of both.

    Example:
        >>> import torch
        >>> projection = torch.rand(128)
        >>> output = {"image": torch.rand(2, 32, 32), "pred": [projection, -projection]}
        >>> list(ViewPanels()(output))
        ['first view', 'second, cosine -1.00']
    """

    def __call__(self, output: Mapping[str, Any]) -> dict[str, Tensor]:
        first, second = output["image"].chunk(2)
        one, other = (projection.float() for projection in output["pred"])
        cosine = float(F.cosine_similarity(one, other, dim=0))
        return {"first view": first, f"second, cosine {cosine:.2f}": second}

# SPDX-License-Identifier: Apache-2.0
"""What a client of MONAI Label asks of two scans, on its way from preprocessing to the inferer and the result.

A server hands nothing but the image to an inferer, so the request travels in the image's metadata.
"""

from __future__ import annotations

from dataclasses import dataclass

from monai.data import MetaTensor
from torch import Tensor

MATCH_REQUEST = "match_request"


@dataclass(frozen=True, eq=False)
class MatchRequest:
    """Points of a fixed scan, to be found in the image that carries this.

    Attributes:
        name: of the fixed scan.
        reference: the fixed scan (C, *axes), preprocessed like the image.
        points: (N, 3), RAS mm in the fixed scan.
        names: of the points.
        space: ``RAS`` or ``LPS``, of the places that go back to the client.
    """

    name: str
    reference: Tensor
    points: Tensor
    names: tuple[str, ...]
    space: str = "RAS"

    def __deepcopy__(self, memo: object) -> MatchRequest:
        """Return itself: nothing of it ever changes, and metadata is copied at every step."""
        return self


def read_match_request(image: object) -> MatchRequest | None:
    """Return the request that an image carries, None where there is none.

    Example:
        >>> import torch
        >>> read_match_request(MetaTensor(torch.zeros(1, 2, 2, 2))) is None
        True
    """
    request = image.meta.get(MATCH_REQUEST) if isinstance(image, MetaTensor) else None
    return request if isinstance(request, MatchRequest) else None

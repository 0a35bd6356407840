# SPDX-License-Identifier: Apache-2.0
"""Finds the points of one scan in another."""

from __future__ import annotations

from typing import Any

import torch.nn as nn
from monai.inferers import Inferer
from torch import Tensor

from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from monai_ext.inferers.volume_embedder import VolumeEmbedder
from monai_ext.match_request import read_match_request
from monai_ext.matching import MatchedPoints, PointMatcher


class PointMatchInferer(Inferer):
    """Embed two whole scans and match points between them.

    MONAI Label gives an inferer the image and the network alone, and takes the first of what comes back. There the
    image carries the rest, see `monai_ext.transforms.ReferenceFromRequestd`, and the matches come in a list of one.

    Args:
        matcher: finds points, given the embeddings of both scans.
        embedder: embeds a scan; with its ``cache_dir`` each scan is embedded once.

    Example:
        >>> import torch
        >>> from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
        >>> network, scan = ResNetFPN3d(base_channels=2, embedding_dim=4), torch.rand(1, 8, 32, 32)
        >>> match = PointMatchInferer(PointMatcher(), VolumeEmbedder())
        >>> match(scan, network, reference=scan, points=torch.tensor([[4.5, 8.5, 10.5]])).points.shape
        torch.Size([1, 3])
    """

    def __init__(self, matcher: PointMatcher, embedder: VolumeEmbedder) -> None:
        super().__init__()
        self.matcher = matcher
        self.embedder = embedder

    def __call__(  # type: ignore[override]  # the network's own further arguments are none of ours
        self,
        inputs: Tensor,
        network: nn.Module,
        reference: Tensor | None = None,
        points: Tensor | None = None,
        case: str = "",
        **kwargs: Any,
    ) -> MatchedPoints | list[MatchedPoints]:
        """Match points.

        Args:
            inputs: the moving scan (C, *axes) or (1, C, *axes), oriented, resampled and scaled.
            network: gives the embeddings.
            reference: the fixed scan, likewise.
            points: (N, axes), RAS mm in the fixed scan.
            case: name for messages.
            **kwargs: of no effect.

        Raises:
            InputError: there is no second scan or no points, or the scans cannot be embedded.
        """
        request = read_match_request(inputs)
        if request is not None:
            return [self._match(inputs, network, request.reference, request.points, request.name)]
        if reference is None or points is None:
            missing = "the fixed scan ('reference')" if reference is None else "'points'"
            raise InputError(f"{case or 'matching'}: {missing} is missing; list pairs of scans with points.")
        return self._match(inputs, network, reference, points, case)

    def _match(self, inputs: Tensor, network: nn.Module, reference: Tensor, points: Tensor, case: str) -> MatchedPoints:
        network = unwrap(network)  # processes have different numbers of scans, and would wait for each other
        fixed = self.embedder(reference, network, f"{case} (fixed)".strip())
        moving = self.embedder(inputs, network, f"{case} (moving)".strip())
        return self.matcher(fixed, moving, points)

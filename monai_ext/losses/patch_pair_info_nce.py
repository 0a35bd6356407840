# SPDX-License-Identifier: Apache-2.0
"""The training objective of self-supervised anatomical embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.losses._patch_pair import Anchors, Head, PatchPair, blend, read_at, read_cells
from monai_ext.losses.negative_mining import MINING_PRESETS, NegativeMining, hard_negatives

POSITIVES = ("interp", "nearest")
NO_OVERLAP = ("skip", "self")
REDUCTIONS = ("sum", "mean")
TERMS = ("local_first", "local_second", "global_first", "global_second")


class PatchPairInfoNCE(nn.Module):
    r"""Pull together what two patches say of one place, and push it from what they say of similar other places.

    Self-supervised anatomical embedding (Yan et al. 2022, https://arxiv.org/abs/2012.02383). Anchors are local cells
    of one patch that the other shows, too. For an anchor's unit vector :math:`f`, the vector :math:`f'` at the same
    place of the other patch and negatives :math:`h_j`

    .. math:: l = -\log \frac{\exp(f f' / \tau)}{\exp(f f' / \tau) + \sum_j \exp(f h_j / \tau)}.

    This is taken for the local and the global embedding and for anchors of the first and of the second patch: four
    parts, each the mean over its anchors and then over the pairs. Where sources differ or are silent:

    - The same place is found by the patches' affines, not by search; vectors there are interpolated linearly and
      brought to unit length. ``positive="nearest"`` takes the nearest cell, as the published code does.
    - Local negatives are the cells most similar by the sum of both embeddings, but only their local similarity
      counts. `NegativeMining` says how many.
    - What is near an anchor, and the cells that its vectors are made of, can never be chosen: their similarity becomes
      minus infinity. (The published code sets it to 0, and may choose them.)
    - Diverse negatives come from other pairs; a batch of one pair does without them.
    - A pair without overlap counts for nothing. ``no_overlap="self"`` makes each anchor its own positive with
      negatives from its own patch.
    - The loss is the sum of the four parts; ``direction_reduction="mean"`` halves it, as the published code does.

    All is computed in float32 (or float64, if that comes in) whatever autocast says. After a call ``terms`` has the
    four parts without gradient: ``local_first``, ``local_second``, ``global_first`` and ``global_second``.

    Args:
        mining: ``official``, ``notes`` or a `NegativeMining`.
        num_positives: anchors of each patch, or as many as there are.
        temperature: tau.
        positive: ``interp`` or ``nearest``.
        no_overlap: ``skip`` or ``self``.
        direction_reduction: ``sum`` or ``mean``.
        local_stride: voxels a local cell along each axis of the patch; its length decides between 2-D and 3-D.
        global_stride: voxels a global cell.

    Shape:
        outputs: ``local`` (2 N, C, ...) and ``global`` (2 N, C, ...), unit vectors; patches 2 i and 2 i + 1 are a
        pair. target: ``affine`` (2 N, axes + 1, axes + 1), from a patch's voxels to mm of the pair's common volume,
        its axes at right angles; and, if anchors are to lie in a mask, ``body`` (2 N, 1, *patch). -> a single number.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.

    Example:
        >>> maps = {"local": torch.randn(4, 8, 4, 6, 6), "global": torch.randn(4, 8, 2, 1, 1)}
        >>> outputs = {name: F.normalize(x, dim=1) for name, x in maps.items()}
        >>> loss = PatchPairInfoNCE(mining="notes", num_positives=5)
        >>> bool(loss(outputs, {"affine": torch.eye(4).expand(4, 4, 4)}).isfinite()), sorted(loss.terms)
        (True, ['global_first', 'global_second', 'local_first', 'local_second'])
    """

    def __init__(
        self,
        mining: str | NegativeMining = "official",
        num_positives: int = 100,
        temperature: float = 0.5,
        positive: str = "interp",
        no_overlap: str = "skip",
        direction_reduction: str = "sum",
        local_stride: Sequence[int] = (2, 2, 2),
        global_stride: Sequence[int] = (4, 16, 16),
    ) -> None:
        super().__init__()
        if isinstance(mining, str):
            _require("mining", mining, tuple(MINING_PRESETS))
            mining = MINING_PRESETS[mining]
        _require("positive", positive, POSITIVES)
        _require("no_overlap", no_overlap, NO_OVERLAP)
        _require("direction_reduction", direction_reduction, REDUCTIONS)
        if num_positives < 1:
            raise ValueError(f"num_positives must be at least 1, got {num_positives}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.mining = mining
        self.num_positives = num_positives
        self.temperature = temperature
        self.positive = positive
        self.no_overlap = no_overlap
        self.direction_reduction = direction_reduction
        self.strides = (tuple(local_stride), tuple(global_stride))
        self.terms: dict[str, Tensor] = {}

    def forward(
        self, outputs: Mapping[str, Tensor], target: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the loss; ``generator`` (on the outputs' device) draws anchors and negatives."""
        local, coarse, affine = (_plain(x) for x in (outputs["local"], outputs["global"], target["affine"]))
        self._check(local, coarse, affine)
        parts: dict[str, list[Tensor]] = {name: [] for name in TERMS}
        with torch.autocast(local.device.type, enabled=False):
            local, coarse, affine = _at_least_float(local), _at_least_float(coarse), affine.to(local.device).double()
            body = _body_cells(target.get("body"), local, self.strides[0])
            for first in range(0, len(local), 2):
                both = slice(first, first + 2)
                pair = PatchPair(local[both], coarse[both], affine[both], self.strides, body[both])
                others = torch.cat([coarse[:first], coarse[first + 2 :]]).transpose(0, 1).flatten(1)  # (C, cells)
                for name, value in self._parts(pair, others, generator):
                    parts[name].append(value)
            # a batch without any overlap still has a gradient, of zeros
            nothing = 0.0 * (local.sum() + coarse.sum())
            means = {name: torch.stack(values).mean() if values else nothing for name, values in parts.items()}
            loss = torch.stack(list(means.values())).sum()
        self.terms = {name: value.detach() for name, value in means.items()}
        return loss / 2 if self.direction_reduction == "mean" else loss

    def _parts(
        self, pair: PatchPair, others: Tensor, generator: torch.Generator | None
    ) -> Iterator[tuple[str, Tensor]]:
        for view, name in enumerate(("first", "second")):
            anchors = pair.anchors(view, self.num_positives, self.no_overlap == "self", generator)
            if len(anchors.cells):
                coarse = self._coarse_vectors(pair, view, anchors)
                yield f"local_{name}", self._local(pair, view, anchors, coarse[0].detach(), generator)
                yield f"global_{name}", self._global(pair, view, anchors, coarse, others, generator)

    def _local(
        self, pair: PatchPair, view: int, anchors: Anchors, coarse: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        rows, own = pair.local.rows, anchors.cells + view * len(pair.local.grid)
        with torch.no_grad():
            similarity = rows[own] @ rows.T
            similarity += self._resized(pair, coarse)
            mining = self.mining
            _forbid(similarity, pair, pair.local, view, anchors, mining.local_ignore_mm)
            cells, counts = hard_negatives(similarity, mining.local_candidates, mining.local_negatives, generator)
            del similarity
        there, weights = self._positive_cells(pair.local, view, anchors)
        # one gathering, since each has a gradient as large as all rows
        wanted = torch.cat([own[:, None], there, cells], dim=1)
        anchor, positive, negative = F.embedding(wanted, rows).split([1, there.shape[1], cells.shape[1]], dim=1)
        logits = torch.bmm(negative, anchor.transpose(1, 2))[..., 0].masked_fill(~counts, -torch.inf)
        anchor = anchor[:, 0]
        positive = anchor if anchors.alone else blend(positive, weights)
        return _info_nce((anchor * positive).sum(dim=1), logits, self.temperature)

    def _resized(self, pair: PatchPair, coarse: Tensor) -> Tensor:
        """Similarity of global vectors (N, C) at all local cells of both patches."""
        maps = (coarse @ pair.coarse.rows.T).reshape(-1, *pair.coarse.grid.shape)  # an anchor's two patches in turn
        resized = pair.resize(maps).reshape(len(coarse), -1)
        return resized.mul_(pair.inverse_lengths) if self.mining.unit_length else resized

    def _global(
        self,
        pair: PatchPair,
        view: int,
        anchors: Anchors,
        vectors: tuple[Tensor, Tensor],
        others: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        anchor, positive = vectors
        similarity = anchor @ pair.coarse.rows.T  # (n, 2 cells)
        with torch.no_grad():
            mining, allowed = self.mining, similarity.clone()
            _forbid(allowed, pair, pair.coarse, view, anchors, mining.global_ignore_mm)
            cells, counts = hard_negatives(allowed, mining.global_candidates, mining.global_negatives, generator)
            drawn = torch.randperm(others.shape[1], generator=generator, device=others.device)[: mining.global_random]
        hard = similarity.gather(1, cells).masked_fill(~counts, -torch.inf)
        return _info_nce(
            (anchor * positive).sum(dim=1), torch.cat([hard, anchor @ others[:, drawn]], dim=1), self.temperature
        )

    def _coarse_vectors(self, pair: PatchPair, view: int, anchors: Anchors) -> tuple[Tensor, Tensor]:
        """Global unit vectors (n, C) of the anchors and of their positives."""
        here, weights = read_at(pair.coarse, view, anchors.places[view])
        anchor = blend(F.embedding(here, pair.coarse.rows), weights)
        if anchors.alone:
            return anchor, anchor
        there, weights = self._positive_cells(pair.coarse, view, anchors)
        return anchor, blend(F.embedding(there, pair.coarse.rows), weights)

    def _positive_cells(self, head: Head, view: int, anchors: Anchors) -> tuple[Tensor, Tensor]:
        return read_at(head, 1 - view, anchors.places[1 - view], nearest=self.positive == "nearest")

    def _check(self, local: Tensor, coarse: Tensor, affine: Tensor) -> None:
        axes = len(self.strides[0])
        patches = len(local)
        if local.ndim != axes + 2 or coarse.ndim != axes + 2 or len(coarse) != patches or patches % 2 or not patches:
            raise ValueError(
                f"local and global must be (2 N, C, {axes} axes), pairs one after the other, got {tuple(local.shape)} "
                f"and {tuple(coarse.shape)}."
            )
        if affine.shape != (patches, axes + 1, axes + 1):
            raise ValueError(f"affine must be {(patches, axes + 1, axes + 1)}, got {tuple(affine.shape)}.")


def _info_nce(positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy of similarities: (N,) against (N, M), -inf where there is no negative."""
    logits = torch.cat([positive[:, None], negatives], dim=1) / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def _forbid(similarity: Tensor, pair: PatchPair, head: Head, view: int, anchors: Anchors, distance: float) -> None:
    """Make -inf what is no negative: near cells, those that the vectors are made of, and a patch without overlap."""
    similarity.masked_fill_(pair.near(head, anchors, distance), -torch.inf)
    for patch, places in enumerate(anchors.places):
        similarity.scatter_(1, read_cells(head, patch, places), -torch.inf)
    if anchors.alone:
        similarity.chunk(2, dim=1)[1 - view].fill_(-torch.inf)


def _body_cells(body: Tensor | None, local: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Say which local cells have most of their voxels in the body, (2 N, *cells); all without a mask."""
    shape = (len(local), *local.shape[2:])
    if body is None:
        return torch.ones(shape, dtype=torch.bool, device=local.device)
    if body.ndim != local.ndim or body.shape[:2] != (len(local), 1):
        raise ValueError(f"body must be ({len(local)}, 1, *patch), got {tuple(body.shape)}.")
    pool = F.avg_pool2d if len(stride) == 2 else F.avg_pool3d
    shares = pool(_plain(body).to(local.device, torch.float32), stride, ceil_mode=True, count_include_pad=False)[:, 0]
    if any(have < want for have, want in zip(shares.shape, shape, strict=True)):
        raise ValueError(f"body must have the patches' size, {local.shape[2:]} cells need more than {body.shape[2:]}.")
    return shares[tuple(slice(side) for side in shape)] > 0.5


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

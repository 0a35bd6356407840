# SPDX-License-Identifier: Apache-2.0
"""Anatomical embedding: matching points, one click, and the loss with its mining, against the published steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row, alternate, check_equal, fresh_process, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    from torch import Tensor

    from monai_ext.losses import PatchPairInfoNCE
    from monai_ext.matching import VolumeEmbedding

LOCAL, GLOBAL = (2, 2, 2), (4, 16, 16)
PATCH_SPACING = 2.0


def measure(rounds: int, quick: bool) -> list[Row]:
    """All of it; random embeddings of the published width."""
    volume = {"size": (16, 32, 48), "channels": 8} if quick else {"size": (160, 176, 224), "channels": 128}
    patch = {"size": (8, 32, 32), "channels": 8} if quick else {"size": (32, 96, 96), "channels": 128}
    rows = under_allocators("benchmarks.anatomical_embedding:points", {**volume, "rounds": rounds, "count": 100}, quick)
    rows += _by_default("working_set", {**volume, "count": 100}, quick)
    rows += under_allocators("benchmarks.anatomical_embedding:click", {**volume, "rounds": rounds}, quick)
    rows += under_allocators("benchmarks.anatomical_embedding:loss", {**patch, "rounds": rounds, "pairs": 2}, quick)
    return rows + _by_default("loss_memory", {**patch, "pairs": 2}, quick)


def points(size: tuple[int, ...], channels: int, count: int, rounds: int) -> list[Row]:
    """Many points: identical cells, with what depends on the volumes alone computed in the call or kept."""
    maps, voxels = [_maps(size, channels, seed) for seed in (0, 1)], _voxels(size, count)
    kept = [_volume(each) for each in maps]

    def anew() -> tuple[Tensor, Tensor]:
        return _search([_volume(each) for each in maps], voxels)

    published, ours = published_points(*maps, voxels), _search(kept, voxels)
    equality = {**_same_cells(published[0], ours[0]), **check_equal([published[1]], [ours[1]], 1e-5)}
    contenders: dict[str, Callable[[], Any]] = {
        "published / ours, lengths computed in the call": anew,
        "published / ours, lengths kept": lambda: _search(kept, voxels),
        "published / ours, lengths kept, and the way back": lambda: _there_and_back(kept, voxels),
    }
    return [
        {"what": name, "case": _case(size, channels, f"{count} points"), **times, **equality}
        for name, run in contenders.items()
        for times in [alternate(lambda: published_points(*maps, voxels), run, rounds)]
    ]


def working_set(size: tuple[int, ...], channels: int, count: int) -> list[Row]:
    """Memory that one search takes beyond the embeddings; that of a volume's kept lengths included."""
    maps, voxels = [_maps(size, channels, seed) for seed in (0, 1)], _voxels(size, count)
    ours = _taken(lambda: _search([_volume(each) for each in maps], voxels))
    published = _taken(lambda: published_points(*maps, voxels))
    return [
        {
            "what": "working set",
            "case": _case(size, channels, f"{count} points"),
            "published_mb": round(published, 1),
            "ours_mb": round(ours, 1),
        }
    ]


def click(size: tuple[int, ...], channels: int, rounds: int) -> list[Row]:
    """One point on embeddings in memory: the same cell. The published call also resizes its map to the image."""
    maps, voxels = [_maps(size, channels, seed) for seed in (0, 1)], _voxels(size, 1)
    kept = [_volume(each) for each in maps]
    cell = _search(kept, voxels)[0]
    equality = _same_cells(published_points(*maps, voxels)[0], cell)
    # resizing blends neighbours: in noise the top of the resized map may lie beside the top cell
    apart = float((published_click(*maps, voxels) - (2 * cell[0] + 0.5)).abs().max())
    times = alternate(lambda: published_click(*maps, voxels), lambda: _search(kept, voxels), rounds)
    return [{"what": "one click", "case": _case(size, channels, "1 point"), **times, **equality, "voxels_apart": apart}]


def loss(size: tuple[int, ...], channels: int, pairs: int, rounds: int) -> list[Row]:
    """Forward and backward with mining; the published distances are already torch.cdist, which is much faster."""
    ways = _loss_steps(size, channels, pairs)
    times = alternate(ways["published"], ways["ours"], rounds)
    values = {f"{name}_value": round(way(), 3) for name, way in ways.items()}
    return [{"what": "loss and mining, both ways", "case": _case(size, channels, f"{pairs} pairs"), **times, **values}]


def loss_memory(size: tuple[int, ...], channels: int, pairs: int) -> list[Row]:
    """Memory that a forward and a backward pass of the loss take beyond the embeddings."""
    taken = {f"{name}_mb": round(_taken(way), 1) for name, way in _loss_steps(size, channels, pairs).items()}
    return [{"what": "loss and mining, memory", "case": _case(size, channels, f"{pairs} pairs"), **taken}]


def _loss_steps(size: tuple[int, ...], channels: int, pairs: int) -> dict[str, Callable[[], float]]:
    import torch

    from monai_ext.losses import PatchPairInfoNCE

    objective = PatchPairInfoNCE(direction_reduction="mean")
    maps, offsets = _patches(size, channels, pairs)

    def step(run: Callable[..., Tensor]) -> float:
        torch.manual_seed(0)
        outputs = {name: x.detach().requires_grad_() for name, x in maps.items()}
        value = run(objective, outputs, offsets)
        value.backward()
        return value.item()

    return {"published": lambda: step(published_loss), "ours": lambda: step(_our_loss)}


def published_points(fixed: dict[str, Tensor], moving: dict[str, Tensor], voxels: Tensor) -> tuple[Tensor, Tensor]:
    """Return cells and scores as the published multi-point search computes them, every time from the beginning."""
    import torch

    vectors, keys = [_published_maps(maps) for maps in (fixed, moving)]
    cells = voxels // 2
    similarity = sum(
        maps[:, cells[:, 0], cells[:, 1], cells[:, 2]].T @ key.flatten(1)
        for maps, key in zip(vectors, keys, strict=True)
    )
    similarity = (similarity / 2).unflatten(1, keys[0].shape[1:])
    found, scores = [], []
    for each in similarity:
        top = each.max()
        found.append(torch.stack([axis[0] for axis in torch.where(each == top)]))
        scores.append(top)
    return torch.stack(found), torch.stack(scores)


def published_click(fixed: dict[str, Tensor], moving: dict[str, Tensor], voxels: Tensor) -> Tensor:
    """Return the voxel of the top of one point's similarity, resized to the image."""
    import torch
    import torch.nn.functional as F

    vectors, keys = [_published_maps(maps) for maps in (fixed, moving)]
    cell = (slice(None), *(voxels[0] // 2).tolist())
    similarity = sum(torch.einsum("c,czyx->zyx", maps[cell], key) for maps, key in zip(vectors, keys, strict=True))
    image = F.interpolate(similarity[None, None] / 2, scale_factor=2, mode="trilinear", align_corners=False)[0, 0]
    return torch.stack([axis[0] for axis in torch.where(image == image.max())])


def published_loss(objective: PatchPairInfoNCE, outputs: dict[str, Tensor], offsets: Tensor) -> Tensor:
    """Return the loss by the published steps: search for positives, then one anchor after the other."""
    import torch

    rule, total = objective.mining, []
    local, coarse = outputs["local"], outputs["global"]
    where = [_places(local, LOCAL, offsets), _places(coarse, GLOBAL, offsets)]
    rows = [x.flatten(2).transpose(1, 2) for x in (local, coarse)]  # (2 N, cells, C)
    resized = torch.stack(_resized_rows(coarse, local))
    for first in range(0, len(local), 2):
        pair = slice(first, first + 2)
        keys = [x[pair].flatten(0, 1) for x in (*rows, resized)]
        places = [x[pair].flatten(0, 1) for x in where]
        values: dict[str, list[Tensor]] = {"local": [], "global": []}
        for own, other in ((first, first + 1), (first + 1, first)):
            chosen, partner = _nearest(where[0][own], where[0][other], 2000, 2.0, objective.num_positives)
            cosine = rows[0][own][chosen] @ keys[0].T
            near = torch.cdist(where[0][own][chosen], places[0]) < rule.local_ignore_mm
            combined = (cosine.detach() + resized[own][chosen] @ keys[2].T) * ~near
            positive = (rows[0][own][chosen] * rows[0][other][partner]).sum(dim=1)
            for index in range(len(chosen)):
                best = _drawn(combined[index], rule.local_candidates, rule.local_negatives)
                values["local"].append(_cross_entropy(positive[index], cosine[index, best], objective.temperature))
            chosen, partner = _nearest(where[1][own], where[1][other], len(where[1][own]), 25.0, None, depth=8.0)
            others = torch.cat([rows[1][:first], rows[1][first + 2 :]]).flatten(0, 1)
            cosine = rows[1][own][chosen] @ keys[1].T
            diverse = rows[1][own][chosen] @ others[torch.randint(len(others), (rule.global_random,))].T
            near = torch.cdist(where[1][own][chosen], places[1]) < rule.global_ignore_mm
            positive = (rows[1][own][chosen] * rows[1][other][partner]).sum(dim=1)
            for index in range(len(chosen)):
                allowed = cosine[index].detach() * ~near[index]
                best = _drawn(allowed, rule.global_candidates or rule.global_negatives, rule.global_negatives)
                negatives = torch.cat([cosine[index, best], diverse[index]])
                values["global"].append(_cross_entropy(positive[index], negatives, objective.temperature))
        total += [torch.stack(each).mean() for each in values.values() if each]
    return torch.stack(total).sum() / (len(local) // 2)


def _our_loss(objective: PatchPairInfoNCE, outputs: dict[str, Tensor], offsets: Tensor) -> Tensor:
    import torch

    affine = torch.diag(torch.tensor([PATCH_SPACING] * 3 + [1.0])).repeat(len(offsets), 1, 1)
    affine[:, :3, 3] = offsets
    return objective(outputs, {"affine": affine})


def _nearest(
    own: Tensor, other: Tensor, tried: int, distance: float, wanted: int | None, depth: float | None = None
) -> tuple[Tensor, Tensor]:
    """Cells of one patch with a cell of the other nearer than a distance (and in depth), and the nearest one."""
    import torch

    low, high = other.amin(dim=0), other.amax(dim=0)
    candidates = ((own >= low - distance) & (own <= high + distance)).all(dim=1).nonzero()[:, 0]
    candidates = candidates[torch.randperm(len(candidates))[:tried]]
    distances = torch.cdist(own[candidates], other)
    if depth is not None:
        distances[(own[candidates, None, 0] - other[:, 0]).abs() >= depth] = torch.inf
    nearest = distances.min(dim=1)
    matched = nearest.values < distance
    return candidates[matched][:wanted], nearest.indices[matched][:wanted]


def _drawn(similarity: Tensor, candidates: int, negatives: int) -> Tensor:
    """Some of the most similar cells of one anchor."""
    import torch

    best = similarity.topk(min(candidates, len(similarity))).indices
    return best[torch.randperm(len(best))[:negatives]]


def _cross_entropy(positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    import torch

    logits = torch.cat([positive[None], negatives]) / temperature
    return logits.logsumexp(dim=0) - logits[0]


def _places(maps: Tensor, stride: tuple[int, ...], offsets: Tensor) -> Tensor:
    """Places of all cells in mm, (2 N, cells, 3)."""
    import torch

    axes = [PATCH_SPACING * (torch.arange(n) * s + (s - 1) / 2) for n, s in zip(maps.shape[2:], stride, strict=True)]
    return torch.cartesian_prod(*axes) + offsets[:, None]


def _resized_rows(coarse: Tensor, local: Tensor) -> list[Tensor]:
    return [
        _published_maps({"local": fine, "global": maps})[1].flatten(1).T
        for fine, maps in zip(local.detach(), coarse.detach(), strict=True)
    ]


def _published_maps(maps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the local embedding, and the global one resized to it, its length restored."""
    import torch.nn.functional as F

    size = maps["local"].shape[1:]
    resized = F.interpolate(maps["global"][None], size=size, mode="trilinear", align_corners=False)[0]
    return maps["local"], F.normalize(resized, dim=0)


def _search(volumes: list[VolumeEmbedding], voxels: Tensor) -> tuple[Tensor, Tensor]:
    from monai_ext.matching._search import best_cells, describe

    return best_cells(volumes[1], describe(volumes[0], voxels.double(), "cell"), budget_mb=64)


def _there_and_back(volumes: list[VolumeEmbedding], voxels: Tensor) -> None:
    from monai_ext.matching import PointMatcher

    PointMatcher()(volumes[0], volumes[1], volumes[0].to_world(voxels))


def _volume(maps: dict[str, Tensor]) -> VolumeEmbedding:
    import torch

    from monai_ext.matching import VolumeEmbedding

    return VolumeEmbedding(maps, torch.eye(4))


def _maps(size: tuple[int, ...], channels: int, seed: int) -> dict[str, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = {
        name: (channels, *(-(-n // s) for n, s in zip(size, stride, strict=True)))
        for name, stride in (("local", LOCAL), ("global", GLOBAL))
    }
    maps = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: x / x.norm(dim=0) for name, x in maps.items()}


def _patches(size: tuple[int, ...], channels: int, pairs: int) -> tuple[dict[str, Tensor], Tensor]:
    """Embeddings of patches at places (2 N, 3) in mm that overlap."""
    import torch

    each = [_maps(size, channels, seed) for seed in range(2 * pairs)]
    # 1.2 mm from whole cells, so that the published search finds positives within its 2 mm
    moved = torch.tensor([[0.0, 0.0, 0.0], [4.0 * round(n / 10) + 0.7 for n in size]])
    return {name: torch.stack([maps[name] for maps in each]) for name in each[0]}, moved.repeat(pairs, 1)


def _voxels(size: tuple[int, ...], count: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(9)
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in size], dim=1)


def _same_cells(published: Tensor, ours: Tensor) -> Row:
    same = int((published == ours).all(dim=1).sum())
    assert same == len(published), f"{len(published) - same} of {len(published)} cells differ"
    return {"identical_cells": f"{same}/{len(published)}"}


def _by_default(function: str, arguments: dict[str, Any], quick: bool) -> list[Row]:
    """Measure memory in a process that gives it back: one that keeps what was freed shows nothing."""
    name = f"benchmarks.anatomical_embedding:{function}"
    return globals()[function](**arguments) if quick else fresh_process(name, arguments)


def _taken(run: Callable[[], Any]) -> float:
    """Peak of memory during a call beyond what was in use before, after one unmeasured call."""
    run()
    reset_peak()
    before = memory_mb("VmRSS")
    run()
    return max(memory_mb("VmHWM") - before, 0.0)


def _case(size: tuple[int, ...], channels: int, more: str) -> str:
    return f"{' x '.join(str(side) for side in size)}, {channels} channels, {more}"


if __name__ == "__main__":
    main("anatomical_embedding", __doc__, measure, rounds=5)

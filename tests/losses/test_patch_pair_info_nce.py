# SPDX-License-Identifier: Apache-2.0
"""PatchPairInfoNCE against the formula written cell by cell, and the laws of its negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.losses import NegativeMining, PatchPairInfoNCE
from monai_ext.losses.patch_pair_info_nce import TERMS

STRIDES = {"local_stride": (2, 2, 2), "global_stride": (4, 4, 4)}
EVERYTHING = {"local_candidates": 10**6, "local_negatives": 10**6, "global_candidates": None, "global_negatives": 10**6}
NEAREST = {"local_candidates": 9, "local_negatives": 9, "global_candidates": None, "global_negatives": 3}


def affine(spacing: Sequence[float], offset: Sequence[float], degrees: float = 0.0) -> Tensor:
    """Scaled, turned in the plane of the last two axes, and moved."""
    dims, angle = len(spacing), math.radians(degrees)
    matrix = torch.eye(dims + 1, dtype=torch.float64)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[dims - 2 : dims, dims - 2 : dims] = turn.double()
    matrix[:dims, :dims] *= torch.tensor(spacing, dtype=torch.float64)
    matrix[:dims, dims] = torch.tensor(offset, dtype=torch.float64)
    return matrix


PAIRS = [
    affine((2.0, 2.0, 2.0), (0, 0, 0)),
    affine((1.7, 2.2, 2.2), (3.1, -2.0, 4.0), degrees=10),
    affine((2.2, 1.8, 2.0), (0, 5, 0)),
    affine((2.0, 2.0, 2.0), (1, 2, -3)),
]
# the second pair does not overlap
APART = [*PAIRS[:2], PAIRS[2], affine((2.0, 2.0, 2.0), (500, 0, 0))]


def embeddings(patches: int = 4, dims: int = 3, channels: int = 6, local: int = 4, coarse: int = 2) -> dict:
    """Smooth enough that neighbours resemble each other, of unit length, in double precision."""
    maps = {
        "local": torch.randn(patches, channels, *[local] * dims),
        "global": torch.randn(patches, channels, *[coarse] * dims),
    }
    return {name: F.normalize(x.double(), dim=1).requires_grad_() for name, x in maps.items()}


class Naive:
    """The objective by loops over anchors and cells; every draw takes everything, so that nothing is random."""

    def __init__(
        self, outputs: dict, affines: Tensor, strides: tuple, mining: NegativeMining, **options: object
    ) -> None:
        self.maps = (outputs["local"], outputs["global"])
        self.affines, self.strides, self.mining = affines, strides, mining
        self.temperature = float(options.get("temperature", 0.5))  # type: ignore[arg-type]
        self.nearest = options.get("positive") == "nearest"
        self.body = options.get("body")
        self.found: dict[tuple, dict] = {}

    def cells(self, head: int) -> list[tuple[int, ...]]:
        return list(product(*(range(side) for side in self.maps[head].shape[2:])))

    def voxel(self, head: int, cell: Sequence[float]) -> Tensor:
        return torch.tensor([c * s + (s - 1) / 2 for c, s in zip(cell, self.strides[head], strict=True)]).double()

    def world(self, patch: int, voxel: Tensor) -> Tensor:
        return self.affines[patch][:-1, :-1] @ voxel + self.affines[patch][:-1, -1]

    def in_cells(self, head: int, patch: int, world: Tensor) -> list[float]:
        matrix, offset = self.affines[patch][:-1, :-1], self.affines[patch][:-1, -1]
        voxel = torch.linalg.inv(matrix) @ (world - offset)
        return [(float(v) - (s - 1) / 2) / s for v, s in zip(voxel, self.strides[head], strict=True)]

    def weights(self, head: int, patch: int, world: Tensor) -> dict[tuple[int, ...], float]:
        key = (head, patch, *world.tolist())
        if key in self.found:
            return self.found[key]
        sides = self.maps[head].shape[2:]
        at = [min(max(c, 0.0), n - 1.0) for c, n in zip(self.in_cells(head, patch, world), sides, strict=True)]
        found = {}
        for cell in self.cells(head):
            weight = math.prod(max(0.0, 1 - abs(a - k)) for a, k in zip(at, cell, strict=True))
            if weight > 1e-6:
                found[cell] = weight
        self.found[key] = found
        return found

    def vector(self, head: int, patch: int, world: Tensor, unit: bool = True) -> Tensor:
        total = sum(w * self.maps[head][(patch, slice(None), *c)] for c, w in self.weights(head, patch, world).items())
        return total / total.norm() if unit else total

    def positive(self, head: int, patch: int, world: Tensor) -> Tensor:
        if not self.nearest:
            return self.vector(head, patch, world)
        sides = self.maps[head].shape[2:]
        cell = [min(max(round(c), 0), n - 1) for c, n in zip(self.in_cells(head, patch, world), sides, strict=True)]
        return self.maps[head][(patch, slice(None), *cell)]

    def anchors(self, patch: int, other: int) -> list[tuple[tuple[int, ...], Tensor]]:
        found = []
        for cell in self.cells(0):
            if self.body is not None and self.body[(patch, 0, *(2 * c for c in cell))] == 0:
                continue
            world = self.world(patch, self.voxel(0, cell))
            there = self.in_cells(0, other, world)
            if all(0 <= c <= n - 1 for c, n in zip(there, self.maps[0].shape[2:], strict=True)):
                found.append((cell, world))
        return found

    def negatives(self, head: int, patches: tuple[int, int], world: Tensor) -> list[tuple[int, tuple[int, ...]]]:
        distance = (self.mining.local_ignore_mm, self.mining.global_ignore_mm)[head]
        allowed = []
        for patch in patches:
            made_of = self.weights(head, patch, world)
            for cell in self.cells(head):
                far = float((self.world(patch, self.voxel(head, cell)) - world).norm()) >= distance
                if far and cell not in made_of:
                    allowed.append((patch, cell))
        return allowed

    def cross_entropy(self, anchor: Tensor, positive: Tensor, negatives: list[Tensor]) -> Tensor:
        p = ((anchor @ positive) / self.temperature).exp()
        return -(p / (p + sum(((anchor @ n) / self.temperature).exp() for n in negatives))).log()

    def local(self, patch: int, other: int, cell: tuple[int, ...], world: Tensor) -> Tensor:
        anchor, coarse = self.maps[0][(patch, slice(None), *cell)], self.vector(1, patch, world)
        scored = []
        for where, candidate in self.negatives(0, (patch, other), world):
            there = self.world(where, self.voxel(0, candidate))
            vector = self.maps[0][(where, slice(None), *candidate)]
            summed = anchor @ vector + coarse @ self.vector(1, where, there, self.mining.unit_length)
            scored.append((float(summed), vector))
        scored.sort(key=lambda pair: -pair[0])
        best = [vector for _, vector in scored[: self.mining.local_negatives]]
        return self.cross_entropy(anchor, self.positive(0, other, world), best)

    def coarse(self, patch: int, other: int, world: Tensor) -> Tensor:
        anchor = self.vector(1, patch, world)
        own = [self.maps[1][(w, slice(None), *c)] for w, c in self.negatives(1, (patch, other), world)]
        own.sort(key=lambda vector: -float(anchor @ vector))
        diverse = [
            self.maps[1][(w, slice(None), *c)]
            for w in range(len(self.affines))
            for c in self.cells(1)
            if w not in (patch, other)
        ][: self.mining.global_random or None]
        hard = own[: self.mining.global_negatives]
        return self.cross_entropy(anchor, self.positive(1, other, world), hard + diverse)

    def parts(self) -> dict[str, Tensor]:
        each: dict[str, list[Tensor]] = {name: [] for name in TERMS}
        for first in range(0, len(self.affines), 2):
            for name, patch, other in (("first", first, first + 1), ("second", first + 1, first)):
                found = self.anchors(patch, other)
                if found:
                    each[f"local_{name}"].append(sum(self.local(patch, other, c, w) for c, w in found) / len(found))
                    each[f"global_{name}"].append(sum(self.coarse(patch, other, w) for _, w in found) / len(found))
        return {name: sum(values) / len(values) for name, values in each.items()}


CASES = [
    ({**NEAREST, "local_ignore_mm": 5.0, "global_ignore_mm": 3.0}, {}),
    ({**NEAREST, "local_ignore_mm": 5.0, "global_ignore_mm": 3.0, "unit_length": False}, {"temperature": 0.2}),
    ({**NEAREST, "local_ignore_mm": 7.0, "global_ignore_mm": 9.0}, {"positive": "nearest"}),
    ({**EVERYTHING, "local_ignore_mm": 0.0, "global_ignore_mm": 0.0}, {}),
]


@pytest.mark.parametrize(("numbers", "options", "dims"), [*((*case, 2) for case in CASES), (*CASES[0], 3)])
def test_value_and_gradient_equal_the_formula_written_cell_by_cell(numbers: dict, options: dict, dims: int) -> None:
    mining = NegativeMining(**numbers)
    outputs = embeddings(dims=dims)
    affines = torch.stack([a[-dims - 1 :, -dims - 1 :] for a in PAIRS])
    strides = {name: stride[:dims] for name, stride in STRIDES.items()}
    loss = PatchPairInfoNCE(mining, num_positives=1000, **options, **strides)
    value = loss(outputs, {"affine": affines})
    expected = Naive(outputs, affines, tuple(strides.values()), mining, **options).parts()
    for name in TERMS:
        torch.testing.assert_close(loss.terms[name], expected[name].detach(), atol=1e-10, rtol=0)
    ours = torch.autograd.grad(value, tuple(outputs.values()))
    theirs = torch.autograd.grad(sum(expected.values()), tuple(outputs.values()))
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_anchors_lie_in_the_body() -> None:
    outputs, body = embeddings(2), torch.zeros(2, 1, 8, 8, 8)
    body[:, :, 2:6, 2:6, 2:6] = 1
    mining = NegativeMining(**EVERYTHING, local_ignore_mm=5.0)  # type: ignore[arg-type]
    loss, affines = PatchPairInfoNCE(mining, **STRIDES), torch.stack(PAIRS[:2])
    value = loss(outputs, {"affine": affines, "body": body})
    expected = Naive(outputs, affines, tuple(STRIDES.values()), mining, body=body).parts()
    torch.testing.assert_close(value, sum(expected.values()), atol=1e-10, rtol=0)
    assert value != loss(outputs, {"affine": affines})


def test_the_gradient_is_right_in_double_precision() -> None:
    outputs = embeddings(dims=2, channels=3)
    flat = {name: stride[1:] for name, stride in STRIDES.items()}
    loss = PatchPairInfoNCE(NegativeMining(9, 4, 6, 3, 5, 5.0, 3.0), num_positives=6, **flat)
    affines = torch.stack([a[1:, 1:] for a in PAIRS])

    def value(local: Tensor, coarse: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return loss({"local": local, "global": coarse}, {"affine": affines}, generator)

    assert torch.autograd.gradcheck(value, tuple(outputs.values()), fast_mode=True)


def test_a_generator_decides_all_draws() -> None:
    outputs, target = embeddings(), {"affine": torch.stack(PAIRS)}
    loss = PatchPairInfoNCE(NegativeMining(30, 4, 8, 3, 5, 5.0, 3.0), num_positives=5, **STRIDES)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(values))
        values.append(loss(outputs, target, torch.Generator().manual_seed(seed)))
    assert values[0] == values[1] != values[2]


def test_no_chosen_negative_is_near_and_none_is_part_of_the_positive() -> None:
    """Of a single anchor, only itself, what its positive is made of, and its negatives have a gradient."""
    outputs, affines = embeddings(2), torch.stack(PAIRS[:2])
    mining = NegativeMining(local_candidates=60, local_negatives=30, global_random=0, local_ignore_mm=6.0)
    naive = Naive(outputs, affines, tuple(STRIDES.values()), mining)
    body = torch.zeros(2, 1, 8, 8, 8)
    shared = naive.anchors(0, 1)
    cell, world = shared[len(shared) // 2]
    body[(0, 0, *(slice(2 * c, 2 * c + 2) for c in cell))] = 1
    PatchPairInfoNCE(mining, **STRIDES)(outputs, {"affine": affines, "body": body}).backward()
    touched = outputs["local"].grad.abs().sum(dim=1) > 0
    assert touched.sum() >= 30
    for patch, made_of in ((0, {cell}), (1, set(naive.weights(0, 1, world)))):
        for other in naive.cells(0):
            if float((naive.world(patch, naive.voxel(0, other)) - world).norm()) < 6.0:
                assert bool(touched[(patch, *other)]) == (other in made_of)


def test_diverse_negatives_come_from_other_pairs_alone() -> None:
    outputs, target = embeddings(), {"affine": torch.stack(APART)}
    mining = NegativeMining(9, 9, 9, 3, 4, 5.0, global_ignore_mm=1e4)  # so that none is hard
    PatchPairInfoNCE(mining, num_positives=1, **STRIDES)(outputs, target).backward()
    asked = (outputs["global"].grad.abs().sum(dim=1) > 0).flatten(1).sum(dim=1)
    # two draws of four from the pair without overlap; of the own pair, what anchors and positives are made of
    assert 4 <= asked[2] + asked[3] <= 8
    outputs = {name: x.detach().clone().requires_grad_() for name, x in outputs.items()}
    PatchPairInfoNCE(NegativeMining(9, 9, 9, 3, 0, 5.0, 1e4), num_positives=1, **STRIDES)(outputs, target).backward()
    assert outputs["global"].grad.abs().sum() == 0


@pytest.mark.parametrize("mining", ["official", "notes"])
def test_one_pair_of_few_voxels_is_enough(mining: str) -> None:
    outputs = embeddings(2, local=2, coarse=1)
    loss = PatchPairInfoNCE(mining, **STRIDES)
    value = loss(outputs, {"affine": torch.stack([PAIRS[0], PAIRS[0]])})
    value.backward()
    assert value.isfinite()
    assert all(x.grad.isfinite().all() for x in outputs.values())
    # everything is within the ignored 20 mm, so that nothing is pushed and the positives are perfect or alone
    assert value == 0


def test_embeddings_that_tell_all_cells_apart_reach_the_known_value() -> None:
    cells = torch.eye(64).reshape(64, 4, 4, 4)
    outputs = {
        "local": torch.stack([cells, cells]),
        "global": torch.eye(8).reshape(1, 8, 2, 2, 2).repeat(2, 1, 1, 1, 1),
    }
    mining = NegativeMining(10, 10, None, 4, local_ignore_mm=1.0, global_ignore_mm=1.0)
    loss = PatchPairInfoNCE(mining, **STRIDES)
    loss(outputs, {"affine": torch.stack([PAIRS[0], PAIRS[0]])})
    expected = torch.tensor(math.log(1 + 10 * math.exp(-2)))
    torch.testing.assert_close(loss.terms["local_first"], expected)
    torch.testing.assert_close(loss.terms["local_second"], expected)


def test_a_pair_without_overlap_counts_for_nothing() -> None:
    outputs, loss = embeddings(), PatchPairInfoNCE(NegativeMining(**NEAREST, global_random=0), 1000, **STRIDES)  # type: ignore[arg-type]
    both = loss(outputs, {"affine": torch.stack(APART)})
    alone = loss({name: x[:2] for name, x in outputs.items()}, {"affine": torch.stack(PAIRS[:2])})
    torch.testing.assert_close(both, alone)
    nothing = loss({name: x[2:] for name, x in outputs.items()}, {"affine": torch.stack(APART[2:])})
    assert nothing == 0
    nothing.backward()
    assert outputs["local"].grad.abs().sum() == 0


def test_or_it_pushes_each_anchor_from_its_own_patch() -> None:
    outputs, mining = embeddings(2), NegativeMining(**EVERYTHING, local_ignore_mm=5.0, global_ignore_mm=5.0)  # type: ignore[arg-type]
    loss = PatchPairInfoNCE(mining, 1000, no_overlap="self", **STRIDES)
    loss(outputs, {"affine": torch.stack(APART[2:])})
    naive = Naive(outputs, torch.stack(APART[2:]), tuple(STRIDES.values()), mining)
    values = []
    for cell in naive.cells(0):
        anchor = outputs["local"][(0, slice(None), *cell)]
        world = naive.world(0, naive.voxel(0, cell))
        own = [outputs["local"][(w, slice(None), *c)] for w, c in naive.negatives(0, (0, 1), world) if w == 0]
        values.append(naive.cross_entropy(anchor, anchor, own))
    torch.testing.assert_close(loss.terms["local_first"], (sum(values) / len(values)).detach(), atol=1e-10, rtol=0)


def test_the_mean_of_directions_is_half_the_sum() -> None:
    outputs, target = embeddings(), {"affine": torch.stack(PAIRS)}
    whole, half = (
        PatchPairInfoNCE(NegativeMining(**NEAREST), 1000, direction_reduction=reduction, **STRIDES)(outputs, target)  # type: ignore[arg-type]
        for reduction in ("sum", "mean")
    )
    torch.testing.assert_close(half, whole / 2)


def test_moving_the_whole_volume_changes_nothing() -> None:
    outputs, loss = embeddings(), PatchPairInfoNCE(NegativeMining(**NEAREST, local_ignore_mm=5.0), 1000, **STRIDES)  # type: ignore[arg-type]
    move = affine((1.0, 1.0, 1.0), (800.0, -300.0, 1000.0), degrees=30)
    before = loss(outputs, {"affine": torch.stack(PAIRS)})
    after = loss(outputs, {"affine": torch.stack([move @ a for a in PAIRS])})
    torch.testing.assert_close(before, after, atol=1e-9, rtol=0)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(half: torch.dtype) -> None:
    outputs = {name: x.detach().to(half) for name, x in embeddings().items()}
    loss, target = PatchPairInfoNCE(NegativeMining(**NEAREST), 1000, **STRIDES), {"affine": torch.stack(PAIRS)}  # type: ignore[arg-type]
    plain = loss(outputs, target)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(outputs, target)
    assert plain.dtype == torch.float32
    assert plain == inside == loss({name: x.float() for name, x in outputs.items()}, target)


def test_terms_are_the_four_parts_without_gradient() -> None:
    loss = PatchPairInfoNCE(NegativeMining(**NEAREST), **STRIDES)  # type: ignore[arg-type]
    value = loss(embeddings(), {"affine": torch.stack(PAIRS)})
    assert tuple(loss.terms) == TERMS
    assert not any(term.requires_grad for term in loss.terms.values())
    torch.testing.assert_close(value.detach(), sum(loss.terms.values()))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"mining": "paper"}, "mining"),
        ({"num_positives": 0}, "num_positives"),
        ({"temperature": 0.0}, "temperature"),
        ({"positive": "best"}, "positive"),
        ({"no_overlap": "raise"}, "no_overlap"),
        ({"direction_reduction": "max"}, "direction_reduction"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PatchPairInfoNCE(**arguments)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_named() -> None:
    loss, outputs, affines = PatchPairInfoNCE(**STRIDES), embeddings(), torch.stack(PAIRS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pairs one after the other"):
        loss({name: x[:3] for name, x in outputs.items()}, {"affine": affines[:3]})
    with pytest.raises(ValueError, match=r"affine must be \(4, 4, 4\), got \(2, 4, 4\)"):
        loss(outputs, {"affine": affines[:2]})
    with pytest.raises(ValueError, match=r"body must be \(4, 1, \*patch\)"):
        loss(outputs, {"affine": affines, "body": torch.ones(4, 2, 8, 8, 8)})
    with pytest.raises(ValueError, match="body must have the patches' size"):
        loss(outputs, {"affine": affines, "body": torch.ones(4, 1, 8, 8, 4)})

# SPDX-License-Identifier: Apache-2.0
"""RegistrationLoss against formulas with loops, where its gradient goes, and that each term falls as images meet."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.losses import GlobalMutualInformationLoss
from monai.networks.blocks.warp import Warp
from torch import Tensor

from monai_ext.losses import RegistrationLoss
from monai_ext.losses.embedding_distance import embedding_distance

SIZE = (12, 16)
STRIDES = {"local_stride": (2, 2), "global_stride": (4, 8)}
ALL = {"lambda_sim": 1.5, "lambda_sam": 0.7, "lambda_dice": 0.4, "lambda_reg": 0.3, "num_classes": 3}


def pair(size: tuple[int, ...] = SIZE, batch: int = 2) -> dict[str, Tensor]:
    """Two smooth images with all that a loss may ask, in double precision."""
    axes = len(size)
    mode = {2: "bilinear", 3: "trilinear"}[axes]

    def smooth(channels: int, cells: list[int]) -> Tensor:
        rough = torch.randn(batch, channels, *[3] * axes, dtype=torch.float64)
        return F.interpolate(rough, size=cells, mode=mode, align_corners=True)

    target: dict[str, Tensor] = {}
    for name in ("fixed", "moving"):
        target[name] = smooth(1, list(size)) + 0.1 * torch.rand(batch, 1, *size, dtype=torch.float64)
        target[f"{name}_label"] = smooth(1, list(size)).mul(2).round().clamp(0, 2)
        for level, stride in (("local", [2] * axes), ("global", [4, 8, 8][:axes])):
            cells = [side // step for side, step in zip(size, stride, strict=True)]
            target[f"{name}_{level}"] = F.normalize(smooth(5, cells), dim=1)
    return target


def field(size: tuple[int, ...] = SIZE, length: float = 1.0) -> Tensor:
    return length * torch.randn(2, len(size), *size, dtype=torch.float64)


def build(**arguments: object) -> RegistrationLoss:
    return RegistrationLoss(**{**STRIDES, **arguments})  # type: ignore[arg-type]


def linear(image: Tensor, row: float, column: float) -> Tensor:
    """Value (C,) of an image (C, H, W) between pixels, the edge continued."""
    places = []
    for position, side in ((row, image.shape[1]), (column, image.shape[2])):
        position = min(max(position, 0.0), side - 1.0)
        low = min(int(position), side - 2)
        places.append(((low, 1 - (position - low)), (low + 1, position - low)))
    corners = ((a, b) for a in places[0] for b in places[1])
    return torch.stack([image[:, r, c] * wr * wc for (r, wr), (c, wc) in corners]).sum(dim=0)


def naive_sam(fixed: Tensor, moving: Tensor, ddf: Tensor, stride: tuple[int, int]) -> float:
    values = []
    for sample in range(len(fixed)):
        for r, c in product(range(fixed.shape[2]), range(fixed.shape[3])):
            own = ddf[sample, :, r * stride[0] : (r + 1) * stride[0], c * stride[1] : (c + 1) * stride[1]]
            moved = [float(own[axis].mean()) / stride[axis] for axis in range(2)]
            there = linear(moving[sample], r + moved[0], c + moved[1])
            here = fixed[sample, :, r, c]
            values.append(1 - float(there @ here) / math.sqrt(float(there @ there) * float(here @ here)))
    return sum(values) / len(values)


def naive_ncc(warped: Tensor, fixed: Tensor, inside: Tensor) -> float:
    coefficients = [
        torch.corrcoef(torch.stack([warped[i, 0][inside[i, 0]], fixed[i, 0][inside[i, 0]]]))[0, 1]
        for i in range(len(fixed))
    ]
    return 1 - float(sum(coefficients)) / len(fixed)


def naive_lncc(warped: Tensor, fixed: Tensor, inside: Tensor, kernel: int = 5) -> float:
    """Squared correlation in a window, zeros beyond the edge."""
    x, y = warped, fixed
    values = []
    for i, r, c in inside[:, 0].nonzero().tolist():
        windows = [F.pad(z[i, 0], [kernel // 2] * 4)[r : r + kernel, c : c + kernel].flatten() for z in (x, y)]
        values.append(float(torch.corrcoef(torch.stack(windows))[0, 1]) ** 2)
    return 1 - sum(values) / len(values)


REFERENCES = {"ncc": naive_ncc, "lncc": naive_lncc}


def naive_dice(moving: Tensor, fixed: Tensor, ddf: Tensor) -> float:
    values = []
    for i, label in product(range(len(fixed)), (1, 2)):
        warped = Warp()((moving[i : i + 1] == label).double(), ddf[i : i + 1])
        truth = (fixed[i : i + 1] == label).double()
        values.append(1 - float((2 * (warped * truth).sum() + 1e-5) / (warped.sum() + truth.sum() + 1e-5)))
    return sum(values) / len(values)


def naive_roughness(velocity: Tensor, scale: tuple[float, ...]) -> float:
    total = []
    for b, i, r, c in product(range(2), range(2), range(1, SIZE[0] - 1), range(1, SIZE[1] - 1)):
        v = velocity[b, i] * scale[i]
        total.append(float((v[r + 1, c] - v[r - 1, c]) / 2) ** 2 + float((v[r, c + 1] - v[r, c - 1]) / 2) ** 2)
    return sum(total) / len(total) / 2


@pytest.mark.parametrize("similarity", ["ncc", "lncc"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_formula_written_naively(similarity: str, masked: bool) -> None:
    target, ddf, velocity = pair(), field(), field()
    mask = torch.ones(2, 1, *SIZE, dtype=torch.float64)
    mask[..., :5] = 0
    inside = Warp()(mask, ddf) > 0.8 if masked else torch.ones(2, 1, *SIZE, dtype=torch.bool)
    loss = build(similarity=similarity, kernel_size=5, **ALL)
    value = loss([ddf, velocity], {**target, **({"moving_mask": mask} if masked else {})})
    # of brightness above the least, which matters where a window reaches beyond the edge
    moving, fixed = (x - x.amin(dim=(1, 2, 3), keepdim=True) for x in (target["moving"], target["fixed"]))
    expected = {
        "similarity": REFERENCES[similarity](Warp()(moving, ddf), fixed, inside),
        "sam_local": naive_sam(target["fixed_local"], target["moving_local"], ddf, (2, 2)),
        "sam_global": naive_sam(target["fixed_global"], target["moving_global"], ddf, (4, 8)),
        "dice": naive_dice(target["moving_label"], target["fixed_label"], ddf),
        "diffusion": naive_roughness(velocity, (1.0, 1.0)),
    }
    assert {name: term.item() for name, term in loss.terms.items()} == pytest.approx(expected, rel=1e-4)
    weights = {"similarity": 1.5, "sam_local": 0.7, "sam_global": 0.7, "dice": 0.4, "diffusion": 0.3}
    assert value.item() == pytest.approx(sum(weights[name] * term for name, term in expected.items()), rel=1e-4)


def test_mutual_information_is_monais_of_the_voxels_inside() -> None:
    target, ddf = pair(), torch.zeros(2, 2, *SIZE, dtype=torch.float64)
    mask = torch.ones(2, 1, *SIZE, dtype=torch.float64)
    mask[:, :, :4] = 0
    loss = build(similarity="mi", lambda_sam=0.0, lambda_reg=0.0)
    found = loss(ddf, {**target, "moving_mask": mask})
    values = []
    for moving, fixed in zip(target["moving"], target["fixed"], strict=True):
        parts = [((x - x.min()) / (x.max() - x.min()))[None, :, 4:] for x in (moving, fixed)]
        values.append(GlobalMutualInformationLoss()(*parts))
    torch.testing.assert_close(found, torch.stack(values).mean())


def test_published_weights_hold_for_canonical_fields() -> None:
    """Displacements from -1 to 1 are 2 / (N - 1) times those in voxels, along each axis by itself."""
    target, velocity = pair(), field()
    loss = build(reg_units="canonical", lambda_sam=0.0)
    loss([torch.zeros_like(velocity), velocity], target)
    expected = naive_roughness(velocity, (2 / (SIZE[0] - 1), 2 / (SIZE[1] - 1)))
    assert loss.terms["diffusion"].item() == pytest.approx(expected)


@pytest.mark.parametrize("similarity", ["ncc", "lncc", "mi"])
def test_the_gradient_of_the_displacement_is_right(similarity: str) -> None:
    target, loss = pair(), build(similarity=similarity, kernel_size=5, **ALL)
    # at 0.37 of a voxel, away from where a linear interpolation has a corner
    ddf = (0.37 + 0.05 * field()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss([x, x], target), (ddf,), fast_mode=True)


def test_the_sam_loss_has_a_gradient_on_the_flow_and_none_on_the_embedder() -> None:
    embedder = nn.Conv3d(1, 4, 2, stride=2)
    target = {name: torch.rand(1, 1, 8, 8, 8) for name in ("fixed", "moving")}
    embedded = {f"{name}_local": F.normalize(embedder(target[name]), dim=1) for name in ("fixed", "moving")}
    coarse = {f"{name}_global": F.avg_pool3d(embedded[f"{name}_local"], (2, 4, 4)) for name in ("fixed", "moving")}
    flow = torch.full((1, 3, 8, 8, 8), 0.3, requires_grad=True)
    loss = RegistrationLoss(lambda_sim=0.0, lambda_sam=1.0, lambda_reg=0.0, global_stride=(4, 8, 8))
    loss(flow, {**target, **embedded, **coarse}).backward()
    assert flow.grad is not None
    assert (flow.grad.abs().flatten(2).amax(dim=2) > 0).all()
    assert [weight.grad for weight in embedder.parameters()] == [None, None]
    assert embedded["moving_local"].requires_grad  # they could have had one


def test_following_the_sam_loss_brings_embeddings_together() -> None:
    """The weight of the term is really applied: with the others off, descent undoes a shift."""
    target = pair(batch=1)
    target["moving_local"] = Warp()(target["fixed_local"], torch.full((1, 2, 6, 8), -0.5, dtype=torch.float64))
    del target["moving_global"], target["fixed_global"]
    ddf = torch.zeros(1, 2, *SIZE, dtype=torch.float64, requires_grad=True)
    loss, values = build(lambda_sim=0.0, lambda_reg=0.1), []
    optimizer = torch.optim.Adam([ddf], lr=0.1)
    for _ in range(40):
        values.append(loss(ddf, target))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.3 * values[0]
    assert (ddf[:, :, 3:-3, 3:-3].mean(dim=(0, 2, 3)) > 0.5).all()  # the whole way is a voxel


@pytest.mark.parametrize("similarity", ["ncc", "lncc"])
def test_the_perfect_displacement_is_the_minimum(similarity: str) -> None:
    target, loss = pair(), build(similarity=similarity, **ALL)
    for name in ("", "_local", "_global", "_label"):
        target[f"moving{name}"] = target[f"fixed{name}"].clone()
    best = loss(torch.zeros(2, 2, *SIZE, dtype=torch.float64), target)
    assert best < 1e-3
    assert all(loss(field(length=0.5), target) > best + 0.01 for _ in range(5))


@pytest.mark.parametrize("similarity", ["ncc", "lncc", "mi"])
@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_empty_masks_and_flat_images_are_finite(similarity: str, mask: float) -> None:
    target = {name: torch.full_like(x, 0.25) for name, x in pair().items()}
    target["moving_mask"] = torch.full((2, 1, *SIZE), mask)
    ddf = torch.full((2, 2, *SIZE), 0.3, requires_grad=True)
    value = build(similarity=similarity, **ALL)(ddf, target)
    value.backward()
    assert value.isfinite()
    assert ddf.grad is not None
    assert ddf.grad.isfinite().all()


def test_air_of_a_negative_number_does_not_pass_for_similarity() -> None:
    """Sums over 21 ** 3 voxels of -1 lose what their differences are made of."""
    fixed = torch.full((1, 1, 24, 24, 24), -0.97)
    loss = RegistrationLoss("lncc", lambda_sam=0.0, kernel_size=21)
    loss(torch.zeros(1, 3, 24, 24, 24), {"fixed": fixed, "moving": fixed.clone()})
    torch.testing.assert_close(loss.terms["similarity"], torch.tensor(1.0))


@pytest.mark.parametrize("size", [(13, 15), (9, 17)])
def test_cells_that_describe_padding_count_for_nothing(size: tuple[int, int]) -> None:
    ddf = field(size)
    fixed, moving = (torch.randn(2, 5, 8, 12, dtype=torch.float64) for _ in range(2))
    own = (..., slice((size[0] + 1) // 2), slice((size[1] + 1) // 2))
    torch.testing.assert_close(
        embedding_distance(fixed, moving, ddf, (2, 2)), embedding_distance(fixed[own], moving[own], ddf, (2, 2))
    )


def test_volumes_and_more_channels_are_taken_too() -> None:
    size = (8, 8, 16)
    target, ddf = pair(size), field(size)
    loss = RegistrationLoss("lncc", kernel_size=3, lambda_dice=1.0, num_classes=3, global_stride=(4, 8, 8))
    one = loss(ddf, target)
    double = {name: torch.cat([x, x], dim=1) if name in ("fixed", "moving") else x for name, x in target.items()}
    torch.testing.assert_close(loss(ddf, double), one)
    assert tuple(loss.terms) == ("similarity", "sam_local", "sam_global", "dice", "diffusion")


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(half: torch.dtype) -> None:
    target = {name: MetaTensor(x.to(half)) for name, x in pair().items()}
    loss, ddf = build(similarity="lncc", **ALL), field().to(half)
    plain = loss(ddf, target)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(ddf, target)
    assert plain.dtype == torch.float32
    assert plain == inside == loss(ddf.float(), {name: x.float() for name, x in target.items()})


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_known_displacement_counts_by_its_squared_distance_where_it_is_known(share: float) -> None:
    ddf, truth, target = field(), field(), pair()
    mask = (torch.rand(2, 1, *SIZE) < share).double()
    loss = build(lambda_truth=2.0, lambda_sam=0.0)
    whole = loss(ddf, {**target, "true_displacement": truth, "truth_mask": mask})
    squares = [
        sum(float(ddf[b, axis, row, column] - truth[b, axis, row, column]) ** 2 for axis in range(2))
        for b, row, column in product(range(2), range(SIZE[0]), range(SIZE[1]))
        if mask[b, 0, row, column]
    ]
    assert float(loss.terms["truth"]) == pytest.approx(sum(squares) / max(len(squares), 1))
    assert float(whole - loss(ddf, target)) == pytest.approx(2 * sum(squares) / max(len(squares), 1))
    assert "truth" not in loss.terms  # real pairs have none


def test_terms_have_no_gradient_and_leave_out_what_weighs_nothing() -> None:
    loss = build(lambda_sam=0.0)
    loss(field().requires_grad_(), {name: pair()[name] for name in ("fixed", "moving")})
    assert tuple(loss.terms) == ("similarity", "diffusion")
    assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"similarity": "ssd"}, "similarity must be one of ncc, lncc, mi, got 'ssd'"),
        ({"reg_units": "mm"}, "reg_units must be one of voxel, canonical, got 'mm'"),
        ({"lambda_sam": -1.0}, "the weight of sam must be at least 0, got -1"),
        ({"lambda_reg": float("nan")}, "the weight of diffusion must be at least 0"),
        ({"lambda_truth": -2.0}, "the weight of truth must be at least 0, got -2"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"kernel_size": 8}, "kernel_size must be odd"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(**arguments)


def test_what_does_not_fit_is_named() -> None:
    target, ddf, loss = pair(), field(), build(**ALL)
    with pytest.raises(ValueError, match="the target must have moving_label, got fixed"):
        loss(ddf, {name: x for name, x in target.items() if name != "moving_label"})
    with pytest.raises(ValueError, match="of both images or of none"):
        loss(ddf, {name: x for name, x in target.items() if name != "moving_global"})
    with pytest.raises(ValueError, match=r"the displacement must be \(B, 2, 2 axes\), got \(2, 1, 12, 16\)"):
        loss(ddf[:, :1], target)
    with pytest.raises(ValueError, match="fixed must have the displacement's"):
        loss(ddf, {**target, "fixed": target["fixed"][..., :8]})
    with pytest.raises(ValueError, match="embeddings must be alike"):
        loss(ddf, {**target, "moving_local": target["moving_local"][..., :3]})
    with pytest.raises(ValueError, match="the target must have truth_mask"):
        loss(ddf, {**target, "true_displacement": ddf})

# SPDX-License-Identifier: Apache-2.0
"""Coarse field: one direct solution against 100 steps of Adam on the same energy, as published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Row, alternate, main, under_allocators

if TYPE_CHECKING:
    from torch import Tensor

    from monai_ext.cell_grid import CellGrid

SPACING = 16
SMOOTHNESS = 0.0044
STEPS, RATE = 100, 0.05


def measure(rounds: int, quick: bool) -> list[Row]:
    """Few matches and many, in a volume of the published size."""
    size = (48, 32, 64) if quick else (192, 160, 256)
    rows: list[Row] = []
    for count in (300,) if quick else (5000, 40000):
        arguments = {"size": size, "count": count, "rounds": rounds}
        rows += under_allocators("benchmarks.coarse_field:fields", arguments, quick)
    return rows


def fields(size: tuple[int, ...], count: int, rounds: int) -> list[Row]:
    """Time both, and compare the energies that they reach."""
    import torch

    from monai_ext.cell_grid import CellGrid
    from monai_ext.registration.least_squares_field import least_squares_field

    nodes = CellGrid(tuple(-(-side // SPACING) for side in size), (SPACING,) * 3)
    places, moved = _matches(nodes, count)
    times = alternate(
        lambda: published_field(nodes, places, moved),
        lambda: least_squares_field(nodes, places, moved, SMOOTHNESS),
        rounds,
    )
    ours = energy(least_squares_field(nodes, places, moved, SMOOTHNESS), places, moved)
    published = energy(published_field(nodes, places, moved).double(), places, moved)
    none = energy(torch.zeros(3, *nodes.shape, dtype=torch.float64), places, moved)
    assert float(ours) <= float(published), f"Adam reached {float(published):.6g}, less than {float(ours):.6g}"
    return [
        {
            "what": "solved / 100 steps of Adam",
            "case": f"{' x '.join(str(side) for side in nodes.shape)} nodes, {count} matches",
            **times,
            "energy_without": round(float(none), 4),
            "energy_published": round(float(published), 4),
            "energy_ours": round(float(ours), 4),
        }
    ]


def published_field(nodes: CellGrid, places: Tensor, moved: Tensor) -> Tensor:
    """Return the field after 100 steps in coordinates that span the volume from -1 to 1, in single precision."""
    import torch

    scale = SPACING * max(nodes.shape) / 2
    field = torch.zeros(3, *nodes.shape, requires_grad=True)
    places, moved = places.float(), moved.float() / scale
    optimizer = torch.optim.Adam([field], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        energy(field, places, moved).backward()
        optimizer.step()
    return field.detach() * scale


def energy(field: Tensor, places: Tensor, moved: Tensor) -> Tensor:
    """Mean squared distance and the weighted differences of neighbours, as `least_squares_field` defines it."""
    import torch.nn.functional as F

    from monai_ext.registration.least_squares_field import ANCHOR

    sides = places.new_tensor(field.shape[1:])
    grid = (2 * places / (sides - 1) - 1).flip(-1)[None, None, None]
    at = F.grid_sample(field[None], grid, padding_mode="border", align_corners=True)[0, :, 0, 0].T
    rough = ANCHOR * field.square().sum()
    for axis in (1, 2, 3):
        rough = rough + field.diff(dim=axis).square().sum()
    return (at - moved).square().sum(dim=1).mean() + SMOOTHNESS * rough / field[0].numel()


def _matches(nodes: CellGrid, count: int) -> tuple[Tensor, Tensor]:
    """Places and displacements of some 6 mm that vary slowly, with the noise of cells of 4 mm."""
    import torch

    generator = torch.Generator().manual_seed(0)
    sides = torch.tensor(nodes.shape, dtype=torch.float64)
    places = torch.rand(count, 3, generator=generator, dtype=torch.float64) * (sides - 1)
    waves = torch.randn(3, 3, generator=generator, dtype=torch.float64) / 2
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return places, 6 * (places @ waves).sin() + 1.2 * noise


if __name__ == "__main__":
    main("coarse_field", __doc__, measure, rounds=5)

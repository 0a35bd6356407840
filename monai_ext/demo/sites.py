# SPDX-License-Identifier: Apache-2.0
"""Six simulated scanners that see the same brain through different bias, contrast, noise and resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_ext.demo.grid import Triple, VoxelGrid, average_onto
from monai_ext.demo.mni_brain import BrainMaps


@dataclass(frozen=True)
class SimulatedSite:
    """What one scanner does to the brain, in this order: contrast, bias, voxel size, noise, scale.

    Args:
        name: folder name and `site` field.
        description: one line for people.
        contrast: points (T1 value 0..1, signal 0..1) of a curve, linear between them; applied inside the brain.
        bias: largest factor of the smooth multiplicative field inside the brain (1.2 = between 1/1.2 and 1.2).
        bias_degree: degree of the random polynomial whose exponential is the field; 1 is a ramp, as from a
            surface coil, 3 is wavy.
        spacing: voxel size in mm; an axis is never finer than the volume that is simulated from.
        noise: standard deviation of the two noise channels (Rician), as a share of full scale.
        scale: stored value of signal 1, since scanners have no common unit.
    """

    name: str
    description: str
    contrast: tuple[tuple[float, float], ...]
    bias: float
    bias_degree: int
    spacing: Triple
    noise: float
    scale: int


_IDENTITY = ((0.0, 0.0), (1.0, 1.0))

SITES = (
    SimulatedSite("standard", "well-tuned 1 mm scan", _IDENTITY, 1.05, 2, (1.0, 1.0, 1.0), 0.01, 1000),
    SimulatedSite(
        "surface_coil",
        "one side near the coil: strong ramp of brightness",
        ((0.0, 0.0), (0.5, 0.55), (1.0, 1.0)),
        1.7,
        1,
        (1.0, 1.0, 1.0),
        0.02,
        800,
    ),
    SimulatedSite(
        "low_field",
        "large voxels, little grey-white contrast, much noise",
        ((0.0, 0.0), (0.4, 0.4), (0.7, 0.72), (0.85, 0.82), (1.0, 0.88)),
        1.15,
        3,
        (1.5, 1.5, 1.5),
        0.04,
        400,
    ),
    SimulatedSite(
        "thick_slices",
        "clinical protocol: 3 mm slices, steep contrast",
        ((0.0, 0.0), (0.4, 0.22), (0.7, 0.55), (0.85, 0.85), (1.0, 1.0)),
        1.2,
        2,
        (1.0, 1.0, 3.0),
        0.015,
        1200,
    ),
    SimulatedSite(
        "wavy_bias",
        "uncorrected high-field bias and a compressed contrast",
        ((0.0, 0.0), (0.3, 0.42), (0.6, 0.68), (1.0, 0.95)),
        2.2,
        3,
        (1.0, 1.2, 1.2),
        0.025,
        2500,
    ),
    SimulatedSite(
        "inverted",
        "T2-like: fluid bright, white matter dark",
        ((0.0, 0.95), (0.4, 0.9), (0.66, 0.58), (0.85, 0.34), (1.0, 0.22)),
        1.15,
        2,
        (1.0, 1.0, 2.0),
        0.02,
        1500,
    ),
)


def simulate_site(
    brain: BrainMaps, site: SimulatedSite, seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8], VoxelGrid]:
    """Scan the brain at a site.

    Args:
        brain: the maps to scan.
        site: the scanner, one of `SITES` or a variant of one under the same name.
        seed: together with the name's place in `SITES` it fixes the bias field and the noise.

    Returns:
        Image (X, Y, Z) int16, label (X, Y, Z) uint8 on the same grid, and that grid.
    """
    rng = np.random.default_rng([seed, 1 + [known.name for known in SITES].index(site.name)])
    signal = np.interp(brain.t1, *np.transpose(site.contrast)) * brain.brain
    signal *= _bias_field(brain, site, rng)
    spacing = np.maximum(site.spacing, brain.grid.spacing)
    grid = brain.grid.coarsen((spacing[0], spacing[1], spacing[2]))
    averaged = average_onto(signal.astype(np.float32), brain.grid, grid)
    image = rician(averaged, site.noise, rng) * site.scale
    return np.rint(image).astype(np.int16), brain.onto(grid).label(), grid


def rician(signal: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the magnitude of a complex image whose two channels have normal noise of deviation ``sigma``."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.hypot(real, sigma * rng.standard_normal(signal.shape, dtype=np.float32))


def _bias_field(brain: BrainMaps, site: SimulatedSite, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return exp(polynomial), scaled so that the largest factor inside the brain is the site's."""
    power = np.indices((site.bias_degree + 1,) * 3).sum(axis=0)
    coefficients = rng.standard_normal(power.shape)
    coefficients[(power == 0) | (power > site.bias_degree)] = 0
    x, y, z = (np.linspace(-1, 1, size) for size in brain.grid.shape)
    field: NDArray[np.float64] = np.polynomial.polynomial.polygrid3d(x, y, z, coefficients)
    inside = brain.brain >= 0.5
    low, high = field[inside].min(), field[inside].max()
    # from 1 / bias to bias inside the brain; outside there is only noise, so the clip changes nothing there
    unit = np.clip((2 * field - high - low) / (high - low), -1, 1)
    return np.exp(np.log(site.bias) * unit)

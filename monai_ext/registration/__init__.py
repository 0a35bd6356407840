# SPDX-License-Identifier: Apache-2.0
"""Registration by anatomical embeddings: affine, coarse field, and transforms that other programs open."""

from monai_ext.registration.affine import SAMAffine
from monai_ext.registration.apply import AppliedRegistration
from monai_ext.registration.chain import TransformChain
from monai_ext.registration.coarse import SAMCoarse
from monai_ext.registration.displacement import WorldDisplacement
from monai_ext.registration.fit_affine import fit_affine
from monai_ext.registration.instance_optimisation import optimise_instance
from monai_ext.registration.invert import invert
from monai_ext.registration.itk_files import read_transform, write_transform
from monai_ext.registration.relocated import relocated
from monai_ext.registration.resample import resample
from monai_ext.registration.world_grid import WorldGrid

__all__ = [
    "AppliedRegistration",
    "SAMAffine",
    "SAMCoarse",
    "TransformChain",
    "WorldDisplacement",
    "WorldGrid",
    "fit_affine",
    "invert",
    "optimise_instance",
    "read_transform",
    "relocated",
    "resample",
    "write_transform",
]

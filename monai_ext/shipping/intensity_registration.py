# SPDX-License-Identifier: Apache-2.0
"""Registration by intensities alone with SimpleITK, to compare ours with: affine, then B-spline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813

from monai_ext.errors import InputError
from monai_ext.files import atomic_write
from monai_ext.registration import TransformChain, read_transform
from monai_ext.shipping.step_costs import StepCosts

AFFINE, BSPLINE = "itk_affine", "itk_bspline"


@dataclass(frozen=True)
class IntensityRegistration:
    """Mutual information (Mattes), coarse to fine, as ITK's examples do it.

    First an affine map from the centres of both volumes, by gradient descent in steps of one voxel and less; then a
    B-spline in front of it, by L-BFGS-B.

    Args:
        spacing: mm of the voxels that both scans are brought to.
        bins: of the joint histogram.
        sampling: part of the voxels that are looked at, drawn once a level.
        levels: by which the voxels are shrunk, one after the other.
        affine_iterations: of each level, at most.
        bspline_iterations: of each level, at most.
        bspline_mm: between control points, about.
        seed: of the samples.

    Example:
        >>> found = IntensityRegistration()(Path("a.nii.gz"), Path("b.nii.gz"), Path("out"))  # doctest: +SKIP
        >>> found["itk_bspline"](points)  # doctest: +SKIP
    """

    spacing: float = 4.0
    bins: int = 32
    sampling: float = 0.1
    levels: Sequence[int] = (4, 2, 1)
    affine_iterations: int = 200
    bspline_iterations: int = 30
    bspline_mm: float = 20.0
    seed: int = 1

    def __call__(
        self, fixed: Path, moving: Path, output: Path, costs: StepCosts | None = None
    ) -> dict[str, TransformChain]:
        """Register two scans, and leave ``itk_affine.tfm`` and ``itk_bspline.h5`` in a folder.

        Args:
            fixed: scan that stays.
            moving: scan to bring onto it.
            output: the folder.
            costs: where to note what each step takes.

        Returns:
            By step, the map from fixed to moving RAS mm. The B-spline is kept as a field on the voxels.

        Raises:
            InputError: a scan cannot be read, or ITK gives up.
        """
        costs = costs or StepCosts()
        scans = [self._read(path) for path in (fixed, moving)]
        try:
            with costs.of(AFFINE):
                affine = self._affine(scans[0], scans[1])
            with costs.of(BSPLINE):
                bspline = self._bspline(scans[0], scans[1], affine)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"{moving} to {fixed}: ITK found no registration ({reason}); look at both scans."
            ) from error
        field = sitk.TransformToDisplacementField(
            bspline, sitk.sitkVectorFloat64, scans[0].GetSize(), scans[0].GetOrigin(), scans[0].GetSpacing(),
            scans[0].GetDirection(),
        )  # fmt: skip
        whole = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])  # the last one comes first
        files = {AFFINE: (output / f"{AFFINE}.tfm", affine), BSPLINE: (output / f"{BSPLINE}.h5", whole)}
        for path, transform in files.values():
            with atomic_write(path) as temporary:
                sitk.WriteTransform(transform, str(temporary))
        return {step: read_transform(path) for step, (path, _) in files.items()}

    def _read(self, path: Path) -> Any:
        """Return a scan with voxels of the wanted size, each the mean of what it covers, about."""
        try:
            scan = sitk.ReadImage(str(path), sitk.sitkFloat32)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be read by ITK; give a NIfTI, NRRD or MHA volume.") from error
        if scan.GetDimension() != 3:
            raise InputError(f"{path}: has {scan.GetDimension()} axes; registration needs volumes.")
        size = [math.ceil(n * own / self.spacing) for n, own in zip(scan.GetSize(), scan.GetSpacing(), strict=True)]
        smooth = sitk.SmoothingRecursiveGaussian(scan, self.spacing / 2)
        return sitk.Resample(
            smooth, size, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, scan.GetOrigin(),
            [self.spacing] * 3, scan.GetDirection(),
        )  # fmt: skip

    def _affine(self, fixed: Any, moving: Any) -> Any:
        method = self._method()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.spacing, minStep=1e-4, numberOfIterations=self.affine_iterations, relaxationFactor=0.7
        )
        method.SetOptimizerScalesFromPhysicalShift()
        middle = sitk.CenteredTransformInitializerFilter.GEOMETRY
        start = sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), middle)
        method.SetInitialTransform(sitk.AffineTransform(start), inPlace=True)
        return sitk.AffineTransform(_only_part(method.Execute(fixed, moving)))

    def _bspline(self, fixed: Any, moving: Any, affine: Any) -> Any:
        method = self._method()
        method.SetOptimizerAsLBFGSB(numberOfIterations=self.bspline_iterations, maximumNumberOfCorrections=5)
        method.SetMovingInitialTransform(affine)
        sides = [n * own for n, own in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
        mesh = [max(1, round(side / self.bspline_mm)) for side in sides]
        method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, mesh), inPlace=True)
        return method.Execute(fixed, moving)

    def _method(self) -> Any:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(self.bins)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(self.sampling, seed=self.seed)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetShrinkFactorsPerLevel(list(self.levels))
        method.SetSmoothingSigmasPerLevel([self.spacing * level / 2 if level > 1 else 0.0 for level in self.levels])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        return method


def _only_part(transform: Any) -> Any:
    """Return the single transform of a composite that ITK may put around it."""
    if transform.GetTransformEnum() == sitk.sitkComposite:
        return sitk.CompositeTransform(transform).GetNthTransform(0)
    return transform

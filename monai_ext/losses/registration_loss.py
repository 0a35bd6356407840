# SPDX-License-Identifier: Apache-2.0
"""The training objective of registration: similar images, similar embeddings, maybe matching labels, smooth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
from monai.data.meta_tensor import MetaTensor
from monai.losses import DiceLoss, DiffusionLoss, GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss
from torch import Tensor

from monai_ext.field_warp import FieldWarp
from monai_ext.losses.embedding_distance import embedding_distance

SIMILARITIES = ("ncc", "lncc", "mi")
REG_UNITS = ("voxel", "canonical")
TRUTH = ("true_displacement", "truth_mask")
MASK_SHARE = 0.8
SMALLEST_DEVIATION = 1e-5


class RegistrationLoss(nn.Module):
    r"""Similarity, SAM similarity, overlap and smoothness of a displacement (SAME++, arXiv 2311.14986).

    For the displacement :math:`u`, which takes the moving image M, its embeddings :math:`F_m` and its labels
    :math:`y_m` to the fixed ones, and the velocity :math:`v` that it was integrated from

    .. math:: L = w\, L_\mathrm{sim}(M \circ u, F) + \lambda_s L_\mathrm{sam}(F_m \circ u, F_f)
              + \lambda_d\, \mathrm{Dice}(y_m \circ u, y_f) + \lambda_r \lVert \nabla v \rVert^2
              + \lambda_t \lVert u - u_t \rVert^2.

    - ``ncc``: 1 - correlation coefficient, over all voxels. ``lncc``: 1 - its square in a window, MONAI's
      ``LocalNormalizedCrossCorrelationLoss`` (of brightness above the image's least, which keeps sums of large windows
      exact). ``mi``: minus MONAI's ``GlobalMutualInformationLoss``, images brought to 0 .. 1; it takes some 200 bytes
      a voxel. With a mask of the moving image they count only where the displaced mask is above 0.8.
    - :math:`L_\mathrm{sam}` is the mean of 1 - cosine of the local and, if given, of the global embeddings, added. It
      has a gradient for the displacement and none for the network that made the embeddings. (In the published code it
      was computed and never added.)
    - Dice is soft, MONAI's, on the foreground classes.
    - Smoothness is MONAI's ``DiffusionLoss`` by central differences, the mean over axes; of the velocity if the outputs
      have one, else of the displacement. Fields in voxels of an image of N voxels an axis are N / 2 times larger than
      the published ones, which go from -1 to 1: ``reg_units="canonical"`` computes with those, so that published
      weights hold at any size. At N = 192 its 200 (with ``ncc``) and 20 (with ``lncc``, whose weight is 0.01 there) are
      0.022 and 0.0022 in voxels.

    - The last term is for simulated pairs, whose displacement :math:`u_t` is known: the mean squared length of the
      error, in voxels, where ``truth_mask`` is above 0. (Our addition; the published loss has no such term.)

    All is computed in float32 (or float64, if that comes in) whatever autocast says. After a call ``terms`` has the
    parts of the sum before they are weighed, without gradient, for the log: ``similarity``, ``diffusion`` and, if their
    weight is not 0, ``sam_local``, ``sam_global``, ``dice`` and ``truth``.

    Args:
        similarity: ``ncc``, ``lncc`` or ``mi``.
        lambda_sim: w.
        lambda_sam: :math:`\lambda_s`.
        lambda_dice: :math:`\lambda_d`.
        lambda_reg: :math:`\lambda_r`.
        reg_units: ``voxel`` or ``canonical``.
        kernel_size: voxels of the window of ``lncc`` along each axis, odd; 9 or 21.
        num_classes: of the labels, background included.
        lambda_truth: :math:`\lambda_t`.
        local_stride: voxels a local cell along each axis; its length decides between 2-D and 3-D.
        global_stride: voxels a global cell.

    Shape:
        outputs: the displacement (B, axes, *spatial) in voxels, or [displacement, velocity], as `SAMVoxelMorph` gives
        them in training. target: ``fixed`` and ``moving`` (B, C, *spatial); ``fixed_local``, ``moving_local`` (B, E,
        *cells), and maybe the same with ``global``, unless lambda_sam is 0; ``fixed_label`` and ``moving_label``
        (B, 1, *spatial), class indices, unless lambda_dice is 0; maybe ``true_displacement``, like the displacement,
        with ``truth_mask`` (B, 1, *spatial), and ``moving_mask`` (B, 1, *spatial). -> a single number.

    Raises:
        ValueError: an argument is out of its range, the target lacks something, or shapes do not fit.

    Example:
        >>> target = {"fixed": torch.rand(1, 1, 8, 8), "moving": torch.rand(1, 1, 8, 8)}
        >>> target |= {"fixed_local": torch.rand(1, 4, 4, 4), "moving_local": torch.rand(1, 4, 4, 4)}
        >>> loss = RegistrationLoss(local_stride=(2, 2), global_stride=(16, 16))
        >>> bool(loss(torch.zeros(1, 2, 8, 8), target).isfinite()), sorted(loss.terms)
        (True, ['diffusion', 'sam_local', 'similarity'])
    """

    def __init__(
        self,
        similarity: str = "ncc",
        lambda_sim: float = 1.0,
        lambda_sam: float = 1.0,
        lambda_dice: float = 0.0,
        lambda_reg: float = 0.02,
        reg_units: str = "voxel",
        kernel_size: int = 9,
        num_classes: int = 2,
        local_stride: Sequence[int] = (2, 2, 2),
        global_stride: Sequence[int] = (4, 16, 16),
        lambda_truth: float = 0.0,
    ) -> None:
        super().__init__()
        _require("similarity", similarity, SIMILARITIES)
        _require("reg_units", reg_units, REG_UNITS)
        weights = {
            "similarity": lambda_sim,
            "sam": lambda_sam,
            "dice": lambda_dice,
            "diffusion": lambda_reg,
            "truth": lambda_truth,
        }
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"the weight of {name} must be at least 0, got {weight}.")
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, background included, got {num_classes}.")
        self.similarity = similarity
        self.weights = weights
        self.reg_units = reg_units
        self.num_classes = num_classes
        self.strides = {"local": tuple(local_stride), "global": tuple(global_stride)}
        self.lncc = LocalNormalizedCrossCorrelationLoss(len(self.strides["local"]), kernel_size, reduction="none")
        self.mi = GlobalMutualInformationLoss()
        self.dice = DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)
        self.diffusion = DiffusionLoss()
        self.warp = FieldWarp()
        self.terms: dict[str, Tensor] = {}

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Mapping[str, Tensor]) -> Tensor:
        ddf, field = (outputs, outputs) if isinstance(outputs, Tensor) else (outputs[0], outputs[-1])
        ddf, field = _at_least_float(_plain(ddf)), _at_least_float(_plain(field))
        given = {name: _plain(x).to(ddf.device) for name, x in target.items() if isinstance(x, Tensor)}
        self._check(ddf, given)
        with torch.autocast(ddf.device.type, enabled=False):
            terms = {"similarity": self._dissimilarity(ddf, given)}
            if self.weights["sam"]:
                terms |= self._sam(ddf, given)
            if self.weights["dice"]:
                terms["dice"] = self._overlap_error(ddf, given)
            if self.weights["truth"] and TRUTH[0] in given:  # nobody knows it of real pairs
                terms["truth"] = _squared_error(ddf, given["true_displacement"], given["truth_mask"])
            terms["diffusion"] = self._roughness(field)
            loss = torch.stack([self.weights[name.split("_")[0]] * value for name, value in terms.items()]).sum()
        self.terms = {name: value.detach() for name, value in terms.items()}
        return loss

    def _dissimilarity(self, ddf: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        moving, fixed = given["moving"].to(ddf.dtype), given["fixed"].to(ddf.dtype)
        lows, highs = zip(*(_range(x) for x in (moving, fixed)), strict=True)
        warped = self.warp(moving, ddf)
        inside = torch.ones_like(fixed[:, :1])
        if "moving_mask" in given:
            with torch.no_grad():
                inside = (self.warp(given["moving_mask"].to(ddf.dtype), ddf) > MASK_SHARE).to(ddf.dtype)
        inside = inside.expand_as(fixed)
        if self.similarity == "ncc":
            return 1 - _correlation(warped, fixed, inside)
        if self.similarity == "lncc":
            squares = -self.lncc(warped - lows[0], fixed - lows[1])
            return 1 - (squares * inside).sum() / inside.sum().clamp(min=1)
        spans = [(high - low).clamp(min=SMALLEST_DEVIATION) for low, high in zip(lows, highs, strict=True)]
        return self._mutual_information((warped - lows[0]) / spans[0], (fixed - lows[1]) / spans[1], inside)

    def _mutual_information(self, warped: Tensor, fixed: Tensor, inside: Tensor) -> Tensor:
        values = [0.0 * warped.sum()]  # for a batch in which the mask leaves nothing
        for ours, theirs, mask in zip(warped, fixed, inside > 0, strict=True):
            if mask.any():
                values.append(self.mi(ours[mask][None, None], theirs[mask][None, None]))
        return torch.stack(values).sum() / max(len(values) - 1, 1)

    def _sam(self, ddf: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            f"sam_{level}": embedding_distance(given[f"fixed_{level}"], given[f"moving_{level}"], ddf, stride)
            for level, stride in self.strides.items()
            if f"moving_{level}" in given
        }

    def _overlap_error(self, ddf: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        classes = torch.arange(1, self.num_classes, device=ddf.device).reshape(-1, *[1] * (ddf.ndim - 2))
        moving, fixed = ((given[f"{name}_label"] == classes).to(ddf.dtype) for name in ("moving", "fixed"))
        return self.dice(self.warp(moving, ddf), fixed)

    def _roughness(self, field: Tensor) -> Tensor:
        axes = field.ndim - 2
        if self.reg_units == "canonical":
            last = field.new_tensor([side - 1 for side in field.shape[2:]]).reshape(-1, *[1] * axes)
            field = 2 * field / last
        return self.diffusion(field) / axes

    def _check(self, ddf: Tensor, given: Mapping[str, Tensor]) -> None:
        axes = len(self.strides["local"])
        if ddf.ndim != axes + 2 or ddf.shape[1] != axes:
            raise ValueError(f"the displacement must be (B, {axes}, {axes} axes), got {tuple(ddf.shape)}.")
        needed = ["fixed", "moving"]
        needed += ["fixed_local", "moving_local"] if self.weights["sam"] else []
        needed += ["fixed_label", "moving_label"] if self.weights["dice"] else []
        needed += [TRUTH[1]] if TRUTH[0] in given else []
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"the target must have {', '.join(missing)}, got {', '.join(given)}.")
        if ("fixed_global" in given) != ("moving_global" in given):
            raise ValueError("global embeddings must be given of both images or of none.")
        for name in ("fixed", "moving", "fixed_label", "moving_label", "moving_mask", *TRUTH):
            x = given.get(name)
            if x is not None and (len(x) != len(ddf) or x.shape[2:] != ddf.shape[2:]):
                raise ValueError(f"{name} must have the displacement's {tuple(ddf.shape)}, got {tuple(x.shape)}.")


def _squared_error(ddf: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean squared length of the error over the voxels of all pairs whose truth is known; 0 if there are none."""
    inside = (mask > 0).to(ddf.dtype)
    squares = (ddf - truth.to(ddf.dtype)).square().sum(dim=1, keepdim=True)
    return (squares * inside).sum() / inside.sum().clamp(min=1)


def _correlation(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Mean over the batch of the correlation coefficient where weights are 1; 0 where nothing varies."""
    x, y, weights = x.flatten(1), y.flatten(1), weights.flatten(1)
    count = weights.sum(dim=1, keepdim=True).clamp(min=1)
    x, y = ((values - (values * weights).sum(dim=1, keepdim=True) / count) * weights for values in (x, y))
    squares = (x * x / count).sum(dim=1) * (y * y / count).sum(dim=1)
    return ((x * y / count).sum(dim=1) / squares.clamp(min=SMALLEST_DEVIATION**4).sqrt()).mean()


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest value of each image of a batch."""
    around = [1] * (x.ndim - 1)
    flat = x.detach().flatten(1)
    return flat.amin(dim=1).reshape(-1, *around), flat.amax(dim=1).reshape(-1, *around)


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _at_least_float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()

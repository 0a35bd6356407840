# SPDX-License-Identifier: Apache-2.0
"""The scores that papers on camouflaged objects, salient objects and polyps report, for one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from monai.utils import convert_to_numpy
from torch import Tensor

from monai_ext.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

Stretch = Literal["none", "paper"]
STRETCHES: tuple[Stretch, ...] = ("none", "paper")
SALIENCY_SCORES = (
    "s_measure",
    "weighted_f",
    "mean_e",
    "adaptive_e",
    "mae",
    "mean_dice",
    "mean_iou",
    "dice_at_half",
)


def saliency_scores(
    probability: Tensor | np.ndarray, truth: Tensor | np.ndarray, stretch: Stretch = "none"
) -> dict[str, float | None]:
    """Score one map of probabilities with the ``pysodmetrics`` package.

    ``mean_dice`` and ``mean_iou`` are the means over the 256 thresholds 0/255 .. 255/255; averaged over images they
    equal the published mDice and mIoU (the mean of the sample-averaged curve), since the two means commute. They
    are not the Dice of a mask: that is ``dice_at_half``, from the probabilities as they are, whatever ``stretch``.

    An image without an object has no S-measure, F, E, Dice or IoU that would mean the same as for the others: all
    but ``mae`` and ``false_alarm`` (share of pixels above 0.5) are None for it, to be left out of means and counted.

    Args:
        probability: (H, W), (1, H, W) or (1, 1, H, W), values in [0, 1].
        truth: of the same size; above 0.5 is object.
        stretch: "none" scores the probabilities; "paper" first stretches each map to [0, 1] by its own minimum and
            maximum and cuts it to 256 levels, as the published evaluation does. Stretching always puts an object
            into the image, which is wrong where there is none.

    Returns:
        The scores named in `SALIENCY_SCORES` and ``false_alarm`` (None where there is an object).

    Raises:
        InputError: when sizes differ, a probability lies outside [0, 1] or ``stretch`` is unknown.
        ImportError: when the extra ``saliency`` is not installed.

    Example:
        >>> truth = np.zeros((16, 16))
        >>> truth[4:12, 4:12] = 1
        >>> round(saliency_scores(truth, truth)["s_measure"], 3)
        1.0
    """
    if stretch not in STRETCHES:
        raise InputError(f"stretch must be one of {', '.join(STRETCHES)}, got {stretch!r}.")
    raw, true = _plane(probability, "prediction"), _plane(truth, "label") > 0.5
    if raw.shape != true.shape:
        raise InputError(f"the prediction's size {raw.shape} must equal the label's, {true.shape}.")
    if not (raw.min() >= 0 and raw.max() <= 1):  # written so that NaN fails too
        raise InputError(
            f"probabilities must lie in [0, 1], got {raw.min():.4g} to {raw.max():.4g}; apply a sigmoid first."
        )
    map_ = _stretched(raw) if stretch == "paper" else raw
    scores: dict[str, float | None] = dict.fromkeys(SALIENCY_SCORES)
    scores.update(mae=float(np.abs(map_ - true).mean()), false_alarm=None)
    if not true.any():
        return {**scores, "false_alarm": float((raw > 0.5).mean())}
    hard = raw > 0.5
    scores["dice_at_half"] = float(2 * (hard & true).sum() / (hard.sum() + true.sum()))
    return {**scores, **_package_scores(map_, true)}


def _plane(values: Tensor | np.ndarray, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().double()
    array = np.asarray(convert_to_numpy(values), dtype=np.float64)
    if array.ndim < 2 or array.size == 0 or array.shape[-2] * array.shape[-1] != array.size:
        raise InputError(f"the {name} must be one 2-D map, (H, W) or (1, H, W), got shape {tuple(array.shape)}.")
    return array.reshape(array.shape[-2:])


def _stretched(map_: np.ndarray) -> np.ndarray:
    """Stretch to [0, 1], cut to 256 levels, and stretch what the cutting lost, as writing and reading a PNG does."""
    low, high = map_.min(), map_.max()
    if high == low:
        return np.zeros_like(map_)  # the published formula gives 0 / eps
    levels = np.floor((map_ - low) / (high - low) * 255)
    return levels / 255


def _package_scores(map_: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    package = _pysodmetrics()
    curves = {"mean_dice": package.DICEHandler, "mean_iou": package.IOUHandler}
    overlap = package.FmeasureV2({name: kind(with_dynamic=True, with_adaptive=False) for name, kind in curves.items()})
    structure, weighted, alignment = package.Smeasure(), package.WeightedFmeasure(), package.Emeasure()
    for metric in (overlap, structure, weighted, alignment):
        metric.step(map_, true, normalize=False)
    results, e_measure = overlap.get_results(), alignment.get_results()["em"]
    return {
        "s_measure": float(structure.get_results()["sm"]),
        "weighted_f": float(weighted.get_results()["wfm"]),
        "mean_e": float(np.mean(e_measure["curve"])),
        "adaptive_e": float(e_measure["adp"]),
        **{name: float(np.mean(results[name]["dynamic"])) for name in curves},
    }


def _pysodmetrics() -> ModuleType:
    try:
        import py_sod_metrics
    except ImportError as error:
        raise ImportError('saliency scores need pysodmetrics: pip install "monai-ext[saliency]"') from error
    return py_sod_metrics

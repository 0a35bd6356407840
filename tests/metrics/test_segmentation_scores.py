# SPDX-License-Identifier: Apache-2.0
"""Scores of label maps: equal to MONAI's, and to the laws that distances obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.networks import one_hot
from scipy.ndimage import gaussian_filter

from monai_ext.errors import InputError
from monai_ext.metrics import SCORES, segmentation_scores

SPACING = {2: (0.7, 1.5), 3: (0.7, 1.0, 2.5)}


def blobs(shape: tuple[int, ...], classes: int, seed: int) -> torch.Tensor:
    """Smooth label map with all classes; neighbouring seeds give maps that overlap in part."""
    noise = [np.random.default_rng(part).standard_normal(shape) for part in (0, seed)]
    field = gaussian_filter(noise[0] + 0.5 * noise[1], 1.5)
    edges = np.quantile(field, np.linspace(0.4, 1, classes)[:-1])
    return torch.from_numpy(np.digitize(field, edges))[None]


def scores_of(rows: list[dict[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows]


@pytest.mark.parametrize("shape", [(24, 30), (18, 20, 14)])
def test_distances_equal_those_of_monai(shape: tuple[int, ...]) -> None:
    truth, prediction = blobs(shape, 4, seed=1), blobs(shape, 4, seed=2)
    spacing = SPACING[len(shape)]
    rows = segmentation_scores(prediction, truth, 4, spacing, tolerance_mm=1.2)
    pair = one_hot(prediction[None], 4), one_hot(truth[None], 4)
    hd95 = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing)[0]
    asd = compute_average_surface_distance(*pair, symmetric=True, spacing=spacing)[0]
    nsd = compute_surface_dice(*pair, class_thresholds=[1.2] * 3, spacing=spacing)[0]
    assert scores_of(rows, "hd95_mm") == pytest.approx(hd95.tolist(), rel=1e-5)
    assert scores_of(rows, "asd_mm") == pytest.approx(asd.tolist(), rel=1e-5)
    assert scores_of(rows, "nsd") == pytest.approx(nsd.tolist(), rel=1e-5)
    assert min(scores_of(rows, "asd_mm")) > 0


@pytest.mark.parametrize("num_classes", [1, 2, 13])
def test_overlap_equals_its_definition(num_classes: int) -> None:
    classes = max(num_classes, 2)
    truth, prediction = blobs((20, 20, 10), classes, seed=1), blobs((20, 20, 10), classes, seed=2)
    for row in segmentation_scores(prediction, truth, num_classes, (1, 1, 1)):
        a, b = truth == row["class"], prediction == row["class"]
        assert row["dice"] == pytest.approx(2 * (a & b).sum().item() / (a.sum() + b.sum()).item())
        assert row["iou"] == pytest.approx((a & b).sum().item() / (a | b).sum().item())
        assert (row["truth_voxels"], row["predicted_voxels"]) == (a.sum(), b.sum())


def test_one_object_and_two_classes_are_the_same_thing() -> None:
    truth, prediction = blobs((16, 16), 2, seed=1), blobs((16, 16), 2, seed=2)
    one = segmentation_scores(prediction, truth, 1, (1, 1))
    assert one == segmentation_scores(prediction, truth, 2, (1, 1))
    assert scores_of(one, "class") == [1]


def test_scores_are_symmetric() -> None:
    truth, prediction = blobs((16, 18, 10), 3, seed=1), blobs((16, 18, 10), 3, seed=2)
    forth = segmentation_scores(prediction, truth, 3, SPACING[3])
    back = segmentation_scores(truth, prediction, 3, SPACING[3])
    for one, other in zip(forth, back, strict=True):
        assert [one[name] for name in SCORES] == pytest.approx([other[name] for name in SCORES])
        assert one["truth_voxels"] == other["predicted_voxels"]


def test_distances_scale_with_the_spacing_and_overlap_does_not() -> None:
    truth, prediction = blobs((16, 18, 10), 3, seed=1), blobs((16, 18, 10), 3, seed=2)
    small = segmentation_scores(prediction, truth, 3, SPACING[3], tolerance_mm=1)
    large = segmentation_scores(prediction, truth, 3, [3 * size for size in SPACING[3]], tolerance_mm=3)
    for one, other in zip(small, large, strict=True):
        assert other["hd95_mm"] == pytest.approx(3 * one["hd95_mm"])
        assert other["asd_mm"] == pytest.approx(3 * one["asd_mm"])
        assert [other[name] for name in ("dice", "iou", "nsd")] == [one[name] for name in ("dice", "iou", "nsd")]


def test_background_around_the_volume_changes_nothing() -> None:
    truth, prediction = blobs((16, 18, 10), 3, seed=1), blobs((16, 18, 10), 3, seed=2)
    assert bool((truth[:, 0] > 0).any())  # objects reach the volume's end, where cropping could go wrong
    padded = [torch.nn.functional.pad(labels, (4, 1, 0, 3, 2, 5)) for labels in (prediction, truth)]
    assert segmentation_scores(*padded, 3, SPACING[3]) == segmentation_scores(prediction, truth, 3, SPACING[3])


def test_turning_the_volume_changes_nothing() -> None:
    truth, prediction = blobs((16, 18, 10), 3, seed=1), blobs((16, 18, 10), 3, seed=2)
    turned = [labels.permute(0, 3, 1, 2).flip(2) for labels in (prediction, truth)]
    x, y, z = SPACING[3]
    for one, other in zip(
        segmentation_scores(*turned, 3, (z, x, y)), segmentation_scores(prediction, truth, 3, (x, y, z)), strict=True
    ):
        assert one == pytest.approx(other)


def test_a_shifted_plane_lies_at_the_distance_of_the_shift() -> None:
    truth, prediction = torch.zeros(1, 20, 8, 8), torch.zeros(1, 20, 8, 8)
    truth[:, 5], prediction[:, 9] = 1, 1
    row = segmentation_scores(prediction, truth, 1, (1.5, 1, 1), tolerance_mm=5.9)[0]
    assert (row["dice"], row["hd95_mm"], row["asd_mm"], row["nsd"]) == (0, 6, 6, 0)
    assert segmentation_scores(prediction, truth, 1, (1.5, 1, 1), tolerance_mm=6)[0]["nsd"] == 1


def test_a_class_absent_from_both_is_perfect() -> None:
    empty = torch.zeros(1, 6, 8)
    row = segmentation_scores(empty, empty, 1, (1, 1))[0]
    assert [row[name] for name in SCORES] == [1, 1, 0, 0, 1]


@pytest.mark.parametrize("swap", [False, True])
def test_a_class_present_in_one_only_is_as_wrong_as_can_be(swap: bool) -> None:
    pair = [torch.zeros(1, 6, 8), torch.zeros(1, 6, 8)]
    pair[swap][0, 2, 3] = 1
    row = segmentation_scores(*pair, 1, (1.0, 0.75))[0]
    assert [row[name] for name in SCORES] == [0, 0, np.hypot(6, 6), np.hypot(6, 6), 0]


def test_a_volume_of_one_slice_is_the_image_it_is() -> None:
    truth, prediction = blobs((24, 30), 3, seed=1), blobs((24, 30), 3, seed=2)
    flat = segmentation_scores(prediction, truth, 3, (0.7, 1.5))
    assert segmentation_scores(prediction[..., None], truth[..., None], 3, (0.7, 1.5, 4.0)) == flat


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_labels_does_not_matter(dtype: torch.dtype) -> None:
    truth, prediction = blobs((16, 16), 2, seed=1), blobs((16, 16), 2, seed=2)
    expected = segmentation_scores(prediction, truth, 1, (1, 1))
    assert segmentation_scores(prediction.to(dtype), truth[0].numpy(), 1, (1, 1)) == expected


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 5), r"\(4, 4\) must equal the label's, \(4, 5\)"),
        (torch.zeros(2, 4, 4), torch.zeros(1, 4, 4), "prediction must be a label map"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 255), "label holds values 255 to 255; the classes are 0 to 1"),
        (torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4), "prediction must hold whole numbers"),
        (torch.full((1, 4, 4), torch.nan), torch.zeros(1, 4, 4), "prediction holds values nan"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), -1), "label holds values -1"),
    ],
)
def test_what_is_no_label_map_is_refused(prediction: torch.Tensor, truth: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmentation_scores(prediction, truth, 1, (1, 1))

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.errors import InputError
from monai_ext.transforms import CheckScand

SHAPE = (1, 4, 5, 6)


def scan(values: Tensor | None = None, name: str = "a.nii.gz", shift: float = 0.0, **meta: object) -> MetaTensor:
    affine = torch.diag(torch.tensor([0.5, 1.0, 2.0, 1.0], dtype=torch.float64))
    affine[0, 3] = shift
    return MetaTensor(
        torch.rand(SHAPE) if values is None else values, affine=affine, meta={"filename_or_obj": name, **meta}
    )


def label(values: Tensor | None = None, shift: float = 0.0) -> MetaTensor:
    return scan(torch.zeros(SHAPE) if values is None else values, "l.nii.gz", shift)


def check(image: Tensor, target: Tensor | None = None, **settings: object) -> dict:
    item = {"image": image} if target is None else {"image": image, "label": target}
    return CheckScand(keys=["image"], label_key="label", **settings)(item)  # type: ignore[arg-type]


def test_what_is_right_passes_unchanged() -> None:
    image, target = scan(), label(torch.randint(0, 3, SHAPE).float())
    result = check(image, target, num_classes=3, in_channels=1)
    assert result["image"] is image
    assert result["label"] is target


def test_an_empty_label_and_no_label_are_legal() -> None:
    check(scan(), label(), num_classes=1)
    check(scan(), num_classes=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_voxels_that_are_no_numbers(value: float) -> None:
    spoilt = torch.rand(SHAPE)
    spoilt[0, 1, 1, 1:3] = value
    with pytest.raises(
        InputError, match=r"^a.nii.gz: 2 of 120 voxels are NaN or infinite; `python -m monai_ext doctor"
    ):
        check(scan(spoilt))
    with pytest.raises(InputError, match=r"^l.nii.gz: 2 of 120 voxels"):
        check(scan(), label(spoilt))


def test_a_label_of_another_size() -> None:
    with pytest.raises(InputError, match=r"^l.nii.gz: a label of 4x5x7 voxels for an image of 4x5x6 \(a.nii.gz\)"):
        check(scan(), label(torch.zeros(1, 4, 5, 7)))


def test_a_label_in_another_place() -> None:
    check(scan(), label(shift=0.04))  # headers are rounded
    with pytest.raises(InputError, match=r"^l.nii.gz: lies up to 0.5 mm away from its image"):
        check(scan(), label(shift=0.5))


@pytest.mark.parametrize("value", [3.0, -1.0, 0.5])
def test_values_that_are_no_classes(value: float) -> None:
    values = torch.zeros(SHAPE)
    values[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"^l.nii.gz: values .*but 3 classes are 0 to 2"):
        check(scan(), label(values), num_classes=3)


def test_a_flat_voxel() -> None:
    image = scan()
    image.affine[2, 2] = 0
    with pytest.raises(InputError, match="no volume"):
        check(image)


def test_channels_are_made_to_fit_where_nothing_is_lost() -> None:
    grey = torch.rand(1, 4, 5)
    assert torch.equal(check(grey, in_channels=3)["image"], grey.repeat(3, 1, 1))
    assert torch.equal(check(grey.repeat(3, 1, 1), in_channels=1)["image"], grey)


@pytest.mark.parametrize(("found", "wanted"), [(3, 1), (1, 4), (4, 1), (120, 1)])
def test_other_channels_are_refused(found: int, wanted: int) -> None:
    with pytest.raises(InputError, match=rf"{found} channels, the network takes {wanted}; set in_channels={found}"):
        check(torch.rand(found, 4, 5), in_channels=wanted)


def test_a_picture_with_a_palette_is_refused_but_not_a_label() -> None:
    with pytest.raises(InputError, match="palette"):
        check(scan(palette=1))
    check(scan(), scan(torch.zeros(SHAPE), palette=1), num_classes=2)

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.errors import InputError
from monai_ext.transforms import LoadScand, PrepareLabeld


def prepare(values: list[float], num_classes: int) -> list[int]:
    label = PrepareLabeld(keys=["label"], num_classes=num_classes)({"label": torch.tensor([[values]])})["label"]
    assert label.dtype == torch.uint8
    return label.flatten().tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1.0], [0, 1]), ([0.0, 255.0], [0, 1]), ([3.0, 120.0, 130.0, 252.0], [0, 0, 1, 1]),
     ([0.2, 0.5, 0.7], [0, 0, 1]), ([0.0, 0.0], [0, 0])],
)  # fmt: skip
def test_masks_are_cut_in_the_middle(values: list[float], expected: list[int]) -> None:
    assert prepare(values, num_classes=1) == expected


def test_classes_stay() -> None:
    assert prepare([0.0, 2.0, 12.0], num_classes=13) == [0, 2, 12]


@pytest.mark.parametrize("values", [[0.0, 3.0], [-1.0, 1.0], [0.0, 400.0]])
def test_classes_are_not_taken_for_a_mask(values: list[float]) -> None:
    with pytest.raises(InputError, match="one object against background is 0/1 or 0/255; set num_classes"):
        prepare(values, num_classes=1)


@pytest.mark.parametrize("values", [[0.0, 2.0], [0.5, 1.0], [-1.0, 1.0]])
def test_values_outside_the_classes_are_listed(values: list[float]) -> None:
    with pytest.raises(InputError, match="but 2 classes are 0 to 1"):
        prepare(values, num_classes=2)


def test_a_picture_saved_as_colours_is_merged_or_refused(tmp_path: Path) -> None:
    mask = np.random.randint(0, 2, (5, 7), dtype=np.uint8) * 255
    opaque = np.full((5, 7), 9, dtype=np.uint8)
    Image.fromarray(np.stack([mask, mask, mask, opaque], -1)).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([mask, mask, 255 - mask], -1)).save(tmp_path / "colour.png")
    chain = [LoadScand(keys=["label"]), PrepareLabeld(keys=["label"], num_classes=1)]
    label = chain[1](chain[0]({"label": str(tmp_path / "grey.png")}))["label"]
    np.testing.assert_array_equal(label[0].numpy().T, mask > 0)
    with pytest.raises(InputError, match=r"colour.png: a label with 3 different channels"):
        chain[1](chain[0]({"label": str(tmp_path / "colour.png")}))


def test_items_without_label_pass() -> None:
    assert PrepareLabeld(keys=["label"], num_classes=1)({"image": 1}) == {"image": 1}


@pytest.mark.parametrize("num_classes", [0, 257])
def test_wrong_numbers_of_classes(num_classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes"):
        PrepareLabeld(keys=["label"], num_classes=num_classes)


@pytest.mark.parametrize(("chosen", "expected"), [([1, 2], [0, 1, 1, 0]), ([2], [0, 0, 1, 0]), ([9], [0, 0, 0, 0])])
def test_chosen_values_are_the_object(chosen: list[int], expected: list[int]) -> None:
    label = torch.tensor([[[0.0, 1.0, 2.0, 6.0]]])
    prepared = PrepareLabeld(keys=["label"], num_classes=1, object_values=chosen)({"label": label})["label"]
    assert prepared.flatten().tolist() == expected
    assert prepared.dtype == torch.uint8


def test_chosen_values_are_one_object() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        PrepareLabeld(keys=["label"], num_classes=3, object_values=[1])


def test_chosen_values_become_classes_each_from_the_label_as_it_was() -> None:
    label = torch.tensor([[[0.0, 1.0, 2.0, 6.0, 5.0, 13.0]]])
    prepared = PrepareLabeld(keys=["label"], num_classes=4, class_values=[2, 1, 6])({"label": label})["label"]
    assert prepared.flatten().tolist() == [0, 2, 1, 3, 0, 0]


@pytest.mark.parametrize(("num_classes", "values"), [(1, []), (3, [1]), (3, [1, 2, 3])])
def test_chosen_values_are_one_for_each_class(num_classes: int, values: list[int]) -> None:
    with pytest.raises(ValueError, match="class_values must be one for each"):
        PrepareLabeld(keys=["label"], num_classes=num_classes, class_values=values)

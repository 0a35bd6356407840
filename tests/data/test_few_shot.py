# SPDX-License-Identifier: Apache-2.0
"""Few labelled cases: the same ones each time, whole people, and nobody on two sides."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_ext.data import SliceDataset, load_datalist, load_few_shot, slice_share
from monai_ext.errors import InputError


def listed(folder: Path, people: int, validation: bool = True, turned: bool = False) -> Path:
    """A list of two scans of each person, perhaps in another order."""
    scans = [(f"p{person}", f"p{person}_{scan}") for person in range(people) for scan in range(2)]
    items = [{"image": f"{name}.nii", "label": f"{name}_label.nii", "subject": person} for person, name in scans]
    if turned:
        random.Random(0).shuffle(items)
    extra = [{"image": "v.nii", "label": "v_label.nii"}] if validation else []
    folder.mkdir(exist_ok=True)
    for item in (*items, *extra):
        for key in ("image", "label"):
            (folder / item[key]).write_bytes(b"x")
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items, "validation": extra}), encoding="utf-8")
    return path


def cases(items: list[dict[str, Any]]) -> list[str]:
    return sorted(item["case"] for item in items)


@pytest.mark.parametrize(
    ("fraction", "people", "kept"), [(0.1, 20, 2), (0.1, 4, 1), (0.05, 10, 1), (0.25, 10, 3), (1.0, 5, 5)]
)
def test_a_fraction_of_the_people_trains_with_all_their_scans(
    fraction: float, people: int, kept: int, tmp_path: Path
) -> None:
    items = load_few_shot(listed(tmp_path, people), "training", label_fraction=fraction)
    assert len({item["subject"] for item in items}) == kept
    assert len(items) == 2 * kept


def test_a_smaller_fraction_is_part_of_a_larger_one_in_any_order_of_the_list(tmp_path: Path) -> None:
    path, turned = listed(tmp_path / "a", 12), listed(tmp_path / "b", 12, turned=True)
    parts = [cases(load_few_shot(path, "training", label_fraction=fraction)) for fraction in (0.2, 0.5, 0.9)]
    assert set(parts[0]) < set(parts[1]) < set(parts[2])
    assert cases(load_few_shot(turned, "training", label_fraction=0.5)) == parts[1]


def test_another_seed_chooses_others(tmp_path: Path) -> None:
    path = listed(tmp_path, 20)
    chosen = {tuple(cases(load_few_shot(path, "training", seed=seed, label_fraction=0.2))) for seed in range(4)}
    assert len(chosen) > 1


@pytest.mark.parametrize("section", ["validation", "test", "inference"])
def test_nothing_but_training_is_cut(section: str, tmp_path: Path) -> None:
    path = listed(tmp_path, 6)
    few = load_few_shot(path, section, label_fraction=0.1)
    assert few == load_datalist(path, section)


def test_by_slices_every_case_stays_and_the_data_set_draws(tmp_path: Path) -> None:
    assert len(load_few_shot(listed(tmp_path, 6), "training", label_fraction=0.1, split_by="slice")) == 12
    assert (slice_share(0.1, "slice"), slice_share(0.1, "case")) == (0.1, 1.0)


@pytest.mark.parametrize("names", [["p1_0", "p3"], "few.txt"])
def test_named_cases_and_people_train_and_do_not_validate(names: list[str] | str, tmp_path: Path) -> None:
    path = listed(tmp_path, 5, validation=False)
    (tmp_path / "few.txt").write_text("# chosen by hand\np1_0\n\np3\n", encoding="utf-8")
    named = str(tmp_path / names) if isinstance(names, str) else names
    knobs: dict[str, Any] = {"val_fraction": 0.9, "case_list": named}
    assert cases(load_few_shot(path, "training", **knobs)) == ["p1_0", "p3_0", "p3_1"]
    for section in ("validation", "test"):
        people = {item["subject"] for item in load_few_shot(path, section, **knobs)}
        assert people
        assert not people & {"p1", "p3"}
    assert cases(load_few_shot(path, "training", label_fraction=0.5, **knobs)) in (["p1_0"], ["p3_0", "p3_1"])


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"label_fraction": 0.0}, "label_fraction must be above 0 and at most 1, got 0.0"),
        ({"label_fraction": 10}, "label_fraction"),
        ({"split_by": "voxel"}, "split_by must be one of case, slice, got 'voxel'"),
        ({"case_list": ["p0", "p9"]}, "p9 is no case that may train; these may: p0_0, p0_1"),
        ({"case_list": []}, "an empty list"),
        ({"case_list": "nowhere.txt"}, "nowhere.txt: case_list must be"),
    ],
)
def test_what_cannot_be_is_named(knobs: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        load_few_shot(listed(tmp_path, 2), "training", **knobs)


def test_all_cases_named_leaves_nobody_to_validate(tmp_path: Path) -> None:
    path = listed(tmp_path, 2, validation=False)
    with pytest.raises(InputError, match="nothing is left in section 'validation'"):
        load_few_shot(path, "validation", case_list=["p0", "p1"])


def reading(item: dict[str, Any]) -> dict[str, Tensor]:
    """A volume of ten slices, every second one with an object."""
    label = torch.zeros(1, 4, 4, 10)
    label[..., ::2] = 1
    return {"image": torch.rand(1, 4, 4, 10), "label": label}


def slices(**knobs: Any) -> SliceDataset:
    return SliceDataset([{"image": name, "case": name} for name in "abc"], reading, **knobs)


def test_a_share_of_the_slices_is_drawn_from_those_that_are_left() -> None:
    chosen = slices(slice_share=0.4, empty_slices=0.0)
    assert len(chosen) == 6
    assert all(position % 2 == 0 for positions in chosen.slices_by_case().values() for position in positions)
    assert slices(slice_share=0.001).slices_by_case() != {}


def test_the_draw_is_the_same_for_a_seed_and_another_for_another() -> None:
    draws = [slices(slice_share=0.3, seed=seed).slices_by_case() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_record_names_every_slice_that_trains() -> None:
    chosen = slices(slice_share=0.5)
    items = [chosen[index] for index in range(len(chosen))]
    found = {name: [item["slice"] for item in items if item["case"] == name] for name in chosen.slices_by_case()}
    assert found == chosen.slices_by_case()


@pytest.mark.parametrize("share", [0.0, 1.5, np.nan])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="slice_share"):
        slices(slice_share=share)

# SPDX-License-Identifier: Apache-2.0
"""Which pairs are drawn, that their parts belong together, and that storing changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, Orientationd
from torch import Tensor

from monai_ext.data import PairSource, RegistrationPairDataset
from monai_ext.errors import InputError
from monai_ext.field_warp import FieldWarp
from monai_ext.transforms import LoadScand, PairOnOneGridd, RandSmoothWarpd

TRUTH = ("true_displacement", "truth_mask")
VALUES = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


def place(name: str) -> Tensor:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])).double()
    affine[0, 3] = 10 * VALUES[name]
    return affine


def reading(item: dict[str, Any]) -> dict[str, Any]:
    """A scan whose least value tells which it is, with a brighter middle; its label is that plus 10."""
    key = "label" if "label" in item else "image"
    name = Path(item[key]).stem[0]
    voxels = torch.full((1, 8, 8, 8), VALUES[name] + (10 if key == "label" else 0))
    voxels[:, 2:6, 2:6, 2:6] += 0.5 if key == "image" else 0
    return {key: MetaTensor(voxels, affine=place(name))}


def scans(names: str = "abcd", subjects: Sequence[str] = ("s", "s", "t", "u"), **more: Any) -> list[dict[str, Any]]:
    """Items with files that need not be there."""
    return [{"image": n, "case": n, "subject": s, **more} for n, s in zip(names, subjects, strict=False)]


def files(folder: Path, names: str = "abcd") -> list[dict[str, Any]]:
    for name in names:
        (folder / f"{name}.nii").write_text(name, encoding="utf-8")
        (folder / f"{name}-label.nii").write_text(name, encoding="utf-8")
    items = scans(names)
    return [
        {**item, "image": str(folder / f"{item['case']}.nii"), "label": str(folder / f"{item['case']}-label.nii")}
        for item in items
    ]


class Shift:
    """Aligns the grids of two scans by their places, and remembers whom it was shown."""

    def __init__(self) -> None:
        self.prepared: list[str] = []

    def prepare(self, pairs: Sequence[PairSource]) -> None:
        self.prepared += [pair.name for pair in pairs]

    def __call__(self, pair: PairSource) -> Tensor:
        assert pair.name in self.prepared
        return pair.moving().affine.double() @ torch.linalg.inv(pair.fixed().affine.double())


def made(data: list[dict[str, Any]], **more: Any) -> RegistrationPairDataset:
    given = {
        "grid": PairOnOneGridd(),
        "simulate": RandSmoothWarpd(points=5, degrees=1.0, shift_mm=0.5, warp_mm=0.5),
        **more,
    }
    return RegistrationPairDataset(data, reading, **given)


def pairs_of(dataset: RegistrationPairDataset) -> list[str]:
    return [dataset[index]["case"] for index in range(len(dataset))]


def test_pairs_depend_on_seed_epoch_and_index_alone() -> None:
    dataset = made(scans(), pairs_per_epoch=12)
    dataset.set_epoch(1)
    first = pairs_of(dataset)
    assert pairs_of(dataset) == first
    assert dataset[-1]["case"] == first[-1]
    dataset.set_epoch(2)
    assert pairs_of(dataset) != first
    dataset.set_epoch(1)
    assert pairs_of(dataset) == first
    other = made(scans(), pairs_per_epoch=12, seed=1)
    other.set_epoch(1)
    assert pairs_of(other) != first


def test_pairs_for_validation_are_the_same_each_epoch() -> None:
    dataset = made(scans(), simulate_prob=1.0, same_each_epoch=True)
    found = []
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        found.append([dataset[index] for index in range(len(dataset))])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one["image"].as_tensor(), other["image"].as_tensor())
        assert torch.equal(one["truth"], other["truth"])
    assert not torch.equal(found[0][0]["truth"], found[0][1]["truth"])


SUBJECT = dict(zip("abcd", "sstu", strict=True))


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        ("different", {f"{m}_to_{f}" for m in "abcd" for f in "abcd" if SUBJECT[m] != SUBJECT[f]}),
        ("same", {"a_to_b", "b_to_a", "c", "d"}),
        ("any", {f"{m}_to_{f}" for m in "abcd" for f in "abcd" if m != f}),
    ],
)
def test_all_pairs_of_such_subjects_are_drawn_and_others_are_simulated(subjects: str, expected: set[str]) -> None:
    dataset = made(scans(), subjects=subjects, pairs_per_epoch=200)
    assert {dataset._files(dataset._draw(index))["case"] for index in range(200)} == expected


def test_moving_comes_first_and_everything_lies_on_the_fixed_grid() -> None:
    aligner = Shift()
    dataset = made(scans(label="x"), prealign=aligner, pairs_per_epoch=6)
    dataset.set_epoch(1)
    for index in range(6):
        item = dataset[index]
        moving, fixed = item["case"].split("_to_")
        image = item["image"].as_tensor()
        lowest = image.flatten(1).min(dim=1).values.tolist()
        assert lowest == pytest.approx([VALUES[moving], VALUES[fixed]], abs=1e-4)
        torch.testing.assert_close(item["image"].affine, place(fixed))
        torch.testing.assert_close(image[0] - VALUES[moving], image[1] - VALUES[fixed], atol=1e-4, rtol=0)
        assert item["matrix"][0, 3] == 10 * (VALUES[moving] - VALUES[fixed])
        assert item["moving_mask"].all()
        assert (item["moving_path"], item["fixed_path"]) == (moving, fixed)


def test_simulated_pairs_are_not_aligned() -> None:
    aligner = Shift()
    dataset = made(scans(), prealign=aligner, simulate_prob=0.5, pairs_per_epoch=40)
    dataset.set_epoch(1)
    cases = pairs_of(dataset)
    assert aligner.prepared == [case for case in cases if "_to_" in case]
    assert 8 < len(aligner.prepared) < 32


def test_stored_scans_and_labels_give_the_same_pairs(tmp_path: Path) -> None:
    data = files(tmp_path)
    given: dict[str, Any] = {"label_reading": reading, "pairs_per_epoch": 5, "simulate_prob": 0.4}
    fresh, stored = (made(data, **given, prealign=Shift(), cache_dir=c) for c in (None, tmp_path / "cache"))
    fresh.set_epoch(1)
    stored.set_epoch(1)
    assert len(list((tmp_path / "cache").glob("*.scan.json"))) == 8
    for index in range(5):
        one, other = fresh[index], stored[index]
        assert one.keys() == other.keys()
        for key in ("image", "moving_label", "fixed_label"):
            np.testing.assert_allclose(one[key], other[key], atol=2e-3)
        assert float(one["moving_label"].max()) == pytest.approx(10 + float(one["image"][0].min()), abs=1e-4)


def test_a_listed_pair_is_read_as_listed_with_its_points(tmp_path: Path) -> None:
    table = "point,fixed_x_ras_mm,fixed_y_ras_mm,fixed_z_ras_mm,moving_x_ras_mm,moving_y_ras_mm,moving_z_ras_mm\n"
    (tmp_path / "points.csv").write_text(f"{table}a,1,2,3,4,5,6\nb,7,8,9,1,2,3\n", encoding="utf-8")
    pair = {"image": "b", "reference": "a", "case": "one", "subject": "s", "points": str(tmp_path / "points.csv")}
    item = made([pair], simulate=None)[0]
    assert item["points"].tolist() == [[1, 2, 3], [7, 8, 9]]
    assert item["truth"].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert item["image"][1].min() == VALUES["a"]
    assert torch.equal(item["matrix"], torch.eye(4).double())


def smooth_reading(item: dict[str, Any]) -> dict[str, Any]:
    """A scan that is different everywhere, on voxels of 2 x 3 x 2.5 mm whose axes are not the world's."""
    z, y, x = torch.meshgrid(*(torch.arange(side) / 4.0 for side in (18, 16, 20)), indexing="ij")
    affine = torch.tensor([[0, 0, 2.5, 7], [0, -3, 0, 40], [2, 0, 0, -5], [0, 0, 0, 1]]).double()
    return {"image": MetaTensor((torch.sin(z) + torch.cos(1.3 * y) + torch.sin(x + 0.5 * y))[None], affine=affine)}


@pytest.mark.parametrize("random_center", [False, True])
def test_the_moving_scan_displaced_by_the_truth_is_the_fixed_one(random_center: bool) -> None:
    warp = RandSmoothWarpd(degrees=3.0, scale=0.02, shift_mm=2.0, warp_mm=2.0, warp_width_mm=(8.0, 12.0))
    grid = PairOnOneGridd((12, 16, 14), random_center)
    dataset = RegistrationPairDataset(
        scans("a"), smooth_reading, grid, simulate=warp, with_truth=True, body_threshold=0.5, seed=4
    )
    item = dataset[0]
    moving, fixed = item["image"].as_tensor().split(1)
    displaced = FieldWarp()(moving[None], item["true_displacement"][None])[0]
    inner = (slice(None), *[slice(3, -3)] * 3)
    apart = (displaced - fixed)[inner].abs()
    assert apart.mean() < 0.02 < 0.2 < (moving - fixed)[inner].abs().mean()
    assert torch.equal(item["truth_mask"], (fixed > 0.5).float())


def test_of_real_pairs_no_truth_is_known() -> None:
    dataset = made(scans(), keys=("case", *TRUTH), with_truth=True, pairs_per_epoch=8, simulate_prob=0.5)
    items = [dataset[index] for index in range(8)]
    assert {("_to_" in item["case"], bool(item["truth_mask"].any())) for item in items} == {
        (True, False),
        (False, True),
    }
    assert {item["true_displacement"].shape for item in items} == {(3, 8, 8, 8)}
    with pytest.raises(InputError, match="learn from simulated pairs; set simulate_prob"):
        made(scans(), with_truth=True)


def test_items_with_chosen_keys_stack_into_batches_in_workers() -> None:
    dataset = made(scans(), keys=("image", "moving_mask", "fixed_label", "case"), pairs_per_epoch=4, simulate_prob=0.5)
    alone = [dataset[index] for index in range(4)]
    batches = list(DataLoader(dataset, batch_size=2, num_workers=1))
    assert {tuple(sorted(batch)) for batch in batches} == {("case", "image", "moving_mask")}
    assert [case for batch in batches for case in batch["case"]] == [item["case"] for item in alone]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.stack([item["image"] for item in alone]))
    assert not isinstance(alone[0]["image"], MetaTensor)


@pytest.mark.parametrize(
    ("data", "knobs", "told"),
    [
        ([], {}, "empty list"),
        (scans("a"), {"simulate": None}, "a: there is no scan of a different subject"),
        (scans(), {"simulate_prob": 1.5}, "simulate_prob"),
        (scans(), {"subjects": "all"}, "subjects must be one of different, same, any"),
        (scans(), {"pairs_per_epoch": 0}, "pairs_per_epoch"),
        (scans(), {"require_labels": True}, "a: has no labels.*lambda_dice"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(data: list[Any], knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        made(data, **knobs)


def test_a_reading_that_is_shared_leaves_scans_and_maps_where_they_are_found(tmp_path: Path) -> None:
    shared, names = Compose([LoadScand(["image"]), Orientationd(["image"], "SPL", labels=None)]), set()
    for name in "abcd":  # what MONAI's transforms note down as they work must not show
        scan = nib.Nifti1Image(reading({"image": f"{name}.nii"})["image"][0].numpy(), place(name).numpy())
        nib.save(scan, tmp_path / f"{name}.nii")
    data = [{**item, "image": str(tmp_path / f"{item['case']}.nii")} for item in scans()]
    for _ in range(2):
        dataset = RegistrationPairDataset(data, shared, PairOnOneGridd(), cache_dir=tmp_path / "cache")
        source = dataset._scans.source("one", data[0]["image"], data[1]["image"])
        source.moving()
        names.add(str(source.fixed_identity))
    assert len(list((tmp_path / "cache").glob("*.scan.json"))) == 4
    assert len(names) == 1

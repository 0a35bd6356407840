# SPDX-License-Identifier: Apache-2.0
"""Requests of clients as they come, and what cannot be understood; boxes of labels; files of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Resized, SaveImaged, Spacingd

from monai_ext.errors import InputError
from monai_ext.prompts import counts_text, read_record, with_meta
from monai_ext.transforms import KeepPromptsd, PromptFromRequestd, SavePromptsd, TrueBoxd

RECORD = {"plane": "axial", "prompt_source": "self", "slices": [{"index": 0, "prompt": "null", "box": None}]}


def scan(shape: tuple[int, ...] = (8, 9, 10), **meta: Any) -> MetaTensor:
    affine = torch.eye(4, dtype=torch.float64)
    own = {"filename_or_obj": "scan.nii.gz", "source_affine": affine, "source_shape": torch.tensor(shape), **meta}
    return MetaTensor(torch.rand(1, *shape), affine=affine, meta=own)


def ask(image: MetaTensor | None = None, **request: Any) -> dict[str, Any]:
    """What the image's metadata say of a request."""
    item = PromptFromRequestd(keys=["image"])({"image": scan() if image is None else image, **request})
    found: dict[str, Any] = json.loads(item["image"].meta["user_prompts"])
    return found


def test_clicks_keep_their_order_and_their_kind() -> None:
    found = ask(
        foreground=[[1, 2, 3]],
        background=[[4, 5, 6]],
        points=[[7, 8, 9], [0, 0, 0], [1, 1, 1]],
        point_labels=[0, -1, 1],
    )
    assert found["points"] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]]
    assert found["labels"] == [1, 0, 0, 1]
    assert found["box"] is None
    assert found["slice"] is None


def test_arrays_are_taken_as_lists_are() -> None:
    found = ask(foreground=np.array([[1, 2, 3]]), background=torch.tensor([[4, 5, 6]]), roi=(0, 1, 2, 3, 4, 5))
    assert found["points"] == [[1, 2, 3], [4, 5, 6]]
    assert found["box"] == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("box", [[2, 5, 0, 3, 4, 9], [5, 2, 3, 0, 9, 4], [2, 5, -7, 3, 4, 50]])
def test_a_box_has_its_ends_in_any_order_and_is_cut_at_the_border(box: list[int]) -> None:
    assert ask(roi=box)["box"] == [[2, 0, 4], [5, 3, 9]]
    assert ask(box=box)["box"] == [[2, 0, 4], [5, 3, 9]]


def test_a_flat_box_lies_in_the_slice_that_is_named() -> None:
    found = ask(box=[2, 0, 5, 3], slice=7)
    assert found["box"] == [[2, 0, 7], [5, 3, 7]]
    assert found["slice"] == [2, 7]


@pytest.mark.parametrize("request_", [{}, {"foreground": [], "background": []}, {"foreground": None, "roi": []}])
def test_without_prompts_nothing_happens(request_: dict[str, Any]) -> None:
    image = scan()
    item = PromptFromRequestd(keys=["image"])({"image": image, "case": "a", **request_})
    assert set(item) == {"image", "case"}
    assert torch.equal(item["image"], image)
    assert item["image"].meta["user_prompts"] == ""
    assert "user_prompts" not in image.meta


def test_the_number_of_a_training_slice_is_no_request() -> None:
    assert PromptFromRequestd(keys=["image"])({"image": scan((8, 9)), "slice": 12})["slice"] == 12


def test_prompts_are_taken_out_of_the_item() -> None:
    item = PromptFromRequestd(keys=["image"])({"image": scan(), "foreground": [[1, 1, 1]], "roi": [], "slice": 1})
    assert set(item) == {"image"}


def test_voxels_are_not_copied() -> None:
    image = scan()
    item = TrueBoxd(keys=["label"])({"image": image, "label": torch.zeros(1, 8, 9, 10)})
    item = PromptFromRequestd(keys=["image"])({**item, "foreground": [[1, 1, 1]]})
    assert item["image"].data_ptr() == image.data_ptr()
    assert item["image"].meta["filename_or_obj"] == "scan.nii.gz"


def test_prompts_follow_resampled_volumes() -> None:
    item = {"image": scan(), "foreground": [[2, 4, 6]], "slice": 6}
    item = Spacingd(keys=["image"], pixdim=[2.0, 2.0, 3.0])(item)
    found = ask(item["image"], foreground=item["foreground"], slice=6)
    assert found["points"] == [[1, 2, 2]]
    assert found["slice"] == [2, 2]


def test_prompts_follow_resized_pictures() -> None:
    item = Resized(keys=["image"], spatial_size=(16, 27))({"image": scan((8, 9))})
    assert ask(item["image"], foreground=[[3, 4]])["points"] == [[6.5, 13.0]]  # pixel centres


def test_what_came_before_can_still_be_undone() -> None:
    before = Compose([Orientationd(keys=["image"], axcodes="SPL", labels=None), PromptFromRequestd(keys=["image"])])
    image = scan()
    item = before({"image": image, "foreground": [[1, 2, 3]]})
    item["pred"] = item["image"].clone()
    undone = Invertd(keys=["pred"], transform=before, orig_keys=["image"])(item)["pred"]
    assert item["pred"].shape == (1, 10, 9, 8)
    assert torch.equal(undone.as_tensor(), image.as_tensor())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"foreground": [[8, 0, 0]]}, r"scan\.nii\.gz: foreground \[8, 0, 0\] lies outside of the image's 8x9x10"),
        ({"background": [[0, 0, -1]]}, r"background \[0, 0, -1\] lies outside"),
        ({"foreground": [[1, 2]]}, r"foreground is \[\[1, 2\]\], wanted \[\[i, j, k\], \.\.\.\]"),
        ({"foreground": [1, 2, 3]}, r"wanted \[\[i, j, k\]"),
        ({"foreground": [[1, 2, 3], [1]]}, "wanted numbers"),
        ({"foreground": "here"}, "foreground is here, wanted numbers"),
        ({"foreground": [[1, 2, float("nan")]]}, "wanted numbers"),
        ({"points": [[1, 2, 3]]}, "point_labels is .* for 1 points"),
        ({"points": [[1, 2, 3]], "point_labels": [1, 0]}, "for 1 points"),
        ({"points": [[1, 2, 3]], "point_labels": [2]}, r"point_labels is \[2\]"),
        ({"roi": [1, 2, 3]}, r"roi is \[1, 2, 3\], wanted \[i0, i1, j0, j1, k0, k1\]"),
        ({"box": [1, 2, 3, 4]}, "with a slice"),
        ({"box": [9, 12, 0, 1, 0, 1]}, r"box \[9, 12, 0, 1, 0, 1\] lies outside"),
        ({"foreground": [[1, 2, 3]], "slice": 10}, "slice is 10, wanted 0 to 9"),
        ({"foreground": [[1, 2, 3]], "slice": "top"}, "slice is top"),
    ],
)
def test_what_cannot_be_meant_is_named(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(**request_)


@pytest.mark.parametrize(
    ("request_", "message"),
    [({"foreground": [[1, 2, 3]]}, r"wanted \[\[x, y\], \.\.\.\]"), ({"box": [1, 2, 3]}, r"\[x0, y0, x1, y1\]")],
)
def test_pictures_have_columns_and_rows(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(scan((8, 9)), **request_)


def test_an_image_that_we_did_not_read_counts_in_its_own_grid() -> None:
    item = {"image": torch.rand(1, 8, 9, 10), "foreground": [[1, 2, 3]]}
    assert json.loads(PromptFromRequestd(keys=["image"])(item)["image"].meta["user_prompts"])["points"] == [[1, 2, 3]]


def test_a_true_box_holds_all_components_and_classes() -> None:
    label = torch.zeros(1, 5, 6, 7, dtype=torch.uint8)
    label[0, 1, 2, 3], label[0, 3, 5, 3] = 1, 2
    item = TrueBoxd(keys=["label"])({"image": torch.rand(1, 5, 6, 7), "label": label})
    sagittal, coronal, axial = json.loads(item["image"].meta["true_boxes"])
    assert axial == [None, None, None, [1, 2, 3, 5], None, None, None]
    assert coronal == [None, None, [1, 3, 1, 3], None, None, [3, 3, 3, 3]]
    assert sagittal == [None, [2, 3, 2, 3], None, [5, 3, 5, 3], None]


def test_scans_without_a_label_have_no_true_boxes() -> None:
    assert set(TrueBoxd(keys=["label"])({"image": torch.rand(1, 5, 6)})) == {"image"}


def test_the_record_passes_the_inversion_and_reaches_a_client() -> None:
    before = Orientationd(keys=["image"], axcodes="SPL", labels=None)
    item = before({"image": scan()})
    item["pred"] = with_meta(item["image"].clone(), {"prompts": json.dumps(RECORD)})
    item = KeepPromptsd(keys=["pred"])({**item, "result": {"points": 3}})
    item = Invertd(keys=["pred"], transform=before, orig_keys=["image"])(item)
    assert read_record(item["pred"]) == RECORD
    assert item["result"] == {"points": 3, "prompts": RECORD}


def test_predictions_without_a_record_pass() -> None:
    assert set(KeepPromptsd(keys=["pred"])({"pred": torch.rand(1, 4, 4)})) == {"pred"}


def test_the_record_is_written_beside_the_label_map(tmp_path: Path) -> None:
    pred = with_meta(scan(), {"prompts": json.dumps(RECORD)})
    SavePromptsd(keys=["pred"], output_dir=tmp_path)({"pred": pred})
    SavePromptsd(keys=["pred"], output_dir=tmp_path, output_postfix="seg")({"pred": pred, "case": "a"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_seg_prompts.json", "scan_prompts.json"]
    saved = json.loads((tmp_path / "scan_prompts.json").read_text(encoding="utf-8"))
    assert saved == {"case": "scan", **RECORD}
    assert isinstance(SavePromptsd(keys=["pred"], output_dir=tmp_path), SaveImaged)  # which MONAI Label leaves out


def test_a_missing_record_says_where_it_gets_lost(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="KeepPromptsd before Invertd"):
        SavePromptsd(keys=["pred"], output_dir=tmp_path)({"pred": scan()})


def test_counts_in_a_line() -> None:
    assert counts_text({"null": 2, "box": 31, "self": 2}) == "box 31, null 2, self 2"

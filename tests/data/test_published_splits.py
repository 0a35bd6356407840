# SPDX-License-Identifier: Apache-2.0
"""Published splits are read from the folders in which they are distributed, and what is missing is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monai_ext.data import published_split
from monai_ext.data.published_splits import TASKS
from monai_ext.errors import InputError


def fill(folder: Path, images: str, masks: str, names: tuple[str, ...] = ("a", "b"), suffix: str = ".png") -> None:
    for name in names:
        for path in (folder / images / f"{name}.jpg", folder / masks / f"{name}{suffix}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


def polyps(root: Path) -> Path:
    fill(root / "TrainDataset", "image", "masks", tuple(str(number) for number in range(10)))
    for name in TASKS["polyps"].tests:
        fill(root / "TestDataset" / name, "images", "masks")
    return root


def salient(root: Path) -> Path:
    fill(root / "DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask")
    fill(root / "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask")
    fill(root / "DUT-OMRON", "DUT-OMRON-image/DUT-OMRON-image", "pixelwiseGT-new-PNG")
    fill(root / "HKU-IS", "imgs", "gt")
    fill(root / "PASCAL-S", "Image", "Mask")
    fill(root / "ECSSD", "images", "ground_truth_mask")
    return root


def test_polyps_are_read_from_the_folders_of_their_split(tmp_path: Path) -> None:
    items = published_split(polyps(tmp_path), "polyps", "test")
    assert [item["site"] for item in items[::2]] == [
        "CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir",
    ]  # fmt: skip
    assert items[-1] == {
        "image": str(tmp_path / "TestDataset" / "Kvasir" / "images" / "b.jpg"),
        "label": str(tmp_path / "TestDataset" / "Kvasir" / "masks" / "b.png"),
        "subject": "Kvasir_b",
        "site": "Kvasir",
        "case": "Kvasir_b",
    }
    assert len({item["case"] for item in items}) == len(items)
    assert published_split(tmp_path, "polyps", "inference") == items


def test_camouflaged_objects_are_read_from_imgs_and_gt(tmp_path: Path) -> None:
    fill(tmp_path / "TrainDataset", "Imgs", "GT")
    (tmp_path / "TrainDataset" / "Edge").mkdir()
    for name in ("CAMO", "CHAMELEON", "COD10K", "NC4K"):
        fill(tmp_path / "TestDataset" / name, "Imgs", "GT")
    assert {item["site"] for item in published_split(tmp_path, "camouflage", "test")} == set(TASKS["camouflage"].tests)
    (item,) = published_split(tmp_path, "camouflage", "training", val_fraction=0.5)
    assert Path(item["label"]).parent == tmp_path / "TrainDataset" / "GT"


def test_salient_objects_are_read_from_each_authors_own_folders(tmp_path: Path) -> None:
    items = published_split(salient(tmp_path), "salient", "test")
    folders = {item["site"]: Path(item["image"]).parent.name for item in items}
    assert folders == {
        "DUTS-TE": "DUTS-TE-Image", "DUT-OMRON": "DUT-OMRON-image", "HKU-IS": "imgs", "PASCAL-S": "Image",
        "ECSSD": "images",
    }  # fmt: skip
    assert published_split(tmp_path, "salient", "training")[0]["site"] == "DUTS-TR"


def test_a_folder_unpacked_into_one_of_its_own_name_is_found(tmp_path: Path) -> None:
    for name in TASKS["polyps"].tests:
        fill(tmp_path / "TestDataset" / "TestDataset" / name, "images", "masks")
    assert len(published_split(tmp_path, "polyps", "test")) == 10


def test_some_sets_alone_can_be_asked_for_and_the_others_need_not_be_there(tmp_path: Path) -> None:
    fill(tmp_path / "TestDataset" / "Kvasir", "images", "masks")
    alone = published_split(tmp_path, "polyps", "test", test_sets="Kvasir")
    assert [item["case"] for item in alone] == ["Kvasir_a", "Kvasir_b"]
    assert published_split(tmp_path, "polyps", "test", test_sets=["Kvasir"]) == alone
    with pytest.raises(InputError, match="looked for one folder called CVC-300; found none"):
        published_split(tmp_path, "polyps", "test")
    with pytest.raises(InputError, match=r"test_sets must be some of CVC-300.*got 'Kvasir-SEG'"):
        published_split(tmp_path, "polyps", "test", test_sets="Kvasir-SEG")


def test_a_fixed_share_of_training_is_held_out(tmp_path: Path) -> None:
    root = polyps(tmp_path)
    parts = [published_split(root, "polyps", part, val_fraction=0.3) for part in ("training", "validation")]
    names = [{item["case"] for item in part} for part in parts]
    assert [len(part) for part in parts] == [7, 3]
    assert names[0] & names[1] == set()
    assert published_split(root, "polyps", "validation", val_fraction=0.3) == parts[1]
    seeds = {tuple(i["case"] for i in published_split(root, "polyps", "validation", seed=seed)) for seed in range(8)}
    assert len(seeds) > 1
    assert len(published_split(root, "polyps", "training", val_fraction=0)) == 10
    with pytest.raises(InputError, match="val_fraction is 0"):
        published_split(root, "polyps", "validation", val_fraction=0)


def test_a_set_of_another_size_than_published_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        published_split(polyps(tmp_path), "polyps", "test", test_sets="Kvasir")
    assert "2 images, 100 are published; is the download complete?" in caplog.text


def test_a_set_of_the_published_size_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "TestDataset" / "CVC-300", "images", "masks", tuple(str(number) for number in range(60)))
    with caplog.at_level(logging.WARNING):
        assert len(published_split(tmp_path, "polyps", "test", test_sets="CVC-300")) == 60
    assert caplog.text == ""


def test_unpaired_files_are_named_in_one_line(tmp_path: Path) -> None:
    root = polyps(tmp_path)
    fill(root / "TrainDataset", "image", "unused", ("lonely",))
    (root / "TrainDataset" / "masks" / "other.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"2 files without .*: image/lonely.jpg, masks/other.png") as error:
        published_split(root, "polyps", "training")
    assert "\n" not in str(error.value)


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder; set dataset_dir"):
        published_split(tmp_path / "absent", "polyps", "training")
    with pytest.raises(InputError, match="looked for one folder called TrainDataset; found none of them"):
        published_split(tmp_path, "polyps", "training")
    fill(tmp_path / "TrainDataset", "Imgs", "labels")
    with pytest.raises(InputError, match=r"TrainDataset: looked for one folder called gt or masks or mask or"):
        published_split(tmp_path, "camouflage", "training")
    fill(tmp_path / "TrainDataset", "Imgs", "GT")
    fill(tmp_path / "TrainDataset", "images", "GT")
    with pytest.raises(InputError, match=r"found Imgs/, images/"):
        published_split(tmp_path, "camouflage", "training")


def test_empty_folders_are_no_data_set(tmp_path: Path) -> None:
    for name in ("Imgs", "GT"):
        (tmp_path / "TrainDataset" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="are empty"):
        published_split(tmp_path, "camouflage", "training")


def test_names_that_would_share_a_result_file_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "TrainDataset", "Imgs", "GT", ("a b", "a_b"))
    with pytest.raises(InputError, match="differ by spaces"):
        published_split(tmp_path, "camouflage", "training")


def test_unknown_tasks_and_sections_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task must be one of polyps, camouflage, salient, got 'mirrors'"):
        published_split(tmp_path, "mirrors", "training")
    with pytest.raises(ValueError, match="section must be one of training"):
        published_split(tmp_path, "polyps", "train")

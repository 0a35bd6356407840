# SPDX-License-Identifier: Apache-2.0
"""The written folder: complete, consistent, reproducible, and safe to write again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_ext.commands.demo_data import demo_data
from monai_ext.data import load_datalist
from monai_ext.demo import write_demo_data, write_tiny_dataset
from monai_ext.demo.output_folder import DemoFolder
from monai_ext.errors import InputError
from monai_ext.files import sha256_of

PARTS = ("training", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "data"
    write_tiny_dataset(path)
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_lists_exactly_what_is_there(folder: Path) -> None:
    manifest = read(folder / "demo_data.json")
    found = hashes(folder)
    del found["demo_data.json"]
    assert manifest["status"] == "finished"
    assert manifest["files"] == found
    assert not any(name.split("/")[-1].startswith(".") for name in found)


def test_the_training_slab_has_the_size_asked_for(tmp_path: Path) -> None:
    for size in ((48, 48, 16), (32, 40, 9)):
        write_tiny_dataset(tmp_path / str(size[0]), size=size)
        image = nib.load(tmp_path / str(size[0]) / "slabs" / "training_image.nii.gz")
        assert image.shape == size


@pytest.mark.parametrize("name", ["datalist.json", "slices/datalist.json", "sites/datalist.json"])
def test_data_lists_point_to_pairs_on_one_grid_with_all_classes(folder: Path, name: str) -> None:
    datalist = read(folder / name)
    root = (folder / name).parent
    assert datalist["labels"] == {
        "0": "background",
        "1": "cerebrospinal fluid",
        "2": "grey matter",
        "3": "white matter",
    }
    assert (root / datalist["licence"].split()[-1]).is_file()
    assert "argmax" in datalist["label_rule"]
    for part in PARTS:
        seen = set()
        for item in datalist[part]:
            image, label = (load(root / item[key]) for key in ("image", "label"))
            assert image.shape == label.shape
            assert label.dtype == np.uint8
            seen |= set(np.unique(label).tolist())
        assert seen == {0, 1, 2, 3}


def test_the_tissue_list_has_the_same_scans_and_one_object(folder: Path) -> None:
    tissue, classes = read(folder / "datalist_tissue.json"), read(folder / "datalist.json")
    assert tissue["labels"] == {"0": "background", "1": "brain tissue"}
    for part in PARTS:
        (item,), (other,) = tissue[part], classes[part]
        assert (item["image"], item["subject"]) == (other["image"], other["subject"])
        found, label = load(folder / item["label"]), load(folder / other["label"])
        assert found.dtype == np.uint8
        assert np.array_equal(found, (label >= 2).astype(np.uint8))
    whole = load(folder / "brain" / "tissue.nii.gz")
    assert np.array_equal(whole, (load(folder / "brain" / "label.nii.gz") >= 2).astype(np.uint8))


def test_the_tissue_list_is_a_data_set_by_itself(folder: Path) -> None:
    for part in PARTS:
        (item,) = load_datalist(folder / "datalist_tissue.json", part)
        assert item["label"] == str(folder / "slabs" / f"{part}_tissue.nii.gz")
        assert item["case"] == f"{part}_image"


def load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path) if path.suffix == ".png" else nib.load(path).dataobj)


@pytest.mark.parametrize("name", ["datalist.json", "sites/datalist.json"])
def test_slabs_of_different_parts_are_at_least_5_mm_apart(folder: Path, name: str) -> None:
    datalist = read(folder / name)
    extents: dict[str, list[tuple[float, float]]] = {part: [] for part in PARTS}
    for part in PARTS:
        for item in datalist[part]:
            image = nib.load((folder / name).parent / item["image"])
            half = image.header.get_zooms()[2] / 2
            bottom, top = (image.affine @ [0, 0, k, 1] for k in (0, image.shape[2] - 1))
            extents[part].append((bottom[2] - half, top[2] + half))
    for part, other in (("training", "test"), ("test", "validation"), ("training", "validation")):
        for low, high in extents[part]:
            for other_low, other_high in extents[other]:
                assert max(other_low - high, low - other_high) >= 5 - 1e-3


def test_no_subject_is_in_two_parts(folder: Path) -> None:
    for name in ("datalist.json", "datalist_tissue.json", "slices/datalist.json", "sites/datalist.json"):
        subjects = [{item["subject"] for item in read(folder / name)[part]} for part in PARTS]
        assert len(set.union(*subjects)) == sum(len(found) for found in subjects)


def test_a_slab_is_the_brain_at_the_same_place(folder: Path) -> None:
    for kind in ("image", "label", "tissue"):
        brain = nib.load(folder / "brain" / f"{kind}.nii.gz")
        for part in PARTS:
            slab = nib.load(folder / "slabs" / f"{part}_{kind}.nii.gz")
            start = np.rint(np.linalg.inv(brain.affine) @ slab.affine @ [0, 0, 0, 1]).astype(int)
            assert start[:2].tolist() == [0, 0]
            expected = np.asarray(brain.dataobj)[:, :, start[2] : start[2] + slab.shape[2]]
            assert np.array_equal(np.asarray(slab.dataobj), expected)


def test_slices_are_upright_pictures_of_the_slabs(folder: Path) -> None:
    brain = np.asarray(nib.load(folder / "brain" / "image.nii.gz").dataobj)
    label = np.asarray(nib.load(folder / "brain" / "label.nii.gz").dataobj)
    datalist = read(folder / "slices" / "datalist.json")
    for part in PARTS:
        indices = [int(Path(item["image"]).stem.split("_")[1]) for item in datalist[part]]
        assert indices == list(range(indices[0], indices[-1] + 1))
        for index, item in zip(indices, datalist[part], strict=True):
            for volume, key in ((brain, "image"), (label, "label")):
                picture = Image.open(folder / "slices" / item[key])
                assert picture.mode == "L"
                # row 0 is anterior, column 0 is the subject's left
                assert np.array_equal(np.asarray(picture), np.rot90(volume[:, :, index]))


def test_every_site_is_in_every_part(folder: Path) -> None:
    datalist = read(folder / "sites" / "datalist.json")
    for part in PARTS:
        assert [item["site"] for item in datalist[part]] == list(datalist["sites"])
    assert len(datalist["sites"]) == 6


def test_nifti_headers_agree_and_carry_no_time(folder: Path) -> None:
    for path in folder.rglob("*.nii.gz"):
        header = nib.load(path).header
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
        assert header.get_xyzt_units()[0] == "mm"
        assert path.read_bytes()[4:8] == b"\0\0\0\0"


def test_same_seed_same_bytes_and_another_seed_other_scans(folder: Path, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)
    write_tiny_dataset(tmp_path / "other", seed=1)
    ours, other = hashes(folder), hashes(tmp_path / "other")
    assert ours.keys() == other.keys()
    changed = {name for name in ours if ours[name] != other[name]}
    same = ("brain/", "slabs/", "slices/", "datalist", "pairs.json", "scans.json", "LICENSE")
    assert not any(name.startswith(same) for name in changed)
    assert {"followup/points.csv", "followup/transform.json", "sites/standard/image.nii.gz"} <= changed
    assert {"pairs/mild/points.csv", "pairs/hard/moving.nii.gz"} <= changed


def test_the_licence_holds_the_notice_and_the_source(folder: Path) -> None:
    text = " ".join((folder / "LICENSE-ICBM152.txt").read_text(encoding="utf-8").split())
    assert "Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University" in text
    assert "Permission to use, copy, modify, and distribute" in text
    for name in read(folder / "demo_data.json")["source"]:
        assert name in text


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    (tmp_path / "demo_data.json").write_text('{"status": "finished"}', encoding="utf-8")
    before = hashes(tmp_path)
    with pytest.raises(InputError, match=r"holds other files; give another --output_dir"):
        write_tiny_dataset(tmp_path)
    assert hashes(tmp_path) == before


def test_writing_again_replaces_own_files_only(folder: Path, tmp_path: Path) -> None:
    write_tiny_dataset(tmp_path / "a", size=(32, 32, 24))  # more and other slices
    (tmp_path / "a" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "a" / "slices" / "images" / ".tmp-0abc_123-axial_001.png").write_text(
        "left by a killed run", encoding="utf-8"
    )
    write_tiny_dataset(tmp_path / "a")
    assert (tmp_path / "a" / "notes.txt").read_text(encoding="utf-8") == "mine"
    (tmp_path / "a" / "notes.txt").unlink()
    assert hashes(tmp_path / "a") == hashes(folder)


def test_an_interrupted_run_leaves_whole_files_and_can_be_repeated(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("monai_ext.demo.dataset.make_followup_pair", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_tiny_dataset(tmp_path, size=(32, 32, 24))
    assert read(tmp_path / "demo_data.json")["status"] == "unfinished"
    assert not list(tmp_path.rglob(".tmp-*"))
    for path in tmp_path.rglob("*.nii.gz"):
        np.asarray(nib.load(path).dataobj)
    write_tiny_dataset(tmp_path)
    assert hashes(tmp_path) == hashes(folder)


def test_a_file_list_that_leads_outside_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("keep", encoding="utf-8")
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "demo_data.json").write_text(
        '{"written_by": "monai_ext demo_data", "files": ["../outside.txt"]}', encoding="utf-8"
    )
    DemoFolder(inside).finish({})
    assert outside.read_text(encoding="utf-8") == "keep"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"give another path|choose a folder"):
        write_tiny_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 3}, "must be 1, 2 or 4"),
        ({"resolution": "fine"}, "must be 1, 2 or 4"),
        ({"seed": -1}, "whole number from 0 up"),
        ({"seed": 0.5}, "whole number from 0 up"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_demo_data(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_and_says_what(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo_data(output_dir=str(tmp_path / "demo"), resolution=4)
    printed = capfd.readouterr()
    manifest = read(tmp_path / "demo" / "demo_data.json")
    assert f"{len(manifest['files'])} files" in printed.out
    for value in manifest["slabs"]["test"]["voxels"][1:]:
        assert str(value) in printed.out
    assert printed.err == ""  # no progress bar where nobody watches
    assert manifest["resolution_mm"] == 4

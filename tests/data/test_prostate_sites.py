# SPDX-License-Identifier: Apache-2.0
"""The prostate data in both of their layouts, and the published split."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from monai_ext.data import prostate_sites
from monai_ext.data.prostate_sites import CENTRES, FOLDERS
from monai_ext.errors import InputError
from monai_ext.transforms import PrepareLabeld


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def folders(root: Path, cases: int = 10) -> Path:
    """Six folders; UCL writes its labels with a capital S, HK its own name in small letters."""
    for site in FOLDERS:
        folder = root / (site.lower() if site == "HK" else site)
        end = "_Segmentation" if site == "UCL" else "_segmentation"
        touch(*[folder / f"Case{i:02d}{kind}.nii.gz" for i in range(cases) for kind in ("", end)])
    return root


def listed(root: Path, order: list[tuple[int, str]]) -> Path:
    for number, _ in order:
        touch(
            root / "imagesTr" / f"prostate_{number:03d}_0000.nii.gz",
            root / "labelsTr" / f"prostate_{number:03d}.nii.gz",
        )
    lines = ["center,patientid", *[f"{centre},{number}" for number, centre in order]]
    (root / "prostate_patientid.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return root


def cases(items: list[dict]) -> list[str]:
    return [item["case"] for item in items]


def numbers(items: list[dict]) -> list[int]:
    return [int(item["case"].removeprefix("prostate_")) for item in items]


def test_the_folders_are_sites_and_the_last_tenth_validates(tmp_path: Path) -> None:
    training, validation, test = (
        prostate_sites(folders(tmp_path, 21), part, "UCL") for part in ("training", "validation", "test")
    )
    assert cases(training) == [f"UCL_Case{i:02d}" for i in range(18)]  # int(21 * 0.9), as published
    assert cases(validation) == ["UCL_Case18", "UCL_Case19", "UCL_Case20"]
    assert training[0] == {
        "image": str(tmp_path / "UCL" / "Case00.nii.gz"),
        "label": str(tmp_path / "UCL" / "Case00_Segmentation.nii.gz"),
        "subject": "UCL_Case00",
        "site": "UCL",
        "case": "UCL_Case00",
    }
    assert test[:3] == validation
    assert {item["site"] for item in test[3:]} == set(FOLDERS) - {"UCL"}
    assert len(test[3:]) == 5 * 21
    assert len(set(cases(test))) == len(test)
    assert prostate_sites(tmp_path, "inference", "UCL") == test


def test_the_published_list_decides_the_order_and_the_split(tmp_path: Path) -> None:
    order = [(number, CENTRES[number % 6]) for number in [*range(90, 60, -1), *range(61)]]
    root = listed(tmp_path, order)
    own = [number for number, centre in order if centre == "C-I2CVB"]
    training, validation, test = (prostate_sites(root, part, "C-I2CVB") for part in ("training", "validation", "test"))
    cut = int(len(own) * 0.9)
    assert numbers(training) == own[:cut]
    assert numbers(validation) == own[cut:]
    assert numbers(test) == own[cut:] + [number for number, centre in order if centre != "C-I2CVB"]
    assert training[0]["image"] == str(root / "imagesTr" / f"prostate_{own[0]:03d}_0000.nii.gz")
    assert prostate_sites(root, "training", 3) == prostate_sites(root, "training", "3") == training


def test_the_list_may_lie_where_the_published_code_wants_it(tmp_path: Path) -> None:
    listed(tmp_path / "raw_data", [(i, "F-HK") for i in range(4)])
    assert numbers(prostate_sites(tmp_path, "training", "F-HK")) == [0, 1, 2]


def test_several_sources_are_split_each(tmp_path: Path) -> None:
    root = folders(tmp_path)
    validation = prostate_sites(root, "validation", ["BMC", "HK"])
    assert cases(validation) == ["BMC_Case09", "HK_Case09"]
    assert {item["site"] for item in prostate_sites(root, "test", ["BMC", "HK"])[2:]} == {
        "BIDMC",
        "I2CVB",
        "RUNMC",
        "UCL",
    }


def test_a_label_of_two_zones_becomes_one_object_when_it_is_said() -> None:
    label = torch.tensor([[[0.0, 1.0, 2.0]]])
    prepare = PrepareLabeld(keys="label", num_classes=1)
    with pytest.raises(InputError, match="set num_classes=3"):
        prepare({"label": label})
    both = PrepareLabeld(keys="label", num_classes=1, object_values=[1, 2])
    assert both({"label": label})["label"].tolist() == [[[0, 1, 1]]]


def test_without_a_source_site_all_of_them_train(tmp_path: Path) -> None:
    touch(*[tmp_path / s / f"Case{i}{e}.nii.gz" for s in FOLDERS for i in range(10) for e in ("", "_segmentation")])
    training = prostate_sites(tmp_path, "training")
    assert {item["site"] for item in training} == set(FOLDERS)
    assert len(training) == 54


def test_a_seed_shuffles_before_the_split_and_loses_nobody(tmp_path: Path) -> None:
    touch(*[tmp_path / s / f"Case{i:02d}{e}.nii.gz" for s in FOLDERS for i in range(20) for e in ("", "_segmentation")])
    published, first, second = (prostate_sites(tmp_path, "validation", "UCL", seed=seed) for seed in (0, 1, 2))
    assert [item["case"] for item in published] == ["UCL_Case18", "UCL_Case19"]
    assert len({tuple(item["case"] for item in items) for items in (published, first, second)}) == 3
    training = prostate_sites(tmp_path, "training", "UCL", seed=1)
    assert len({item["case"] for item in [*training, *first]}) == 20


def test_which_cases_of_other_sites_must_be_a_known_choice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="test, all"):
        prostate_sites(tmp_path, "test", "UCL", target_cases="some")


def test_a_missing_site_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(*[tmp_path / "BMC" / f"Case{i}{end}.nii.gz" for i in range(2) for end in ("", "_segmentation")])
    with caplog.at_level(logging.WARNING):
        prostate_sites(tmp_path, "training", "BMC")
    assert "no folder of the site BIDMC, HK, I2CVB, RUNMC, UCL; is the download complete?" in caplog.text


def test_labels_that_the_list_leaves_out_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = listed(tmp_path, [(i, "F-HK") for i in range(4)])
    touch(root / "labelsTr" / "prostate_077.nii.gz")
    with caplog.at_level(logging.WARNING):
        prostate_sites(root, "training", "F-HK")
    assert "does not list 1 labels, which are not used: prostate_077" in caplog.text


def test_an_unknown_site_is_answered_by_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no site RUMC; set source_site to some of BIDMC \(10\), BMC \(10\)"):
        prostate_sites(folders(tmp_path), "training", "RUMC")
    with pytest.raises(InputError, match="no site 1; set"):  # a number means a centre of the published list alone
        prostate_sites(tmp_path, "training", 1)


def test_unpaired_files_are_named(tmp_path: Path) -> None:
    root = folders(tmp_path)
    touch(root / "BMC" / "Case77.nii.gz", root / "BMC" / "Case78_segmentation.nii.gz")
    with pytest.raises(InputError, match=r"BMC: .*without a partner: Case77.nii.gz, Case78_segmentation.nii.gz"):
        prostate_sites(root, "training", "UCL")


def test_patients_without_files_are_named(tmp_path: Path) -> None:
    root = listed(tmp_path, [(i, "F-HK") for i in range(4)])
    (root / "labelsTr" / "prostate_001.nii.gz").unlink()
    (root / "imagesTr" / "prostate_002_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="without a label or an image: patient 1, imagesTr/prostate_002_0000"):
        prostate_sites(root, "training", "F-HK")
    touch(root / "labelsTr" / "other_002.nii.gz")
    with pytest.raises(InputError, match="other_002 and prostate_002 end in one number"):
        prostate_sites(root, "training", "F-HK")


@pytest.mark.parametrize("content", ["center,id\nF-HK,1\n", "center,patientid\nF-HK,one\n", "center,patientid\nF-HK\n"])
def test_a_list_with_other_columns_is_explained(tmp_path: Path, content: str) -> None:
    root = listed(tmp_path, [(1, "F-HK")])
    (root / "prostate_patientid.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="needs the columns center and patientid, a number, in every row"):
        prostate_sites(root, "training", "F-HK")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"looked for the folders BIDMC, BMC, .* or for prostate_patientid.csv"):
        prostate_sites(tmp_path, "training", "UCL")
    (tmp_path / "prostate_patientid.csv").touch()
    with pytest.raises(InputError, match="but no folder labelsTr/"):
        prostate_sites(tmp_path, "training", "UCL")
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(InputError, match="but no folder imagesTr/"):
        prostate_sites(tmp_path, "training", "UCL")
    with pytest.raises(InputError, match=r"val_fraction must be in \[0, 1\), got 1"):
        prostate_sites(tmp_path, "training", "UCL", val_fraction=1)
    with pytest.raises(ValueError, match="section must be one of"):
        prostate_sites(tmp_path, "train", "UCL")


def test_a_site_too_small_to_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing in section 'training' with val_fraction 0.1"):
        prostate_sites(folders(tmp_path, 1), "training", "UCL")
    with pytest.raises(InputError, match="nothing in section 'validation' with val_fraction 0"):
        prostate_sites(tmp_path, "validation", "UCL", val_fraction=0)

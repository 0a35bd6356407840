# SPDX-License-Identifier: Apache-2.0
"""What 3D Slicer and OHIF send, by MONAI Label's own client and word for word, is understood by our own server.

Neither viewer runs here. 3D Slicer's extension speaks through a copy of this client; what it asks for, and with which
options, was read in its source, as was OHIF's.
"""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from tests.served.dicom_study import ROOT
from tests.served.own_app import PASSWORD, USER
from tests.served.server import Server
from tests.served.studies import label_of
from tests.served.viewer import infer, saved_label

MODEL, SERIES = "sam_sp", f"{ROOT}.2"


@pytest.fixture
def slicer(own: Server, tmp_path: Path) -> MONAILabelClient:
    """The client as 3D Slicer has it once its user has said who it is."""
    client = MONAILabelClient(own.address, tmpdir=str(tmp_path), client_id="user-xyz")
    assert client.auth_enabled()
    client.update_auth(client.auth_token(USER, PASSWORD))
    assert client.auth_valid_token()
    return client


def options(info: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    """The options that the extension sends: all that it was told of, the first where it may choose."""
    config = info[section][name]["config"]
    return {key: value[0] if isinstance(value, list) else value for key, value in config.items()}


def labels_of(file: str) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)).transpose()


def test_slicer_fetches_the_next_study_and_finds_it_where_the_server_says(slicer: MONAILabelClient) -> None:
    sample = slicer.next_sample("random", {})
    assert sample["id"] in slicer.datastore()["objects"]
    assert sample["name"].startswith(sample["id"])
    assert not Path(sample["path"]).is_absolute()  # so the extension downloads the study


def test_slicer_s_clicks_give_the_label_that_the_model_gives(slicer: MONAILabelClient, own: Server) -> None:
    asked = {"label": "box", "foreground": [[4, 9, 4], [5, 10, 4]], "background": [[20, 3, 4]]}
    file, params = slicer.infer(MODEL, "scan0", {**asked, **options(slicer.info(), "models", MODEL)})
    expected = infer(own, MODEL, "scan0", foreground=asked["foreground"], background=asked["background"], slice=4)
    np.testing.assert_array_equal(labels_of(file), np.asarray(expected.labels.dataobj))
    assert params["prompts"] == expected.params["prompts"]


def test_slicer_s_box_prompts_the_slices_that_it_spans(slicer: MONAILabelClient, own: Server) -> None:
    roi = [2, 9, 4, 15, 3, 5]
    file, params = slicer.infer(MODEL, "scan0", {"roi": roi, **options(slicer.info(), "models", MODEL)})
    expected = infer(own, MODEL, "scan0", roi=roi)
    np.testing.assert_array_equal(labels_of(file), np.asarray(expected.labels.dataobj))
    assert params["prompts"] == expected.params["prompts"]


def test_slicer_segments_a_volume_of_its_own_in_a_session(
    slicer: MONAILabelClient, own: Server, own_folder: Path
) -> None:
    session = slicer.create_session(str(own_folder / "studies" / "scan1.nii.gz"))["session_id"]
    assert slicer.get_session(session)
    file, _ = slicer.infer(f"{MODEL}_automatic", "mine", {}, session_id=session)
    expected = infer(own, f"{MODEL}_automatic", "scan1").labels
    np.testing.assert_array_equal(labels_of(file), np.asarray(expected.dataobj))
    slicer.remove_session(session)


@pytest.fixture
def labelled(slicer: MONAILabelClient, tmp_path: Path) -> MONAILabelClient:
    """Two labels that 3D Slicer saved."""
    for number in (1, 2):
        nib.save(label_of(number), tmp_path / "label.nii.gz")
        info = {"label_info": [{"name": "box", "idx": 1}, {"name": "ball", "idx": 2}]}
        slicer.save_label(f"scan{number}", str(tmp_path / "label.nii.gz"), params=info)
    return slicer


def test_slicer_s_labels_are_kept_with_its_user_and_its_words(labelled: MONAILabelClient, own: Server) -> None:
    np.testing.assert_array_equal(saved_label(own, "scan1").dataobj, label_of(1).dataobj)
    info = labelled.datastore()["objects"]["scan1"]["labels"]["final"]["info"]
    assert (info["user"], info["client_id"], info["label_info"][1]["name"]) == (USER, "user-xyz", "ball")
    downloaded = labelled.download_label("scan1", "final")
    np.testing.assert_array_equal(labels_of(downloaded), np.asarray(label_of(1).dataobj))


def test_slicer_starts_watches_and_stops_a_training(labelled: MONAILabelClient, own: Server) -> None:
    weights = own.get(f"/model/info/{MODEL}").json()
    started = labelled.train_start(MODEL, {**options(labelled.info(), "trainers", MODEL), "max_epochs": 5000})
    assert started["request"]["max_epochs"] == 5000
    wait_until_it_runs(labelled)
    with pytest.raises(MONAILabelClientException, match="being done already"):
        labelled.train_start(MODEL, {})
    assert labelled.train_stop()["status"] == "STOPPED"
    assert not labelled.train_status(check_if_running=True)
    assert labelled.train_status()["id"] == started["id"]
    assert own.get(f"/model/info/{MODEL}").json() == weights


def test_ohif_starts_and_stops_the_training_of_all_models(labelled: MONAILabelClient, own: Server) -> None:
    knobs = {name: {"max_epochs": 4000, "val_split": 0.5, "multi_gpu": False} for name in (MODEL, "desam")}
    begun = own.post("/train/", json=knobs).json()
    assert {name: task["result"]["request"]["max_epochs"] for name, task in begun.items()} == {
        MODEL: 4000,
        "desam": 4000,
    }
    for _ in begun:
        wait_until_it_runs(labelled)
        assert own.delete("/train/").json()["status"] == "STOPPED"


def wait_until_it_runs(client: MONAILabelClient, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not client.train_status(check_if_running=True):
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{", "the body is no valid JSON"),
        ("[]", "the body must be a JSON object, got a list"),
        ('{"val_split": 2}', "val_split: must be a number above 0 and below 1"),
        ('{"gpus": {"a": 1}}', "gpus: must be all, or numbers"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_it_starts(
    body: str, told: str, labelled: MONAILabelClient, own: Server
) -> None:
    response = own.post(f"/train/{MODEL}", data=body)
    assert response.status_code == 400
    assert told in response.json()["detail"]
    assert own.post(f"/batch/infer/{MODEL}", params={"images": "some"}).status_code == 400


def test_no_request_makes_the_server_stand_still(labelled: MONAILabelClient, own: Server) -> None:
    knobs = {"max_epochs": 5000, "multi_gpu": False}
    begun = own.post(f"/train/{MODEL}", params={"run_sync": True}, json=knobs, timeout=30)  # not when it has ended
    assert begun.json()["status"] in ("SUBMITTED", "RUNNING")
    wait_until_it_runs(labelled)
    assert own.delete("/train/").ok


def ohif(own: Server, model: str, params: dict[str, Any]) -> requests.Response:
    """What OHIF's panel sends when *Run* is pressed: a form, the study by the UID of its series, the label as NRRD."""
    sent = {**params, "result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False}
    form = {"params": (None, json.dumps({**sent, "restore_label_idx": False}))}
    headers = {"Origin": own.address, "Accept": "application/json,multipart/form-data"}
    return own.post(f"/infer/{model}", params={"image": SERIES, "output": "image"}, files=form, headers=headers)


def test_ohif_s_clicks_give_the_label_of_the_slice_as_it_reads_it(own: Server, tmp_path: Path) -> None:
    response = ohif(own, MODEL, {"background": [[2, 3, 3]], "foreground": [[8, 9, 3]]})
    head, _, voxels = response.content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert (fields["encoding"], fields["type"].split()[-1]) == ("raw", "char")
    expected = np.asarray(
        infer(own, MODEL, "ct", foreground=[[8, 9, 3]], background=[[2, 3, 3]], slice=3).labels.dataobj
    )
    sizes = [int(size) for size in fields["sizes"].split()]
    np.testing.assert_array_equal(np.frombuffer(voxels, np.uint8).reshape(sizes[::-1]).transpose(), expected)


def test_ohif_s_client_saves_the_voxels_of_a_label_without_a_header(own: Server) -> None:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(own.get("/datastore/image", params={"image": "ct"}).content))
    labels = (np.asarray(image.dataobj) > 250).astype(np.uint8)
    voxels = labels.transpose().tobytes()  # i runs fastest
    assert save_voxels(own, voxels).ok
    found = saved_label(own, "ct")
    np.testing.assert_array_equal(np.asarray(found.dataobj), labels)
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    assert labels.any()
    refused = save_voxels(own, voxels[1:])
    assert (refused.status_code, refused.json()["detail"][:36]) == (400, "label: must have a byte for each vox")


def save_voxels(own: Server, voxels: bytes) -> requests.Response:
    form = {"params": (None, json.dumps({"label_info": [{"name": "box"}]})), "label": ("label.bin", voxels)}
    return own.put("/datastore/label", params={"image": SERIES}, files=form)

# SPDX-License-Identifier: Apache-2.0
"""Our own server, asked over HTTP with a password: clicks, boxes, matching, batches, DICOM, OHIF, refusals."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
from requests_toolbelt import MultipartDecoder

from tests.followup.toy_bundle import places, world
from tests.report.headless import Browser, headless_browser
from tests.served.dicom_study import ROOT, place, pydicom
from tests.served.own_app import PASSWORD, USER, ct
from tests.served.sample_app import MATCHING
from tests.served.server import Server
from tests.served.studies import BEFORE, NOW, SCANS
from tests.served.viewer import Answer, infer, nifti, saved_label, wait_for, work

pydicom_seg = pytest.importorskip("pydicom_seg", reason="the environment label has it")

CLICKING = ("sam_sp", "desam")


def used(answer: Answer) -> list[str]:
    """How each slice was prompted."""
    return [entry["prompt"] for entry in answer.params["prompts"]["slices"]]


def same(one: Answer, other: Answer) -> bool:
    return np.array_equal(one.labels.dataobj, other.labels.dataobj) and one.params["prompts"] == other.params["prompts"]


def test_viewers_are_told_which_models_take_clicks(own: Server) -> None:
    models = own.get("/info/").json()["models"]
    assert {name: model["type"] for name, model in models.items()} == {
        "sam_sp": "deepgrow",
        "sam_sp_automatic": "segmentation",
        "desam": "deepgrow",
        "desam_automatic": "segmentation",
        MATCHING: "others",
    }


@pytest.mark.parametrize("name", CLICKING)
def test_a_second_click_corrects_the_slice_of_the_first(name: str, own: Server) -> None:
    first = infer(own, name, "scan0", foreground=[[4, 9, 4]], background=[], slice=4)
    second = infer(own, name, "scan0", foreground=[[4, 9, 4]], background=[[20, 3, 4]], slice=4)
    assert (used(first), used(second)) == (["points"], ["points"])
    assert [point[2] for point in second.params["prompts"]["slices"][0]["points"]] == [1, 0]
    assert np.flatnonzero(np.asarray(second.labels.dataobj).any(axis=(0, 1))).tolist() in ([], [4])
    assert not same(first, second)


@pytest.mark.parametrize("name", CLICKING)
def test_a_box_prompts_the_slices_that_it_spans(name: str, own: Server) -> None:
    answer = infer(own, name, "scan0", roi=[2, 9, 4, 15, 3, 5])
    assert answer.labels.shape == nib.load(own.log.parent / "studies" / "scan0.nii.gz").shape
    assert "box" in used(answer)
    assert used(infer(own, f"{name}_automatic", "scan0")).count("box") == 0


def test_users_at_once_get_what_each_gets_alone(own: Server) -> None:
    asked = [("sam_sp", scan, [[4 + 3 * number, 9, 4]]) for number, scan in enumerate(SCANS[:2])]
    asked += [("sam_sp_automatic", SCANS[2], [])]
    alone = [infer(own, name, scan, foreground=clicks) for name, scan, clicks in asked]
    with ThreadPoolExecutor(3) as pool:
        at_once = list(pool.map(lambda one: infer(own, one[0], one[1], foreground=one[2]), asked * 3))
    assert all(same(answer, expected) for answer, expected in zip(at_once, alone * 3, strict=True))
    assert not same(alone[0], alone[1])


def test_points_of_one_study_are_found_in_another_without_embedding_it_again(own: Server) -> None:
    kept = []
    for count in (1, 3):
        points = world(BEFORE, places(count)).tolist()
        answer = infer(own, MATCHING, "now", reference="before", points=points)
        found = [point["place"] for point in answer.params["points"]]
        np.testing.assert_allclose(found, world(NOW, places(count)), atol=2e-3)
        folder = own.log.parent / "own" / f"{MATCHING}_embeddings"
        kept.append({file: file.stat().st_ino for file in folder.rglob("*.safetensors")})
    assert kept[0]
    assert kept[1] == kept[0]


def test_a_batch_labels_all_studies(own: Server) -> None:
    work(own, "batch/infer", "sam_sp_automatic", params={"images": "all"}, json={"max_workers": 1})
    for scan in (*SCANS, "ct"):
        expected = infer(own, "sam_sp_automatic", scan).labels
        np.testing.assert_array_equal(saved_label(own, scan, "original").dataobj, expected.dataobj)


def test_a_dicom_series_is_clicked_on_in_the_grid_that_its_download_has(own: Server, own_folder: Path) -> None:
    scan = nifti(own.get("/datastore/image", params={"image": "ct"}).content)
    corners = [[0, 0, 0], [19, 0, 0], [0, 23, 0], [0, 0, 5]]
    lps = nib.affines.apply_affine(np.diag([-1, -1, 1, 1]) @ scan.affine, corners)
    np.testing.assert_allclose(lps, [place(*corner) for corner in corners], atol=1e-4)
    answer = infer(own, "sam_sp", "ct", foreground=[[8, 9, 3]])
    assert answer.labels.shape == scan.shape
    assert used(answer).count("points") == 1


def test_a_result_is_a_dicom_seg_of_the_series(own: Server, tmp_path: Path) -> None:
    expected = infer(own, "sam_sp_automatic", "ct").labels
    response = own.post("/infer/sam_sp_automatic", params={"image": "ct", "output": "dicom_seg"})
    (tmp_path / "seg.dcm").write_bytes(response.content)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    labels = np.asarray(expected.dataobj)
    names = own.get("/info/").json()["models"]["sam_sp"]["labels"]
    there = [name for name, value in names.items() if (labels == value).any()]
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == there
    image = pydicom_seg.MultiClassReader().read(written).image
    for voxel in np.argwhere(labels >= 0)[::37]:
        index = image.TransformPhysicalPointToIndex([float(value) for value in place(*voxel)])
        assert image.GetPixel(index) == labels[tuple(voxel)]
    assert there


def test_the_series_is_found_and_read_by_dicomweb(own: Server) -> None:
    def ask(path: str, **query: str) -> list[dict[str, Any]]:
        return own.get(f"/proxy/dicom/wado/{path}", params=query).json()

    study, series = f"studies/{ROOT}.1", f"studies/{ROOT}.1/series/{ROOT}.2"
    assert [row["0020000D"]["Value"] for row in ask("studies", PatientName="nob*")] == [[f"{ROOT}.1"]]
    assert (
        ask("studies", PatientID="2") == ask("studies", StudyInstanceUID=f"{ROOT}.9") == ask("studies/1/series") == []
    )
    assert [row["00201209"]["Value"] for row in ask(f"{study}/series")] == [[6]]
    headers = [pydicom.Dataset.from_json(header) for header in ask(f"{series}/metadata")]
    np.testing.assert_allclose([h.ImagePositionPatient for h in headers], [place(0, 0, k) for k in range(6)], atol=1e-6)
    for header, pixels in zip(headers, ct(), strict=True):
        frame = own.get(f"/proxy/dicom/wado/{series}/instances/{header.SOPInstanceUID}/frames/1")
        (part,) = MultipartDecoder.from_response(frame).parts
        np.testing.assert_array_equal(np.frombuffer(part.content, np.int16).reshape(pixels.shape), pixels)
    assert own.get(f"/proxy/dicom/wado/{series}/instances/{ROOT}.3.1/frames/2").status_code == 400


def test_ohif_shows_a_study_and_finds_the_models(own: Server, tmp_path: Path) -> None:
    text = "return document.body.innerText"
    with headless_browser(tmp_path / "profile") as browser:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        browser.devtools("Network.enable")
        browser.devtools("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {login}"})
        browser.devtools("Network.setCookie", name="MONAILABEL_SERVER_URL", value=f"{own.address}/", url=own.address)
        browser.devtools("Page.navigate", url=f"{own.address}/ohif/")
        wait_for(lambda: "made for a test" in str(browser.run(text)))
        browser.devtools("Page.navigate", url=f"{own.address}/ohif/monai-label?StudyInstanceUIDs={ROOT}.1")
        wait_for(lambda: browser.run("return document.querySelectorAll('.settingsTable .actionButton').length"))
        wait_for(lambda: answered(browser, "/frames/1") == 6)
        browser.run("document.querySelector('.settingsTable .actionButton').click()")
        models = "return [...document.querySelectorAll('option')].map(o => o.value || o.text).join()"
        wait_for(lambda: "sam_sp_automatic" in str(browser.run(models)))
        assert not [line for line in browser.logs("browser") if "Uncaught" in line["message"]]


def answered(browser: Browser, ending: str) -> int:
    """How many addresses with this ending the page has read."""
    script = f"return performance.getEntriesByType('resource').filter(e => e.name.endsWith('{ending}')).length"
    return int(str(browser.run(script)))


def test_a_scan_that_is_no_study_is_segmented_from_a_session(own: Server, own_folder: Path) -> None:
    with open(own_folder / "studies" / "scan1.nii.gz", "rb") as file:
        session = own.put("/session/", files={"files": ("mine.nii.gz", file)}).json()["session_id"]
    options = {"params": {"session_id": session, "output": "image"}, "data": {"params": '{"foreground": [[7, 9, 4]]}'}}
    labels = nifti(own.post("/infer/sam_sp", **options).content)
    expected = infer(own, "sam_sp", "scan1", foreground=[[7, 9, 4]]).labels
    np.testing.assert_array_equal(labels.dataobj, expected.dataobj)
    assert own.delete(f"/session/{session}").ok
    assert own.post("/infer/sam_sp", **options).status_code == 400


def test_a_header_that_names_a_file_of_the_server_reads_none(own: Server, own_folder: Path) -> None:
    header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: {own_folder}/users\n"
    session = own.put("/session/", files={"files": ("mine.nrrd", header.encode())}).json()["session_id"]
    asked = {"params": {"session_id": session}, "data": {"params": "{}"}}
    label = {"params": {"image": "scan3"}, "files": {"label": ("label.nrrd", header.encode())}}
    answers = [own.post("/infer/sam_sp_automatic", **asked), own.put("/datastore/label", **label)]
    for response in answers:
        assert response.status_code == 400
        assert "the header says that the voxels lie in another file" in response.json()["detail"]
    assert (
        own.put("/datastore/image", params={"image": "new"}, files={"file": label["files"]["label"]}).status_code == 400
    )
    own.delete(f"/session/{session}")


@pytest.mark.parametrize(
    ("image", "params", "told"),
    [
        ("scan0", "[" * 100_000, "params: is no valid JSON"),
        ("scan0", '{"foreground": [[NaN, 9, 4]]}', "foreground: must be numbers"),
        ("scan0", '{"device": "cpu:3"}', "device: must be one of cpu"),
        ("../own/main.py", "{}", "image: must be a name"),
        ("scan9", "{}", "image: there is no study scan9 here"),
        ("scan0", '{"foreground": [[400, 9, 4]]}', "lies outside of the image's 24x20x9 voxels"),
        ("scan0", '{"device": "$__import__(\'os\').abort()"}', "device: must be a name"),
        ("scan0", "[1]", "params: must be a JSON object"),
        ("scan0", '{"foreground": [[1', "params: is no valid JSON"),
    ],
)
def test_what_a_client_can_mend_is_told_in_one_line(image: str, params: str, told: str, own: Server) -> None:
    response = own.post("/infer/sam_sp", params={"image": image}, data={"params": params})
    assert response.status_code == 400
    assert told in response.json()["detail"]


def test_nobody_gets_in_without_a_password_or_sends_more_than_is_allowed(own: Server) -> None:
    with requests.Session() as nobody:
        nobody.trust_env = False
        assert nobody.get(f"{own.address}/info/").status_code == 401
        assert nobody.get(f"{own.address}/ohif/").status_code == 401
        token = nobody.post(f"{own.address}/auth/token", data={"username": USER, "password": PASSWORD}).json()
        headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        assert nobody.get(f"{own.address}/info/", headers=headers).ok
    assert own.put("/session/", files={"files": ("large.nii.gz", b"0" * 1_100_000)}).status_code == 413
    assert own.get("/info/").ok


def test_no_answer_names_a_folder_of_the_server(own: Server, own_folder: Path) -> None:
    with open(own_folder / "studies" / "scan1.nii.gz", "rb") as file:
        session = own.put("/session/", files={"files": ("mine.nii.gz", file)})
    asked = {"params": {"image": "scan0"}, "data": {"params": '{"foreground": [[400, 9, 4]]}'}}
    answers = [
        session,
        own.post("/infer/sam_sp", **asked),
        own.post("/activelearning/random", json={}),
        own.get("/datastore/image/info", params={"image": "scan0"}),
        own.get("/datastore/", params={"output": "train"}),
        own.get("/datastore/", params={"output": "all"}),
        own.get("/info/"),
        own.get(f"/session/{session.json()['session_id']}"),
    ]
    own.delete(f"/session/{session.json()['session_id']}")
    assert [answer.url for answer in answers if str(own_folder) in answer.text] == []
    assert "scan0.nii.gz: foreground [400, 9, 4] lies outside" in answers[1].text

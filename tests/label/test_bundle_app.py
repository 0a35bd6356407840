# SPDX-License-Identifier: Apache-2.0
"""Our app hands each request to its model with the right file, and no client gets further than the studies."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_ext.errors import InputError
from monai_ext.label import bundle_app
from monai_ext.label.bundle_app import BundleApp


class Store:
    """Studies of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[str, str, str]] = []
        self.told: list[dict[str, Any]] = []

    def list_images(self) -> list[str]:
        return sorted(file.name.removesuffix(".nii.gz") for file in self.folder.glob("*.nii.gz"))

    def get_image_uri(self, name: str) -> str:
        return str(self.folder / f"{name}.nii.gz")

    def save_label(self, image: str, file: str, tag: str, info: dict[str, Any]) -> str:
        self.saved.append((image, file, tag))
        self.told.append(info)
        return image


class Base:
    """As much of MONAI Label's class as ours builds on."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], **words: str) -> None:
        self.app_dir, self.studies, self.conf = app_dir, studies, conf
        self._store = Store(Path(studies))
        self._infers = self.init_infers()  # type: ignore[attr-defined]
        self._trainers: dict[str, Any] = {"seg": None}
        self._strategies: dict[str, Any] = {"random": None}
        self.asked: list[dict[str, Any]] = []

    def datastore(self) -> Store:
        return self._store

    def batch_infer(self, request: dict[str, Any], datastore: Any) -> list[Any]:
        self.asked.append(request)
        return [self.infer({**request, "image": image}) for image in request["images"]]  # type: ignore[attr-defined]

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"id": request["strategy"]}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return request


class App(BundleApp, Base):
    pass


class Task:
    """Answers with what it was asked."""

    type = "segmentation"

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[dict[str, Any]] = []
        self.act: Callable[[], None] = lambda: None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self.asked.append(request)
        self.act()
        return "result.nii.gz", {"image": request["image"]}


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app with two studies, and a file outside of them."""
    for name in ("studies/a.nii.gz", "studies/b.nii.gz", "secret.nii.gz", "app/sessions/1/c.nii.gz", "app/tmp/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "app/sessions/1/c.nii.gz")
    monkeypatch.setattr(bundle_app, "build_tasks", lambda folder, *_: {folder.name: Task(folder.name)})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "app" / "tmp"))
    monkeypatch.chdir(tmp_path / "studies")  # where a study's id could be the name of a file
    models = os.pathsep.join(str(tmp_path / "model" / name) for name in ("seg", "match"))
    return App(str(tmp_path / "app"), str(tmp_path / "studies"), {"models": models})


def asked(app: App, model: str = "seg") -> dict[str, Any]:
    return app._infers[model].asked[-1]


def test_a_study_is_given_to_the_model_by_its_file(app: App) -> None:
    answer = app.infer({"model": "seg", "image": "a", "foreground": [[1, 2, 3]], "temp_dir": "/"})
    file = str(Path(app.studies) / "a.nii.gz")
    assert asked(app) == {
        "model": "seg",
        "image": file,
        "foreground": [[1, 2, 3]],
        "result_extension": ".nii.gz",
        "result_dtype": "uint8",
    }
    assert (answer["file"], answer["params"]) == ("result.nii.gz", {"image": file})


@pytest.mark.parametrize("image", ["secret", "../secret", "a.nii.gz", "", None, 5, ["a"], {"a": 1}])
def test_what_is_no_study_is_refused(image: object, app: App) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        app.infer({"model": "seg", "image": image})
    assert app._infers["seg"].asked == []


@pytest.mark.parametrize("place", ["secret.nii.gz", "studies/a.nii.gz", "app/sessions/../../secret.nii.gz", "app/no"])
def test_no_file_outside_of_the_server_s_own_folder_is_read(place: str, app: App, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the session or upload is gone"):
        app.infer({"model": "seg", "image": f"{tmp_path}/{place}"})


def test_what_a_session_holds_is_read_and_never_saved_as_a_study_s_label(app: App, tmp_path: Path) -> None:
    image = str(tmp_path / "app/sessions/1/c.nii.gz")
    app.infer({"model": "seg", "image": image, "save_label": True})
    assert asked(app)["image"] == image
    assert app.datastore().saved == []


def test_what_a_session_holds_may_not_name_another_file(app: App, tmp_path: Path) -> None:
    image = tmp_path / "app/sessions/1/e.nrrd"
    image.write_text(f"NRRD0004\ndata file: {tmp_path}/secret.nii.gz\n\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^image: the header says that the voxels lie in another file"):
        app.infer({"model": "seg", "image": str(image)})
    assert app._infers["seg"].asked == []


def test_a_picture_comes_back_as_a_picture(app: App, tmp_path: Path) -> None:
    app.infer({"model": "seg", "image": str(tmp_path / "app/tmp/d.png"), "result_extension": ".nii.gz"})
    assert asked(app)["result_extension"] == ".png"


@pytest.mark.parametrize(
    ("options", "slice_"),
    [
        ({"foreground": [[1, 2, 3]], "background": [[4, 5, 3]]}, 3),
        ({"foreground": [[1, 2, 3]], "slice": -1}, -1),
        ({"foreground": [[1, 2, 3], [1, 2, 4]]}, None),
        ({"foreground": [[1, 2, 3]], "roi": [0, 1, 0, 1, 0, 9]}, None),
        ({"foreground": [[1, 2]]}, None),
        ({"foreground": [], "background": []}, None),
    ],
)
def test_of_a_click_model_the_slice_is_wanted_that_was_clicked_on(
    options: dict[str, Any], slice_: int | None, app: App
) -> None:
    app._infers["seg"].type = "deepgrow"
    app.infer({"model": "seg", "image": "a", **options})
    assert asked(app).get("slice") == slice_
    app._infers["seg"].type = "segmentation"
    app.infer({"model": "seg", "image": "a", **options})
    assert asked(app).get("slice") == options.get("slice")


def test_a_label_is_saved_where_the_client_wants_it(app: App) -> None:
    app.infer({"model": "seg", "image": "b", "save_label": True, "label_tag": "original"})
    assert app.datastore().saved == [("b", "result.nii.gz", "original")]


def test_labels_of_a_batch_say_who_asked_for_it(app: App) -> None:
    app.batch_infer({"model": "seg", "images": ["a"], "save_label": True, "user": "ada"})
    assert app.datastore().told == [
        {"model": "seg", "params": {"image": app.datastore().get_image_uri("a")}, "user": "ada"}
    ]


def test_the_reference_is_another_study(app: App) -> None:
    app.infer({"model": "match", "image": "a", "reference": "b", "points": [[0, 0, 0]]})
    assert asked(app, "match")["reference"] == "b.nii.gz"
    with pytest.raises(InputError, match="there is no study secret here"):
        app.infer({"model": "match", "image": "a", "reference": "secret", "points": [[0, 0, 0]]})


def test_an_error_that_the_client_can_mend_is_told_in_its_own_line(app: App) -> None:
    def act() -> None:
        try:
            raise InputError("a.nii.gz: foreground lies outside")
        except InputError as error:
            raise RuntimeError("applying transform failed") from error

    app._infers["seg"].act = act
    with pytest.raises(InputError, match=r"^a\.nii\.gz: foreground lies outside$"):
        app.infer({"model": "seg", "image": "a"})


def test_an_error_of_ours_stays_one(app: App) -> None:
    def act() -> None:
        raise KeyError("pred")

    app._infers["seg"].act = act
    with pytest.raises(KeyError):
        app.infer({"model": "seg", "image": "a"})


def test_no_more_than_two_requests_are_computed_at_the_same_time(app: App) -> None:
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def act() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(5)  # not before a second one is there
        with lock:
            running -= 1

    app._infers["seg"].act = act
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda image: app.infer({"model": "seg", "image": image}), "abababab"))
    assert most == 2


def test_a_batch_and_a_training_get_known_options_only(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_app.cuda, "is_available", lambda: False)
    app.batch_infer({"model": "seg", "images": ["a", "b"], "max_workers": 1, "bundle_path": "/elsewhere"})
    assert app.asked == [{"model": "seg", "images": ["a", "b"], "max_workers": 1, "multi_gpu": False, "user": None}]
    app.train({"model": "seg", "max_epochs": 1, "bundle_path": "/elsewhere", "train#dataset": "$code"})
    assert app.asked[1:] == [{"model": "seg", "max_epochs": 1}]


@pytest.mark.parametrize("task", ["infer", "batch_infer", "bundle_path", "train"])
def test_a_model_that_is_not_there_is_refused_with_those_that_are(task: str, app: App) -> None:
    request: Any = {"model": "other", "image": "a"}
    with pytest.raises(InputError, match=r"model: .*other.* seg"):
        getattr(app, task)("other" if task == "bundle_path" else request)


def test_the_next_study_is_chosen_by_a_strategy_that_there_is(app: App) -> None:
    assert app.next_sample({"strategy": "random"}) == {"id": "random"}
    with pytest.raises(InputError, match="strategy: there is no first; one of: random"):
        app.next_sample({"strategy": "first"})
    with pytest.raises(InputError, match="strategy: must be a name"):
        app.next_sample({"strategy": ["random"]})


def test_background_tasks_import_from_the_bundle_s_own_folder(app: App, tmp_path: Path) -> None:
    assert app.bundle_path("match") == str(tmp_path / "model" / "match")


@pytest.mark.parametrize(
    ("models", "told"), [("", "names no bundle"), (os.pathsep.join(["x/seg", "y/seg"]), "models: seg more than once")]
)
def test_models_have_names_of_their_own(models: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        App(str(tmp_path), str(tmp_path), {"models": models})

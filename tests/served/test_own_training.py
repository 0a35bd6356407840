# SPDX-License-Identifier: Apache-2.0
"""Our own server trains from the labels that its users saved, and a power cut while it does costs none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.profiles import PROFILES
from tests.bundles.runs import read_json
from tests.served.own_app import USER, serve_own, write_own
from tests.served.server import Server
from tests.served.studies import affine_of, label_of
from tests.served.viewer import Answer, infer, save_label, saved_label, wait_for, work

MODEL, CLICK = "sam_sp", {"foreground": [[4, 9, 4]], "slice": 4}
KNOBS = {"max_epochs": 2, "learning_rate": 0.02, "val_split": 0.5, "device": "cpu"}


@dataclass(frozen=True)
class Life:
    """What happened to a server that was killed while it trained and saved labels, and the server after it."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    answers: tuple[Answer, Answer]
    history: dict[str, Any]
    refused: dict[str, str]
    saved: int
    second: Server
    bundle: Path


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Label, train, train again, save labels meanwhile, and kill; then start again."""
    folder = write_own(tmp_path_factory.mktemp("life"), [MODEL])
    bundle = folder / "model" / MODEL
    with serve_own(folder, "first.log") as first:
        refused = {"too early": start(first)}
        for number in range(2):
            save_label(first, f"scan{number}", label_of(number), reader="B.", user="somebody else")
        refused["too many"] = start(first, max_epochs=10**9)
        answers = [infer(first, MODEL, "scan2", **CLICK)]
        before = weights(bundle)
        work(first, "train", MODEL, json=KNOBS)
        after, history = weights(bundle), read_json(bundle / "eval" / "history.json")
        answers.append(infer(first, MODEL, "scan2", **CLICK))
        assert start(first, max_epochs=5000) == ""
        wait_for(lambda: trains(bundle, 5000), seconds=300)
        for saved in range(1, 6):  # the last of these is saved right before the end
            save_label(first, "scan2", round_of(saved), round=saved)
        first.kill()
    with serve_own(folder, "second.log") as second:
        yield Life(before, after, (answers[0], answers[1]), history, refused, saved, second, bundle)


def round_of(number: int) -> nib.Nifti1Image:
    """The label of a study as somebody corrected it for so many times."""
    return nib.Nifti1Image(np.asarray(label_of(number % 4).dataobj), affine_of(2))


def start(server: Server, **knobs: Any) -> str:
    """Start a training; return why it was refused."""
    response = server.post(f"/train/{MODEL}", json={**KNOBS, **knobs})
    return "" if response.ok else f"{response.status_code}: {response.json()['detail']}"


def trains(bundle: Path, epochs: int) -> bool:
    """Whether the running training is the one of so many epochs."""
    with suppress(FileNotFoundError):  # for a moment, while the one before is kept aside
        return bool(read_json(bundle / "eval" / "run.json")["knobs"]["max_epochs"] == epochs)
    return False


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return torch.load(bundle / "models" / "model.pt", weights_only=True)


def test_what_was_learned_from_saved_labels_is_served_at_once(life: Life) -> None:
    learns, frozen = PROFILES[MODEL].learns, PROFILES[MODEL].frozen
    assert not torch.equal(life.after[learns], life.before[learns])
    assert all(torch.equal(life.after[name], life.before[name]) for name in life.before if frozen(name))
    first, second = (np.asarray(answer.labels.dataobj) for answer in life.answers)
    assert not np.array_equal(first, second)


def test_the_user_s_knobs_are_the_training_s(life: Life) -> None:
    assert len(life.history["epochs"]) == KNOBS["max_epochs"]
    told = read_json(life.bundle / "eval" / "run.json")["knobs"]
    assert (told["max_epochs"], told["learning_rate"]) == (5000, KNOBS["learning_rate"])  # of the one that was killed


def test_a_training_that_cannot_be_is_refused_with_the_reason(life: Life) -> None:
    assert life.refused == {
        "too early": "400: train: 0 studies have a final label, wanted 2, to train on and to validate on.",
        "too many": "400: max_epochs: must be a whole number from 1 to 10000, got 1000000000.",
    }


def test_no_label_is_lost_in_a_kill_while_it_trains(life: Life) -> None:
    for number, expected in enumerate((label_of(0), label_of(1), round_of(life.saved))):
        found = np.asarray(saved_label(life.second, f"scan{number}").dataobj)
        np.testing.assert_array_equal(found, np.asarray(expected.dataobj))
    assert info(life.second, "scan2")["round"] == life.saved
    assert life.second.get("/datastore/").json()["completed"] == 3


def test_each_label_says_who_saved_it_whatever_the_client_said(life: Life) -> None:
    told = info(life.second, "scan0")
    assert (told["user"], told["reader"]) == (USER, "B.")
    sent = {"params": {"label": "scan0", "tag": "final"}, "data": {"info": '{"user": "eve", "reader": "C."}'}}
    assert life.second.put("/datastore/label/info", **sent).ok
    told = info(life.second, "scan0")
    assert (told["user"], told["reader"]) == (USER, "C.")


def test_after_the_kill_clicks_are_answered_and_nothing_trains(life: Life) -> None:
    assert np.asarray(infer(life.second, MODEL, "scan3", **CLICK).labels.dataobj).any(axis=(0, 1)).sum() <= 1
    assert life.second.get("/train/", params={"check_if_running": True}).status_code == 404
    work(life.second, "train", MODEL, json={**KNOBS, "max_epochs": 1})


def info(server: Server, image: str) -> dict[str, Any]:
    return server.get("/datastore/label/info", params={"label": image, "tag": "final"}).json()

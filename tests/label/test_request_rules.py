# SPDX-License-Identifier: Apache-2.0
"""What a client sends reaches no file, becomes no code, and is otherwise left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.label import request_rules
from monai_ext.label.request_rules import batch_options, check_name, infer_options, train_options

NAMES = ["case 01", "ct.v2", "Müller_3", "1.2.840.113619.2", "a" * 255]
PLACES = ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "a" * 256, 7, None, "$code", "@ref", "%file"]
PLACES += ["case@##network", "case%#x"]  # which MONAI's configs replace within a text
CODE = ["$__import__('os').system('id')", " $1", "@network", "%other.json::key"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_as_it_is(name: str) -> None:
    assert check_name("image", name) == name


@pytest.mark.parametrize("name", PLACES, ids=repr)
def test_what_could_lead_out_of_a_folder_is_no_name(name: object) -> None:
    with pytest.raises(InputError, match=r"^image: must be a name"):
        check_name("image", name)


def test_what_viewers_send_passes_and_what_means_nothing_is_left_out() -> None:
    useful = {
        "foreground": [[1, 2, 3]],
        "background": [],
        "roi": [0, 9, 1, 8, 2, 7],
        "slice": 3,
        "result_extension": ".nii.gz",
        "result_dtype": "uint8",
        "reference": "before",
        "points": [[1.5, -2, 3e2]],
        "point_names": ["left", "right"],
        "save_label": True,
    }
    useless = {"client_id": "slicer", "label": "/etc/passwd", "image": "/etc/passwd", "session": {}, "bundle_path": "/"}
    assert infer_options({**useful, **useless}) == useful


@pytest.mark.parametrize("name", ["foreground", "points", "box", "slice", "point_names", "device", "model_filename"])
@pytest.mark.parametrize("value", CODE)
def test_no_text_that_a_config_would_run_passes(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        infer_options({name: [value]})


@pytest.mark.parametrize(
    ("options", "given", "told"),
    [
        (infer_options, {"result_extension": "/../../x.nii"}, "result_extension: must be a file suffix"),
        (infer_options, {"result_dtype": "object"}, "result_dtype: must be one of uint8"),
        (infer_options, {"foreground": {"_target_": "os.system"}}, "foreground: must be numbers"),
        (infer_options, {"foreground": [0] * 10_001}, "foreground: a list may have 10000 entries"),
        (infer_options, {"foreground": [[[[1]]]]}, "foreground: must be numbers .* 3 deep at most"),
        (infer_options, {"points": [[float("nan"), 0, 0]]}, "points: must be numbers"),
        (infer_options, {"points": [[float("inf"), 0, 0]]}, "points: must be numbers"),
        (infer_options, {"slice": 10**300}, "slice: must be numbers of 1e.09 at most"),
        (infer_options, {"device": "cpu:7"}, "device: must be one of cpu, cuda"),
        (infer_options, {"device": ["meta"]}, "device: must be one of cpu, cuda"),
        (infer_options, {"label_tag": "../final"}, "label_tag: must be a name"),
        (infer_options, {"label_info": "liver"}, "label_info: must be a list of objects"),
        (infer_options, {"model_filename": "../../weights.pt"}, "model_filename: must be a name"),
        (train_options, {"max_epochs": "$9"}, "max_epochs: must be a whole number from 1 to 10000"),
        (train_options, {"max_epochs": {"_target_": "os.system"}}, "max_epochs: must be a whole number"),
        (train_options, {"max_epochs": 0}, "max_epochs: must be a whole number"),
        (train_options, {"max_epochs": 1.5}, "max_epochs: must be a whole number"),
        (train_options, {"max_epochs": float("nan")}, "max_epochs: must be a whole number"),
        (train_options, {"max_epochs": True}, "max_epochs: must be a whole number"),
        (train_options, {"learning_rate": 0}, "learning_rate: must be a number above 0 and below 1"),
        (train_options, {"val_split": 1}, "val_split: must be a number above 0 and below 1"),
        (train_options, {"pretrained": "maybe"}, "pretrained: must be true or false"),
        (train_options, {"gpus": "0;1"}, "gpus: must be all, or numbers"),
        (train_options, {"gpus": ["0"]}, "gpus: must be all, or numbers"),
        (batch_options, {"max_workers": 10**6}, "max_workers: must be a whole number from 0 to 64"),
        (batch_options, {"images": ["a", "../b"]}, "images: must be a name"),
    ],
)
def test_a_wrong_value_is_named(options: Callable[[Mapping[str, Any]], Any], given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        options(given)


def test_a_list_of_choices_stands_for_its_first() -> None:
    given = {"device": ["cpu", "cuda:0"], "model_filename": ["model.pt", "other.pt"]}
    assert infer_options(given) == {"device": "cpu", "model_filename": "model.pt"}


def test_training_takes_what_its_form_has_and_nothing_else() -> None:
    useful = {"max_epochs": 2, "learning_rate": 0.01, "val_split": 0.2, "pretrained": True, "gpus": "all"}
    useful |= {"device": "cpu", "multi_gpu": False}
    useless = {"tracking_uri": "http://elsewhere", "train#dataset": 1, "run_id": "evaluate", "model_filename": "x.pt"}
    assert train_options({**useful, **useless, "client_id": "slicer"}) == useful


@pytest.mark.parametrize(("gpus", "taken"), [("0,1", "0,1"), (0, "0"), ("all", "all")])
def test_gpus_are_named_as_text_or_number(gpus: object, taken: str) -> None:
    assert train_options({"gpus": gpus}) == {"gpus": taken}


def test_a_device_is_one_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_rules.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(request_rules.cuda, "get_device_name", lambda number: "Some GPU")
    for known in ("cpu", "cuda", "cuda:1", "Some GPU:1", ""):
        assert infer_options({"device": known}) == {"device": known}
    for unknown in ("cuda:2", "cpu:0", "Other GPU"):
        with pytest.raises(InputError, match="device: must be one of"):
            infer_options({"device": unknown})

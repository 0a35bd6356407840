# SPDX-License-Identifier: Apache-2.0
"""What a client sends reaches no file, becomes no code, and is otherwise left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from monai_ext.errors import InputError
from monai_ext.label.request_rules import batch_options, check_name, infer_options, train_options

NAMES = ["case 01", "ct.v2", "Müller_3", "1.2.840.113619.2", "a" * 255]
PLACES = ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "a" * 256, 7, None, "$code", "@ref", "%file"]
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
        (infer_options, {"label_tag": "../final"}, "label_tag: must be a name"),
        (infer_options, {"label_info": "liver"}, "label_info: must be a list of objects"),
        (train_options, {"max_epochs": "$9"}, "max_epochs: must be a number"),
        (train_options, {"max_epochs": {"_target_": "os.system"}}, "max_epochs: must be a number"),
        (train_options, {"pretrained": "maybe"}, "pretrained: must be true or false"),
        (train_options, {"model_filename": "../../weights.pt"}, "model_filename: must be a name"),
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
    useful = {"max_epochs": 2, "val_split": 0.2, "pretrained": True, "gpus": "all", "run_id": "", "device": "cpu"}
    assert train_options({**useful, "tracking_uri": "http://elsewhere", "train#dataset": 1}) == useful

# SPDX-License-Identifier: Apache-2.0
"""What clients of the server may ask: known options with harmless values, and names that are no paths."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import cuda

from monai_ext.errors import InputError

LONGEST_NAME = 255
LONGEST_LIST = 10_000
DEEPEST_LIST = 3
LARGEST_NUMBER = 1e9
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,2})?")
GPUS = re.compile(r"all|[0-9]{1,2}(,[0-9]{1,2})*")
SUFFIX = re.compile(r"\.[A-Za-z0-9]+(\.[A-Za-z0-9]+)?")
VOXEL_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
CONFIG_MARKS = ("$", "@", "%")  # with which MONAI's configs begin code, references and other files
INNER_MARKS = ("@#", "%#")  # which MONAI's configs replace anywhere in a text


def check_name(what: str, value: object) -> str:
    """Return an id, tag, or file name that cannot lead out of its folder.

    Raises:
        InputError: it is no text, is empty or too long, begins with a dot or a mark of MONAI's configs, or has a slash,
            a control character, or space at an end, or has one of those that MONAI's configs replace anywhere.

    Example:
        >>> check_name("image", "case 01.v2")
        'case 01.v2'
    """
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= LONGEST_NAME
        or value.startswith((".", *CONFIG_MARKS))
        or value != value.strip()
        or any(sign in "/\\" or not sign.isprintable() for sign in value)
        or any(mark in value for mark in INNER_MARKS)
    ):
        raise InputError(
            f"{what}: must be a name of 1 to {LONGEST_NAME} printable characters without slashes and without "
            f"{' or '.join(INNER_MARKS)}, no space at an end, not beginning with one of . {' '.join(CONFIG_MARKS)}, "
            f"got {_short(value)}."
        )
    return value


def infer_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of an inference request that mean something here; clients send many others, too.

    Raises:
        InputError: an option with a value that it cannot have.

    Example:
        >>> infer_options({"foreground": [[1, 2, 3]], "temp_dir": "/tmp"})
        {'foreground': [[1, 2, 3]]}
    """
    return _checked(given, INFER_OPTIONS)


def clicked_slice(options: Mapping[str, Any]) -> Any:
    """Return the k on which all clicks are, None if they are on several, or something else was asked.

    Viewers take nothing but the slice that was clicked on from a 2-D click model, but OHIF does not say which that is.

    Example:
        >>> clicked_slice({"foreground": [[4, 9, 3]], "background": [[8, 9, 3]]})
        3
    """
    if any(options.get(name) for name in ("box", "roi", "points")):
        return None
    clicks = [*_as_list(options.get("foreground")), *_as_list(options.get("background"))]
    places = [click[2] for click in clicks if isinstance(click, list) and len(click) == 3]
    alike = len(places) == len(clicks) and len({str(place) for place in places}) == 1
    return places[0] if alike else None


def train_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a training request that mean something here.

    They go into the bundle's config, where a text may be code: only plain numbers, switches and names pass.

    Raises:
        InputError: an option with a value that it cannot have.

    Example:
        >>> train_options({"max_epochs": 2, "bundle_path": "/elsewhere"})
        {'max_epochs': 2}
    """
    return _checked(given, TRAIN_OPTIONS)


def batch_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a batch that mean something here, those of each inference included.

    Raises:
        InputError: an option with a value that it cannot have.

    Example:
        >>> batch_options({"images": "unlabeled", "max_workers": 2})
        {'images': 'unlabeled', 'max_workers': 2}
    """
    return _checked(given, {**INFER_OPTIONS, **BATCH_OPTIONS})


def _checked(given: Mapping[str, Any], rules: Mapping[str, Callable[[str, Any], Any]]) -> dict[str, Any]:
    return {name: rules[name](name, value) for name, value in given.items() if name in rules and value is not None}


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _data(name: str, value: Any, depth: int = 0) -> Any:
    """Pass numbers, texts, and lists of them."""
    if isinstance(value, list | tuple) and depth < DEEPEST_LIST:
        if len(value) > LONGEST_LIST:
            raise InputError(f"{name}: a list may have {LONGEST_LIST} entries, got {len(value)}.")
        return [_data(name, entry, depth + 1) for entry in value]
    if isinstance(value, str) and not value.lstrip().startswith(CONFIG_MARKS):
        return value
    if isinstance(value, bool | int | float) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER:
        return value
    raise InputError(
        f"{name}: must be numbers of {LARGEST_NUMBER:g} at most, texts that do not begin with "
        f"{' '.join(CONFIG_MARKS)}, or lists of these, {DEEPEST_LIST} deep at most, got {_short(value)}."
    )


def _choice(name: str, value: Any) -> Any:
    """Pass one name; of a list, which is all that there was to choose from, the first."""
    first = value[0] if isinstance(value, list) and value else value
    return check_name(name, first) if first else ""


def _device(name: str, value: Any) -> Any:
    """Pass a device of this machine, or ``cuda`` on one without; each name more would be one more network kept."""
    first = _choice(name, value)
    gpus = [cuda.get_device_name(number) for number in range(cuda.device_count())]
    numbered = [f"{name}:{number}" for number, gpu in enumerate(gpus) for name in ("cuda", gpu)]
    known = {"", "cpu", "cuda", *gpus, *numbered}
    if first not in known and (gpus or not DEVICE.fullmatch(first)):
        raise InputError(f"{name}: must be one of {', '.join(sorted(known - {''}))}, got {_short(value)}.")
    return first


def _gpus(name: str, value: Any) -> Any:
    if not isinstance(value, str | int) or not GPUS.fullmatch(str(value)):
        raise InputError(f"{name}: must be all, or numbers of GPUs with commas between them, got {_short(value)}.")
    return str(value)


def _whole(least: int, most: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if not _is_number(value) or not least <= value <= most or value != int(value):
            raise InputError(f"{name}: must be a whole number from {least} to {most}, got {_short(value)}.")
        return int(value)

    return check


def _between(least: float, most: float) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if not _is_number(value) or not least < value < most:
            raise InputError(f"{name}: must be a number above {least:g} and below {most:g}, got {_short(value)}.")
        return float(value)

    return check


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _switch(name: str, value: Any) -> bool:
    texts = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in texts:
        return texts[value.lower()]
    if not isinstance(value, bool):
        raise InputError(f"{name}: must be true or false, got {_short(value)}.")
    return value


def _suffix(name: str, value: Any) -> Any:
    if not isinstance(value, str) or not SUFFIX.fullmatch(value):
        raise InputError(f"{name}: must be a file suffix such as .nii.gz, got {_short(value)}.")
    return value


def _voxel_type(name: str, value: Any) -> Any:
    if value not in VOXEL_TYPES:
        raise InputError(f"{name}: must be one of {', '.join(VOXEL_TYPES)}, got {_short(value)}.")
    return value


def _images(name: str, value: Any) -> Any:
    """Pass ``all``, ``labeled``, ``unlabeled``, or a list of ids."""
    if isinstance(value, list):
        return [check_name(name, entry) for entry in value]
    return check_name(name, str(getattr(value, "value", value)))


def _segments(name: str, value: Any) -> Any:
    """Pass what a client says of the segments of a DICOM-SEG: a list of objects with names, texts, and colours."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(f"{name}: must be a list of objects with a name each, got {_short(value)}.")
    known = ("name", "description", "color", "model_name")
    return [{key: _data(f"{name} {key}", entry[key]) for key in known if key in entry} for entry in value]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


INFER_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("foreground", "background", "points", "point_labels", "box", "roi", "slice"), _data),
    **dict.fromkeys(("reference", "points_unit", "space"), check_name),
    "point_names": _data,
    "device": _device,
    "model_filename": _choice,
    "result_extension": _suffix,
    "result_dtype": _voxel_type,
    "result_compress": _switch,
    "save_label": _switch,
    "label_tag": lambda name, value: check_name(name, str(getattr(value, "value", value))),
    "label_info": _segments,
}
TRAIN_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "max_epochs": _whole(1, 10_000),
    "learning_rate": _between(0, 1),
    "val_split": _between(0, 1),
    "pretrained": _switch,
    "device": _device,
    "multi_gpu": _switch,
    "gpus": _gpus,
}
BATCH_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "images": _images,
    "multi_gpu": _switch,
    "gpus": _gpus,
    "max_workers": _whole(0, 64),
    "max_batch_size": _whole(0, 1_000_000),
}

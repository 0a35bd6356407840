# SPDX-License-Identifier: Apache-2.0
"""Which prompt each slice of a case was segmented with: the file beside a prediction, read and checked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.report.reading import list_of, mapping_of, number_of, text_of
from monai_ext.scan_files import stem_of

Box = tuple[float, float, float, float]
Point = tuple[float, float, bool]

PROMPTS = {
    "self": "self-prompt box",
    "null": "no prompt (first mask empty)",
    "box": "given box",
    "points": "given points",
    "grid": "best point of a grid",
    "none": "no prompt (no point of the grid believed)",
    "whole": "box around the whole image",
}
_BY_SOURCE = {("null", "null"): "no prompt (as asked)", ("truth", "box"): "true box"}


@dataclass(frozen=True)
class SlicePrompt:
    """The prompt of one slice.

    Attributes:
        kind: ``self``, ``null``, ``box``, ``points``, or what else the record says.
        text: the same in words.
        box: first column, first row, last column, last row, both ends inside, in pixels of the slice as displayed.
        points: column, row, and whether the point lies on the object.
    """

    kind: str
    text: str
    box: Box | None = None
    points: tuple[Point, ...] = ()

    def moved(self, place: Callable[[float, float], tuple[float, float]]) -> SlicePrompt:
        """Return the prompt with its pixels put where ``place`` says."""
        box = self.box
        if box is not None:
            corners = [place(box[0], box[1]), place(box[2], box[3])]
            (left, right), (top, bottom) = (sorted(ends) for ends in zip(*corners, strict=True))
            box = (left, top, right, bottom)
        return replace(self, box=box, points=tuple((*place(x, y), is_object) for x, y, is_object in self.points))

    def touches(self, columns: int, rows: int) -> bool:
        """Say whether box and points lie on a slice of this size; a box that somebody gave may stick out of it."""
        left, top, right, bottom = self.box or (0, 0, 0, 0)
        inside = all(-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5 for x, y, _ in self.points)
        return inside and right >= 0 and bottom >= 0 and left <= columns - 1 and top <= rows - 1

    def in_words(self) -> str:
        """Return the prompt with its coordinates, counted from 0, for those who cannot see it drawn."""
        parts = [self.text]
        if self.box is not None:
            left, top, right, bottom = self.box
            parts.append(f"columns {left:g} to {right:g}, rows {top:g} to {bottom:g}")
        if self.points:
            inside = sum(is_object for _, _, is_object in self.points)
            parts.append(f"{inside} on the object, {len(self.points) - inside} off it")
        return ": ".join((parts[0], "; ".join(parts[1:]))) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class PromptRecord:
    """All prompts of a case: the plane of its slices, where prompts came from, and the prompt of each slice."""

    plane: str
    source: str
    slices: dict[int, SlicePrompt]

    def counts(self) -> dict[str, int]:
        """Return how many slices used which prompt, by its words, the most used first."""
        return dict(Counter(prompt.text for prompt in self.slices.values()).most_common())


def parse_prompts(text: str) -> PromptRecord:
    """Read a record from JSON.

    Raises:
        InputError: it is no such record; the message goes behind a file name.

    Example:
        >>> text = '{"plane": "axial", "slices": [{"index": 3, "prompt": "self", "box": [1, 2, 5, 6]}]}'
        >>> parse_prompts(text).slices[3].in_words()
        'self-prompt box: columns 1 to 5, rows 2 to 6'
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not valid JSON") from None
    record = mapping_of(content)
    if not isinstance(record.get("slices"), list):
        raise InputError("is not a record of prompts: it has no list of slices")
    source = text_of(record.get("prompt_source"))
    slices = [_slice_of(mapping_of(entry), number, source) for number, entry in enumerate(list_of(record["slices"]))]
    return PromptRecord(text_of(record.get("plane")), source, dict(slices))


def prompts_path(prediction: Path) -> Path:
    """Return where the record of a prediction is: ``<case>_prompts.json`` beside it."""
    return prediction.with_name(f"{stem_of(prediction)}_prompts.json")


def read_prompts(prediction: Path) -> PromptRecord | None:
    """Read the record beside a prediction; None when there is none.

    Raises:
        InputError: it cannot be read, or is none.
    """
    path = prompts_path(prediction)
    try:
        return parse_prompts(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path.name} could not be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not valid JSON.") from error
    except InputError as error:
        raise InputError(f"{path.name} {error}.") from error


def _slice_of(entry: dict[str, object], number: int, source: str) -> tuple[int, SlicePrompt]:
    index, kind = number_of(entry.get("index")), text_of(entry.get("prompt"))
    if index is None or index < 0 or index != int(index) or not kind:
        raise InputError(f"is not a record of prompts: slices[{number}] has no index or no prompt")
    box = None if entry.get("box") is None else _box_of(entry["box"], number)
    points = tuple(found for point in list_of(entry.get("points")) if (found := _point_of(point, number)) is not None)
    return int(index), SlicePrompt(kind, _words(kind, source, box, points), box, points)


def _box_of(value: object, number: int) -> Box:
    found = _numbers(value, 4)
    if found is None or found[0] > found[2] or found[1] > found[3]:
        raise InputError(f"is not a record of prompts: the box of slices[{number}] is not [xmin, ymin, xmax, ymax]")
    return found[0], found[1], found[2], found[3]


def _point_of(value: object, number: int) -> Point | None:
    found = _numbers(value, 3)
    if found is None or found[2] not in (-1, 0, 1):
        raise InputError(f"is not a record of prompts: a point of slices[{number}] is not [x, y, 1 or 0]")
    if found[2] == -1:  # Segment Anything's padding, where slices of one batch have fewer points than others
        return None
    return found[0], found[1], found[2] == 1


def _numbers(value: object, count: int) -> list[float] | None:
    found = [number for item in list_of(value) if (number := number_of(item)) is not None]
    return found if len(found) == count == len(list_of(value)) else None


def _words(kind: str, source: str, box: Box | None, points: tuple[Point, ...]) -> str:
    if kind == "points" and box is not None and points:
        return "given points and box"
    return _BY_SOURCE.get((source, kind)) or PROMPTS.get(kind, kind)

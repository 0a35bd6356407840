# SPDX-License-Identifier: Apache-2.0
"""Boxes and points drawn over a slice: white dashes on a dark line, which no class contour looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monai_ext.report.markup import Markup, tag
from monai_ext.report.prompt_record import PromptRecord, SlicePrompt


@dataclass(frozen=True)
class PromptMarks:
    """A prompt in the pixels of a picture of its slice.

    Attributes:
        text: which prompt it is.
        words: the same with the coordinates in the slice.
        box: left, top, width, height, or None.
        points: column, row, and whether the point lies on the object.
    """

    text: str
    words: str
    box: tuple[float, float, float, float] | None
    points: list[tuple[float, float, bool]]

    def as_data(self) -> dict[str, object]:
        """Return what ``viewer.js`` draws."""
        return {"text": self.text, "box": self.box, "points": [[x, y, int(on)] for x, y, on in self.points]}


def place_marks(
    prompt: SlicePrompt, shape: Sequence[int], size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> PromptMarks:
    """Return the marks of a prompt in a slice (rows, columns) that is shown in ``size`` (width, height).

    A box goes around its first and last pixel, and ends where the slice does.

    Example:
        >>> place_marks(SlicePrompt("box", "given box", (1, 0, 3, 9)), (5, 8), (16, 10)).box
        (2.0, 0.0, 6.0, 10.0)
    """
    across, down = size[0] / shape[1], size[1] / shape[0]
    box = None
    if prompt.box is not None:
        left, top = max(prompt.box[0], 0), max(prompt.box[1], 0)
        right, bottom = min(prompt.box[2] + 1, shape[1]), min(prompt.box[3] + 1, shape[0])
        box = (
            round(offset[0] + left * across, 2),
            round(offset[1] + top * down, 2),
            round((right - left) * across, 2),
            round((bottom - top) * down, 2),
        )
    points = [
        (round(offset[0] + (x + 0.5) * across, 2), round(offset[1] + (y + 0.5) * down, 2), on)
        for x, y, on in prompt.points
    ]
    return PromptMarks(prompt.text, prompt.in_words(), box, points)


def marks_layer(marks: PromptMarks, size: tuple[int, int], arm: float = 0) -> Markup | None:
    """Return the marks as SVG to lie over a picture of ``size``; lines keep their width however large it is shown.

    ``arm`` is half the length of the signs at points, a fortieth of the picture when it is not given.
    """
    shapes = []
    if marks.box is not None:
        left, top, width, height = marks.box
        shapes += [
            tag("rect", x=left, y=top, width=width, height=height, class_=kind) for kind in ("edge-line", "dash")
        ]
    arm = arm or round(max(size) / 40, 1)
    for x, y, is_object in marks.points:
        path = f"M{x - arm:g} {y:g}h{2 * arm:g}" + (f"M{x:g} {y - arm:g}v{2 * arm:g}" if is_object else "")
        shapes += [tag("path", d=path, class_=kind) for kind in ("edge-line", "stroke")]
    if not shapes:
        return None
    return tag(
        "svg",
        shapes,
        viewBox=f"0 0 {size[0]} {size[1]}",
        preserveAspectRatio="none",
        class_="marks",
        aria_hidden="true",
    )


def marks_legend(records: Sequence[PromptRecord]) -> Markup | None:
    """Return the part of the legend that explains the marks of these records, or None when they have none."""
    prompts = [prompt for record in records for prompt in record.slices.values()]
    keys = []
    if any(prompt.box is not None for prompt in prompts):
        keys.append(_key("box", PromptMarks("", "", (3.5, 3.0, 17.0, 10.0), [])))
    signs = {is_object for prompt in prompts for _, _, is_object in prompt.points}
    for is_object, name in ((True, "point on the object"), (False, "point off it")):
        if is_object in signs:
            keys.append(_key(name, PromptMarks("", "", None, [(12.0, 8.0, is_object)])))
    return tag("span", tag("b", "prompt"), keys, data_legend="prompt") if keys else None


def _key(name: str, marks: PromptMarks) -> Markup:
    return tag("span", tag("span", marks_layer(marks, (24, 16), arm=5), class_="mark-key"), name, class_="key")

# SPDX-License-Identifier: Apache-2.0
"""The four panels of an example: image, truth, prediction and error of the slice with the most object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ext.report.loaded import LoadedCase
from monai_ext.report.markup import Markup, tag
from monai_ext.report.paint import (
    blend,
    class_palette,
    display_size,
    error_map,
    error_palette,
    png_address,
    resize,
    to_bytes,
)
from monai_ext.report.prompt_marks import PromptMarks, marks_layer, place_marks
from monai_ext.report.reading import number_of, score_text

if TYPE_CHECKING:
    import numpy as np

_SIDE = 288  # pixels: three cases of four panels stay below 3 MB


def example(rank: str, loaded: LoadedCase, plane: str) -> Markup:
    """Return one example: a heading, the four panels, the scores of each class."""
    case = loaded.case
    index = _fullest_slice(loaded, plane)
    where = loaded.image.caption(plane, index)
    heading = tag("h3", tag("span", rank, class_="rank"), " ", tag("span", case.name, class_="case-name"))
    scores = "Dice " + " · ".join(
        f"{row.get('class_name', row.get('class', ''))} {score_text(row.get('dice'))}" for row in case.rows
    )
    prompt = loaded.prompt_of(plane, index)
    parts = [
        where and f"{plane} {where}",
        scores if any(number_of(row.get("dice")) is not None for row in case.rows) else "",
        prompt.text if prompt else "",
    ]
    return tag(
        "article",
        heading,
        tag("p", " — ".join(part for part in parts if part), class_="muted"),
        tag("div", *_panels(loaded, plane, index), class_="panels"),
        [tag("p", note, class_="muted") for note in (*loaded.notes, _plane_note(loaded, plane)) if note],
        class_="example",
    )


def _panels(loaded: LoadedCase, plane: str, index: int) -> list[Markup]:
    frame = loaded.image.frame(plane, index)
    size = display_size(frame.shape, loaded.image.size_mm(plane), _SIDE)
    grey = resize(to_bytes(frame, loaded.window), size, smooth=True)
    maps = {layer: scan.frame(plane, index) for layer, scan in loaded.labels.items()}
    if len(maps) == 2:
        maps["error"] = error_map(maps["truth"], maps["prediction"])
    prompt = loaded.prompt_of(plane, index)
    marks = place_marks(prompt, frame.shape, size) if prompt else None
    panels = [_panel("image", png_address(grey), loaded.case.name, size, marks)]
    for layer, labels in maps.items():
        small = resize(labels, size, smooth=False)
        # errors are thin: on a darkened image and in full colour they are seen
        painted = (
            blend(grey // 2, small, error_palette(), 1.0) if layer == "error" else blend(grey, small, class_palette())
        )
        shown = marks if layer == "prediction" else None  # the truth and the errors owe nothing to the prompt
        panels.append(_panel(layer, png_address(painted), loaded.case.name, size, shown))
    return panels


def _panel(layer: str, address: str, name: str, size: tuple[int, int], marks: PromptMarks | None) -> Markup:
    alternative = f"{name}: {'the image' if layer == 'image' else f'{layer} over the image'}"
    picture = tag("img", src=address, alt=f"{alternative}, {marks.words}" if marks else alternative)
    drawn = marks_layer(marks, size) if marks else None
    return tag("figure", tag("div", picture, drawn, class_="marked"), tag("figcaption", layer.capitalize()))


def _plane_note(loaded: LoadedCase, plane: str) -> str:
    """Say why no prompt is drawn where prompts were given on slices of another plane."""
    shown = loaded.image.shown_plane(plane)
    if loaded.prompts is None or shown in ("", loaded.prompts.plane):
        return ""
    return f"Prompts were used on {loaded.prompts.plane} slices; this one is {shown}, so none is drawn."


def _fullest_slice(loaded: LoadedCase, plane: str) -> int:
    """Return the slice with the most labelled voxels of the truth (or prediction), else the middle one."""
    count = loaded.image.count(plane)
    for scan in loaded.labels.values():
        areas: list[np.ndarray] = [(scan.frame(plane, index) > 0).sum() for index in range(count)]
        if max(areas) > 0:
            return max(range(count), key=areas.__getitem__)
    return count // 2

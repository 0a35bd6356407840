# SPDX-License-Identifier: Apache-2.0
"""Examples, the slice viewer and the pictures drawn during training, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_ext.errors import InputError
from monai_ext.report.cases import ScoredCase, best_median_worst, class_names
from monai_ext.report.loaded import LoadedCase, load_case
from monai_ext.report.markup import Markup, join, json_block, tag
from monai_ext.report.notices import command_for, missing_notice
from monai_ext.report.palette import ERROR_COLOURS, ERROR_NAMES, class_colour, css_colour
from monai_ext.report.panels import example
from monai_ext.report.prompt_marks import marks_legend
from monai_ext.report.prompt_record import PromptRecord
from monai_ext.report.reading import mapping_of, text_of
from monai_ext.report.scans import PLANES
from monai_ext.report.slices import View, pictures_view, size_of, volume_view
from monai_ext.report.sources import RunFolder
from monai_ext.report.viewer import viewer

_VIEWER_BUDGET = 4_500_000  # characters of data addresses; with the examples the page stays below 8 MB
_VIEW_BUDGET = 1_500_000
_MOST_PICTURES = 40
_MOST_OVERLAYS, _OVERLAY_BUDGET = 6, 900_000


def picture_sections(
    folder: RunFolder, cases: list[ScoredCase], records: Sequence[PromptRecord] = ()
) -> tuple[Markup, Markup]:
    """Return the examples and the viewer; both come from the same opened files, one case at a time.

    ``records`` are the prompts of the cases, for the legend.
    """
    if not cases:
        return missing_notice(folder, "cases.csv"), missing_notice(folder, "cases.csv")
    plane = _plane(folder)
    chosen = best_median_worst(cases)
    examples: dict[str, Markup] = {}
    views: list[View] = []
    for rank, case in sorted(chosen, key=lambda item: item[0] not in ("median", "only")):  # the first gets all planes
        try:
            loaded = load_case(case)
        except InputError as error:
            examples[rank] = tag(
                "article",
                tag("h3", tag("span", rank, class_="rank"), " ", case.name),
                tag("div", str(error), class_="missing"),
            )
            continue
        examples[rank] = example(rank, loaded, plane)
        views += _volume_views(rank, loaded, plane, _VIEWER_BUDGET - sum(map(size_of, views)))
    views += _picture_views(cases, _VIEWER_BUDGET - sum(map(size_of, views)))
    legend = _legend(class_names(folder.rows), marks_legend(records))
    prediction = _prediction_notice(folder, cases)
    gallery = join([prediction, legend, *(examples[rank] for rank, _ in chosen)])
    if not views:
        return gallery, tag(
            "div", "No image of the cases could be opened, so there is nothing to page through.", class_="missing"
        )
    marked = any("prompts" in view for view in views)
    return gallery, join(
        [viewer([text_of(view["title"]) for view in views], marked), legend, json_block("viewer-data", views)]
    )


def training_section(folder: RunFolder) -> Markup:
    """Return some of the pictures that the run drew, the first and the last among them."""
    if not folder.overlays:
        return missing_notice(folder, "overlays")
    step = max(1, (len(folder.overlays) - 1) / (_MOST_OVERLAYS - 1))
    count = min(len(folder.overlays), _MOST_OVERLAYS)
    chosen = [folder.overlays[min(len(folder.overlays) - 1, round(number * step))] for number in range(count)]
    figures = [_overlay_figure(path, _OVERLAY_BUDGET // count) for path in chosen]
    return tag("div", [figure for figure in figures if figure], class_="overlays")


def _plane(folder: RunFolder) -> str:
    plane = text_of(mapping_of(folder.run.get("knobs")).get("plane"))
    return plane if plane in PLANES else "axial"


def _volume_views(rank: str, loaded: LoadedCase, plane: str, budget: int) -> list[View]:
    if loaded.image.flat:
        return []
    planes = [plane, *(other for other in PLANES if other != plane)] if rank in ("median", "only", "first") else [plane]
    views = []
    for name in planes:
        view = volume_view(loaded, name, f"{loaded.case.name}, {name} ({rank})", min(budget, _VIEW_BUDGET))
        if view is not None:
            views.append(view)
            budget -= size_of(view)
    return views


def _picture_views(cases: list[ScoredCase], budget: int) -> list[View]:
    """Return one view of all 2-D cases that can be opened, the worst first."""
    flat: list[ScoredCase] = []
    for case in sorted(cases, key=lambda case: 2.0 if case.dice is None else case.dice):
        try:
            if len(flat) < _MOST_PICTURES and load_case(case).image.flat:
                flat.append(case)
            elif not flat:
                return []  # volumes: opening each of them only to look would take long
        except InputError:
            continue
    view = pictures_view(flat, "all cases, the lowest Dice first", min(budget, 2 * _VIEW_BUDGET)) if flat else None
    return [view] if view else []


def _prediction_notice(folder: RunFolder, cases: list[ScoredCase]) -> Markup | None:
    if any("prediction" in case.files for case in cases):
        return None
    command = tag("code", command_for(folder, "predictions"), class_="command")
    return tag(
        "div",
        tag("strong", "predictions"),
        " were not written, so errors cannot be drawn. They are written by",
        command,
        class_="missing",
    )


def _legend(names: dict[int, str], marks: Markup | None) -> Markup:
    classes = [_key(name, class_colour(index)) for index, name in names.items()]
    errors = [_key(name, colour) for name, colour in zip(ERROR_NAMES, ERROR_COLOURS, strict=True)]
    errors = errors if len(names) > 1 else errors[:2]  # with one class there is no wrong one
    return tag(
        "div",
        tag("span", tag("b", "classes"), classes, data_legend="class"),
        tag("span", tag("b", "errors"), errors, data_legend="error"),
        marks,
        class_="legend-row",
    )


def _key(name: str, colour: tuple[int, int, int]) -> Markup:
    return tag("span", tag("span", class_="swatch", style=f"background:{css_colour(colour)}"), name, class_="key")


def _overlay_figure(path: Path, budget: int) -> Markup | None:
    import numpy as np
    from PIL import Image

    from monai_ext.report.paint import photo_address, png_address

    try:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
    except OSError:
        return tag("div", tag("strong", path.name), " is not a readable picture.", class_="missing")
    pixels.thumbnail((1100, 1100))
    address = png_address(np.asarray(pixels))
    if len(address) > budget:
        address = photo_address(np.asarray(pixels), quality=75)
    return tag(
        "figure",
        tag("img", src=address, alt=f"samples drawn in training: {path.stem}"),
        tag("figcaption", path.stem.replace("_", " ")),
    )

# SPDX-License-Identifier: Apache-2.0
"""The controls of the slice viewer; ``viewer.js`` fills them with life."""

from __future__ import annotations

from monai_ext.report.markup import Markup, tag

_LAYERS = ("none", "truth", "prediction", "error")


def viewer(titles: list[str], prompts: bool = False) -> Markup:
    """Return the viewer for views with these titles; ``prompts``: some of them have prompts to draw."""
    help_text = "Arrow keys change the slice; T, P, E and N choose truth, prediction, error or none"
    help_text += "; B shows or hides the prompt." if prompts else "."
    bars = " The bars above the slider show the share of wrong pixels in each slice"
    bars += "; the line below them marks the slices that were given a prompt." if prompts else "."
    return tag(
        "div",
        _controls(titles, prompts),
        _stage(help_text, prompts),
        _slider(prompts),
        tag(
            "p",
            tag("output", id="position", for_="slice"),
            tag("span", id="used-prompt") if prompts else None,
            tag("span", id="share", class_="muted"),
            class_="position",
        ),
        tag("p", help_text, bars, class_="muted small"),
        tag(
            "noscript",
            tag("div", "The viewer needs JavaScript, which is switched off in this browser.", class_="missing"),
        ),
        class_="viewer",
        id="viewer",
    )


def _controls(titles: list[str], prompts: bool) -> Markup:
    views = tag(
        "label",
        "view",
        tag("select", [tag("option", title, value=number) for number, title in enumerate(titles)], id="view"),
    )
    radios = [
        tag(
            "label", tag("input", type="radio", name="layer", value=layer, checked=layer == "error"), tag("span", layer)
        )
        for layer in _LAYERS
    ]
    layers = tag("fieldset", tag("legend", "overlay"), tag("div", radios, class_="segments"))
    opacity = tag("label", "opacity", tag("input", type="range", id="opacity", min=10, max=100, value=80))
    toggle = tag("label", "prompt", tag("input", type="checkbox", id="show-prompt", checked=True)) if prompts else None
    return tag("div", views, layers, opacity, toggle, class_="controls")


def _stage(help_text: str, prompts: bool) -> Markup:
    panes = [
        tag("div", tag("canvas", id="plain", role="img", aria_label="image alone"), class_="pane plain"),
        tag(
            "div",
            tag("canvas", id="overlaid", role="img", aria_label="image with overlay"),
            tag("svg", id="marks", class_="marks", aria_hidden="true") if prompts else None,
            [tag("span", class_=f"edge {edge}") for edge in ("left", "right", "top", "bottom")],
            class_="pane",
        ),
    ]
    return tag("div", panes, class_="stage", tabindex=0, role="group", aria_label=f"Slices. {help_text}", id="stage")


def _slider(prompts: bool) -> Markup:
    slider = tag(
        "label",
        tag("span", "slice", class_="sr"),
        tag("input", type="range", id="slice", min=0, max=0, value=0, aria_label="slice"),
    )
    bars = tag("svg", id="profile", aria_hidden="true", preserveAspectRatio="none")
    strip = tag("svg", id="prompted", aria_hidden="true", preserveAspectRatio="none") if prompts else None
    return tag("div", bars, strip, slider, class_="slider")

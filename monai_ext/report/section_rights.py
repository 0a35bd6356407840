# SPDX-License-Identifier: Apache-2.0
"""Licences of code, weights and data, the exported files, and how to cite."""

from __future__ import annotations

import re

from monai_ext.report.markup import Markup, join, link, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.reading import file_name, list_of, mapping_of, number_of, score_text, text_of
from monai_ext.report.sources import RunFolder

_FORMATS = {"torchscript": "TorchScript", "onnx": "ONNX"}


def licences_section(folder: RunFolder) -> Markup:
    """Return three blocks: code, weights, data."""
    source = text_of(folder.metadata.get("data_source"))
    return join(
        [
            tag("h3", "Code"),
            _licence_text(_title_of(folder.licence), folder.licence)
            if folder.licence
            else missing_notice(folder, "LICENSE"),
            tag("h3", "Weights"),
            _weights(folder),
            tag("h3", "Data"),
            tag("p", with_links(source)) if source else None,
            _licence_text(_title_of(folder.data_licence), folder.data_licence)
            if folder.data_licence
            else missing_notice(folder, "data_license.txt"),
        ]
    )


def export_section(folder: RunFolder) -> Markup:
    """Return how far the exported files agree with the network that was trained."""
    parity = folder.parity
    if not parity:
        return missing_notice(folder, "parity.json")
    tolerance = number_of(parity.get("tolerance"))
    heads = ("format", "file", "largest difference", "Dice to eager", "opset", "sha256")
    head = tag("tr", [tag("th", name, scope="col") for name in heads])
    rows = [
        _export_row(title, mapping_of(parity.get(key)), tolerance) for key, title in _FORMATS.items() if key in parity
    ]
    created, limit = text_of(parity.get("created")), text_of(parity.get("tolerance"))
    checked = f"Checked on {file_name(parity.get('image'))}, {created}, tolerance {limit}."
    weights = tag("p", "Weights sha256 ", tag("code", text_of(parity.get("weights_sha256"))), class_="muted small hash")
    return join(
        [tag("p", checked), tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll"), weights]
    )


def cite_section(folder: RunFolder) -> Markup:
    """Return the references of the bundle and a sentence for a methods section."""
    references = [text_of(reference) for reference in list_of(folder.metadata.get("references"))]
    if not folder.metadata:
        listed: Markup = missing_notice(folder, "metadata.json")
    elif references:
        listed = tag("ol", [tag("li", with_links(reference)) for reference in references])
    else:
        listed = tag("p", "configs/metadata.json names no reference.", class_="muted")
    sentence = methods_sentence(folder)
    return join(
        [
            listed,
            tag("h3", "For a methods section") if sentence else None,
            tag("blockquote", sentence) if sentence else None,
        ]
    )


def methods_sentence(folder: RunFolder) -> str:
    """Return two sentences that say what was run and on what the scores rest, or nothing without run.json."""
    run, versions = folder.run, mapping_of(folder.run.get("versions"))
    if not run:
        return ""
    named = [
        f"{title} {text_of(versions[key])}"
        for key, title in (("monai", "MONAI"), ("torch", "PyTorch"))
        if versions.get(key)
    ]
    software = f" with {' and '.join(named)}" if named else ""
    epochs = f", {len(folder.epochs)} epochs" if folder.epochs else ""
    bundle, version, seed = (text_of(run.get(key)) for key in ("bundle", "bundle_version", "seed"))
    first = f"We ran the bundle {bundle} {version}{software} (seed {seed}{epochs})."
    cases = number_of(folder.summary.get("cases"))
    bootstrap = mapping_of(mapping_of(folder.summary.get("conventions")).get("bootstrap"))
    if cases is None or not bootstrap:
        return first
    level = (number_of(bootstrap.get("level")) or 0) * 100
    intervals = f"{level:g} % bootstrap intervals ({text_of(bootstrap.get('samples'))} samples)"
    return f"{first} Scores are means over {cases:.0f} cases with {intervals}."


def with_links(text: str) -> Markup:
    """Return text whose web addresses can be followed."""
    parts = re.split(r"(https?://[^\s<>\"]*[^\s<>\".,;:)])", text)
    return join(link(part) if number % 2 else part for number, part in enumerate(parts))


def _title_of(licence: str) -> str:
    if "Apache License" in licence and "Version 2.0" in licence:
        return "Apache License, Version 2.0"
    return next((line.strip() for line in licence.splitlines() if line.strip()), "")


def _licence_text(title: str, text: str) -> Markup:
    return tag("details", tag("summary", title[:120]), tag("pre", text.strip(), tabindex=0))


def _weights(folder: RunFolder) -> Markup:
    if not folder.large_files:
        return missing_notice(folder, "large_files.yml")
    head = tag("tr", [tag("th", name, scope="col") for name in ("file", "licence", "address", "checksum")])
    rows = [
        tag(
            "tr",
            tag("th", text_of(entry.get("path")), scope="row"),
            tag("td", text_of(entry.get("licence") or entry.get("license")) or "not stated"),
            tag("td", link(text_of(entry.get("url")))),
            tag("td", tag("code", _short(text_of(entry.get("hash_val")))), title=text_of(entry.get("hash_val"))),
        )
        for entry in folder.large_files
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll")


def _export_row(title: str, record: dict[str, object], tolerance: float | None) -> Markup:
    difference = number_of(record.get("max_abs_difference"))
    verdict = None
    if difference is not None and tolerance is not None:
        verdict = tag(
            "span",
            "equal" if difference <= tolerance else "differs",
            class_="badge good" if difference <= tolerance else "badge bad",
        )
    return tag(
        "tr",
        tag("th", title, scope="row"),
        tag("td", file_name(record.get("file"))),
        tag("td", "–" if difference is None else f"{difference:.1e} ", verdict),
        tag("td", score_text(record.get("dice"), 5)),
        tag("td", text_of(record.get("opset")) or "–"),
        tag("td", tag("code", _short(text_of(record.get("sha256")))), title=text_of(record.get("sha256"))),
    )


def _short(digest: str) -> str:
    return digest if len(digest) <= 16 else f"{digest[:12]}…"

# SPDX-License-Identifier: Apache-2.0
"""What was run, where prompts came from, and what the scores count: enough to do it again."""

from __future__ import annotations

from collections.abc import Mapping

from monai_ext.report.markup import Markup, join, tag
from monai_ext.report.notices import missing_notice
from monai_ext.report.prompt_record import PROMPTS
from monai_ext.report.reading import count_text, duration_text, file_name, list_of, mapping_of, number_of, text_of
from monai_ext.report.sources import RunFolder

_CONVENTIONS = {
    "prompt_source": "Prompts come from",
    "prompts": "Slices by their prompt",
    "slices": "Slices scored",
    "empty_both": "Truth and prediction both empty",
    "empty_one": "Only one of them empty",
    "nsd_tolerance_mm": "Tolerance of NSD in mm",
    "bootstrap": "Intervals",
}
_OWN = {
    "self": "The network prompted itself, from its own first mask or grid of points: nobody told it anything.",
    "null": "No prompts were used: the network's first mask was scored, before it prompts itself.",
}
_LOOKED_UP = ("truth", "ground", "label", "gt", "oracle")


def run_section(folder: RunFolder) -> Markup:
    """Return the facts of the run and every knob with its value."""
    run = folder.run
    if not run:
        return missing_notice(folder, "run.json")
    hardware, parameters, best = (mapping_of(run.get(key)) for key in ("hardware", "parameters", "best"))
    gpus = [text_of(name) for name in list_of(hardware.get("gpus"))]
    blocks: dict[str, Mapping[str, object]] = {
        "Run": {
            "bundle": f"{text_of(run.get('bundle'))} {text_of(run.get('bundle_version'))}",
            "status": run.get("status"),
            "started": run.get("started"),
            "finished": run.get("finished"),
            "time": duration_text(run.get("seconds")),
            "seed": run.get("seed"),
            "config files": ", ".join(file_name(path) for path in list_of(run.get("config_files"))),
            "best epoch": f"{text_of(best.get('epoch'))} ({text_of(best.get('metric'))} {text_of(best.get('value'))})"
            if best
            else None,
        },
        "Hardware": {
            "device": run.get("device"),
            "processor": hardware.get("cpu"),
            "cores": hardware.get("cores"),
            "graphics": ", ".join(gpus) or ("none" if hardware else None),
            "processes": hardware.get("processes"),
            "trainable parameters": count_text(parameters.get("trainable")),
            "all parameters": count_text(parameters.get("total")),
        },
        "Software": mapping_of(run.get("versions")),
        "Files (SHA-256)": {
            file_name(path): text_of(mapping_of(about).get("sha256"))[:12]
            for path, about in mapping_of(run.get("files")).items()
        },
    }
    columns = [tag("div", tag("h3", title), _facts(facts)) for title, facts in blocks.items() if any(facts.values())]
    return join([tag("div", columns, class_="columns"), _command(run), _knobs(mapping_of(run.get("knobs")))])


def conventions_section(folder: RunFolder) -> Markup:
    """Return where prompts came from and how empty masks, slices and intervals are counted."""
    conventions = mapping_of(folder.summary.get("conventions"))
    if not conventions:
        return missing_notice(folder, "summary.json")
    facts = {
        _CONVENTIONS.get(key, key.replace("_", " ")): _convention(key, value) for key, value in conventions.items()
    }
    return join([_prompt_note(text_of(conventions.get("prompt_source"))), _facts(facts)])


def _facts(facts: Mapping[str, object]) -> Markup:
    return tag(
        "dl",
        [(tag("dt", name), tag("dd", text_of(value))) for name, value in facts.items() if text_of(value)],
        class_="facts",
    )


def _command(run: dict[str, object]) -> Markup | None:
    command = text_of(run.get("command"))
    return tag("div", tag("h3", "Command"), tag("pre", tag("code", command), tabindex=0)) if command else None


def _knobs(knobs: dict[str, object]) -> Markup | None:
    if not knobs:
        return None
    pairs = [tag("div", tag("dt", name), tag("dd", text_of(value) or "–")) for name, value in knobs.items()]
    return tag("div", tag("h3", "Knobs"), tag("dl", pairs, class_="knobs"))


def _convention(key: str, value: object) -> str:
    record = mapping_of(value)
    if key == "prompts" and record:
        return ", ".join(f"{PROMPTS.get(kind, kind)}: {count_text(count)}" for kind, count in record.items())
    if key != "bootstrap" or number_of(record.get("level")) is None:
        return text_of(value)
    level = (number_of(record.get("level")) or 0) * 100
    samples, seed = count_text(record.get("samples")), text_of(record.get("seed"))
    return f"{level:g} %, {samples} bootstrap samples of the cases, seed {seed}"


def _prompt_note(source: str) -> Markup:
    if source in ("", "none"):
        return tag("p", "No prompts were used: the network saw the image alone, as it will in practice.")
    if source in _OWN:
        return tag("p", _OWN[source])
    if any(word in source.lower() for word in _LOOKED_UP):
        warning = "Prompts were made from the truth, which nobody has in practice: expect lower scores there."
        return tag("div", tag("strong", f"Prompts: {source}. "), warning, class_="missing")
    return tag("p", f"Prompts came from: {source}.")

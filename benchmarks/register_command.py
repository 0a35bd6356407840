# SPDX-License-Identifier: Apache-2.0
"""The command register on the demo's follow-up pair: time and peak memory by step, beside SimpleITK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, Row, main

DEMO = "MONAI_EXT_DEMO"  # folder of a finished `python -m monai_ext demo anatomical_registration`
EMBEDDED = {"intensity": "percentile", "intensity_lower": 0.2, "intensity_upper": 99.8}
RANDOM: dict[str, object] = {"untrained": True, "base_channels": 4, "embedding_dim": 8, "steps": "affine"}
RANDOM |= {"model": "rigid", "mutual": False, "stride": 2, "threshold": 0.0}


def measure(rounds: int, quick: bool) -> list[Row]:
    """One row a step; of several rounds the fastest, and the largest peak."""
    demo = os.environ.get(DEMO)
    if not quick and demo is None:
        raise SystemExit(
            f"error: {DEMO} is not set; run `python -m monai_ext demo anatomical_registration --output_dir demo` and "
            f"set {DEMO}=demo."
        )
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data" if quick or demo is None else Path(demo).absolute() / "data"
        if quick:
            _run(["-c", f"from monai_ext.demo import write_tiny_dataset as w; w({str(data)!r})"])
        spacing = 8.0 if quick else 2.0
        network = RANDOM if quick or demo is None else _trained(Path(demo).absolute())
        ours = {**EMBEDDED, "spacing": spacing, "body_threshold": 0.05, **network}
        runs = {"register": ["-m", "monai_ext", "register", *_words(ours)]}
        runs["SimpleITK"] = ["-m", "monai_ext.commands._itk_rival", *(_words({"spacing": spacing}) if quick else [])]
        rows: list[Row] = []
        for who, words in runs.items():
            records = [_record(words, data / "followup", Path(scratch) / f"{who}_{index}") for index in range(rounds)]
            rows += _rows(who, records)
        return rows


def _trained(demo: Path) -> dict[str, object]:
    """Return the networks of a finished demo."""
    weights = {
        name: demo / name / "models" / "model.pt" for name in ("anatomical_embedding", "anatomical_registration")
    }
    configs = ROOT / "bundles" / "anatomical_registration" / "configs"
    demo_knobs, known = (json.loads((configs / f"{n}.json").read_text(encoding="utf-8")) for n in ("demo", "inference"))
    of_network = {f"deform_{n}": v for n, v in demo_knobs.items() if n in known and n not in ("_desc_", "spatial_size")}
    return {
        **of_network,
        "steps": "affine,coarse,deform,instance",
        "ckpt_path": weights["anatomical_embedding"],
        "deform_ckpt": weights["anatomical_registration"],
    }


def _words(arguments: dict[str, object]) -> list[str]:
    return [word for name, value in arguments.items() for word in (f"--{name}", str(value))]


def _record(words: list[str], pair: Path, output: Path) -> dict[str, Any]:
    """Register the pair in a process of its own and return what it has written down."""
    files: dict[str, object] = {"fixed": pair / "baseline.nii.gz", "moving": pair / "followup.nii.gz"}
    files |= {"fixed_label": pair / "baseline_label.nii.gz", "moving_label": pair / "followup_label.nii.gz"}
    _run([*words, *_words({**files, "points": pair / "points.csv", "output": output})])
    found: dict[str, Any] = json.loads((output / "registration.json").read_text(encoding="utf-8"))
    return found


def _run(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")


def _rows(who: str, records: list[dict[str, Any]]) -> list[Row]:
    steps = {step["step"]: step for step in records[0]["steps"]}
    rows: list[Row] = []
    for name in records[0]["costs"]:
        costs, step = [record["costs"][name] for record in records], steps.get(name, {})
        rows.append(
            {
                "what": who,
                "step": name,
                "seconds": round(min(cost["seconds"] for cost in costs), 2),
                "peak_mb": round(max(cost["peak_memory_mb"] for cost in costs)),
                "error_mm": step["tre_mm"]["mean"] if step else "",
                "dice": step["dice"]["mean"] if step else "",
                "folding_percent": step.get("folding_percent", ""),
            }
        )
    return rows


if __name__ == "__main__":
    main("register_command", __doc__, measure, rounds=2)

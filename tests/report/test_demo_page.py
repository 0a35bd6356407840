# SPDX-License-Identifier: Apache-2.0
"""The page of all demos shows figures and pictures, leads to reports, and nothing that was read is code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_ext.report.demo_page import demo_page
from tests.report.test_page import EVIL, Elements


def record(name: str, **changed: Any) -> dict[str, Any]:
    return {
        "bundle": name, "task": "toy", "status": "finished", "problem": "", "seconds": 90.0,
        "steps": {"training": 60.0}, "settings": {"resolution": 1, "brief": {"max_epochs": 2}, "knobs": {}},
        "figures": {"Dice, vessel": "0.750"},
        "files": {"report": f"a folder/{name}.html"}, "pictures": {"overlay": "overlay.png"}, **changed,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(np.full((20, 3000), 77, np.uint8)).save(tmp_path / "overlay.png")
    return tmp_path


def test_it_leads_to_every_report_and_has_its_pictures_inside(folder: Path) -> None:
    elements = Elements(demo_page(folder, [record("aorta"), record("brain")], [], "demo --all"))
    assert elements.open == []
    links = [attributes["href"] for attributes in elements.named("a")]
    assert {"a%20folder/aorta.html", "a%20folder/brain.html", "#aorta", "#brain"} <= set(links)
    sources = [str(attributes["src"]) for attributes in elements.named("img")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/") and len(source) < 5000 for source in sources)


def test_what_failed_and_what_waits_is_said(folder: Path) -> None:
    failed = record(
        "brain", status="failed", problem="training: ended with status 1", figures={}, files={}, pictures={}
    )
    text = demo_page(folder, [record("aorta"), failed], ["colon"], "demo --all")
    assert "Not run yet: colon." in text
    assert "training: ended with status 1" in text
    assert "Settings are short" in text
    assert "2 bundles in 3.0 minutes" in text


def test_text_from_bundles_is_never_code(folder: Path) -> None:
    evil = record("aorta", task=EVIL, problem=EVIL, figures={EVIL: EVIL}, steps={EVIL: 1.0})
    text = demo_page(folder, [evil], [EVIL], f"demo --all {EVIL}")
    assert "<script>window" not in text
    assert "onerror" not in "".join(str(attributes) for attributes in Elements(text).named("img"))

# SPDX-License-Identifier: Apache-2.0
"""Model cards say what the configs do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.bundles.profiles import ROOT

BUNDLES = sorted(p.parents[1].name for p in (ROOT / "bundles").glob("*/configs/metadata.json"))
# where things lie, and what is made of other knobs
NOT_KNOBS = {
    "_desc_", "imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "ckpt_path", "cache_dir",
    "embedding_dir", "device",
    "tensorboard", "knobs", "fingerprint", "network_def", "network", "matcher", "embedder", "loss", "optimizer",
    "lr_scheduler", "train",
    "validate", "initialize", "run", "finalize", "training",
}  # fmt: skip


def table_of_knobs(card: Path) -> dict[str, str]:
    rows = re.findall(r"^\| `(\w+)` \| `([^|]*)` \|", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_knobs_table_is_the_config(name: str) -> None:
    config = json.loads((ROOT / "bundles" / name / "configs" / "train.json").read_text(encoding="utf-8"))
    knobs = {key: value for key, value in config.items() if key not in NOT_KNOBS}
    table = table_of_knobs(ROOT / "bundles" / name / "docs" / "README.md")
    assert {key: json.loads(value) for key, value in table.items()} == knobs


@pytest.mark.parametrize("name", BUNDLES)
def test_the_card_has_its_sections(name: str) -> None:
    text = (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")
    for heading in ("Commands", "Knobs", "Measured", "Limits", "Licences", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "@@" not in text

# SPDX-License-Identifier: Apache-2.0
"""SAMora with the decoder of two stages: it segments scans, and its exported files compute what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn as nn
from samora.network import SAMora

from monai_ext.commands._fire import main
from monai_ext.errors import message_of
from tests.bundles.profiles import SAMORA
from tests.bundles.runs import INFERENCE, options, read_json, refused, run

TWO_STAGES = {**SAMORA.arguments, "decoder": "hsam"}


def weights_of(folder: Path, **knobs: Any) -> Path:
    """Random weights whose second stage says what the first does not."""
    torch.manual_seed(0)
    network = SAMora(**{**TWO_STAGES, **knobs})
    nn.init.normal_(network.second_decoder.enhance.gate.weight)
    torch.save(network.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def segmented(folder: Path, scan: Path, weights: Path, decoder: str) -> np.ndarray:
    run("samora", "inferring", INFERENCE, folder, scan, ckpt_path=str(weights), decoder=decoder)
    return np.asarray(nib.load(folder / "eval" / "predictions" / scan.name).dataobj)


def test_a_scan_is_segmented_by_both_stages(brain: Path, tmp_path: Path) -> None:
    scan, weights = brain / "brain" / "image.nii.gz", weights_of(tmp_path)
    state = torch.load(weights, weights_only=True)
    first = {name: weight for name, weight in state.items() if not name.startswith("second_decoder")}
    torch.save(first, tmp_path / "first.pt")
    both = segmented(tmp_path / "both", scan, weights, "hsam")
    alone = segmented(tmp_path / "alone", scan, tmp_path / "first.pt", "samed")
    assert both.shape == alone.shape == nib.load(scan).shape
    assert set(np.unique(both)) == {0, 1}
    assert (both != alone).mean() > 0.01
    refusal = refused("samora", "inferring", INFERENCE, tmp_path, scan, ckpt_path=str(weights), decoder="samed")
    assert "second_decoder" in message_of(refusal)


@pytest.mark.slow
def test_exported_files_compute_both_stages_for_images_of_any_size(tmp_path: Path) -> None:
    """Without experts, whose passes are in the files of the first stage's test and would only take time here."""
    words = options(ckpt=weights_of(tmp_path, experts=(), num_classes=2), output_dir=tmp_path)
    assert main(["export", str(SAMORA.folder), *words]) == 0
    record = read_json(tmp_path / "parity.json")
    for kind in ("torchscript", "onnx"):
        assert record[kind]["passed"]
        assert record[kind]["free_axes"] == ["batch", "height", "width"]
    script = torch.jit.load(tmp_path / "model.ts")
    assert any(name.startswith("second_decoder") for name, _ in script.named_parameters())

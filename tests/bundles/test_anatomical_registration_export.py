# SPDX-License-Identifier: Apache-2.0
"""Exported files of a registration network, the readout of its correlation included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_ext.commands._fire import main
from tests.bundles.profiles import ANATOMICAL_REGISTRATION
from tests.bundles.runs import options, read_json

# each step of the integration is a copy of the resampling in the graph
KNOBS = {**ANATOMICAL_REGISTRATION.arguments, "readout_sigma": 1.0, "center_correlation": True, "integration_steps": 1}


@pytest.mark.slow
def test_exported_files_agree_with_the_network(tmp_path: Path) -> None:
    """Of several sizes; ONNX's resampling of volumes, which scaling and squaring needs, is among what is compared."""
    torch.manual_seed(0)
    network = ANATOMICAL_REGISTRATION.network(**KNOBS)
    torch.nn.init.normal_(network.registration.flow.weight, std=0.1)
    torch.nn.init.normal_(network.registration.readout.sum.weight, std=0.1)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    words = options(ckpt=tmp_path / "model.pt", output_dir=tmp_path, **KNOBS)
    assert main(["export", str(ANATOMICAL_REGISTRATION.folder), *words]) == 0
    record = read_json(tmp_path / "parity.json")
    for kind in ("torchscript", "onnx"):
        assert record[kind]["passed"]
        assert record[kind]["free_axes"] == ["batch", "depth", "height", "width"]

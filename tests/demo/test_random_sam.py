# SPDX-License-Identifier: Apache-2.0
"""The random base of a demo: the same bytes for a seed, and never written twice."""

from __future__ import annotations

from pathlib import Path

import torch

from monai_ext.demo.random_sam import write_random_sam
from monai_ext.networks.checkpoints import import_sam, read_state


def test_it_is_segment_anything_and_the_same_for_a_seed(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_sam(tmp_path / f"{name}.pt", seed=seed)
    states = [read_state(tmp_path / f"{name}.pt") for name in "abc"]
    assert import_sam(states[0]).kind == "sam"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "base.pt").write_bytes(b"what experts were trained on")
    write_random_sam(tmp_path / "base.pt")
    assert (tmp_path / "base.pt").read_bytes() == b"what experts were trained on"

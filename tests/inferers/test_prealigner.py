# SPDX-License-Identifier: Apache-2.0
"""The first affine map: what it is, that it is found once, and that workers need no network for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ext.data import PairSource
from monai_ext.errors import InputError
from monai_ext.inferers import Prealigner, VolumeEmbedder
from monai_ext.networks.nets.anatomical_embedding_net import AnatomicalEmbeddingNet
from monai_ext.registration import SAMAffine

TURNED = torch.tensor([[0.0, -2, 0, 30], [2.1, 0, 0, -12], [0, 0, 1.9, 7], [0, 0, 0, 1]]).double()
FIXED = torch.diag(torch.tensor([2.0, 2, 2, 1])).double()


def volume(affine: Tensor, shift: int = 0) -> MetaTensor:
    generator = torch.Generator().manual_seed(0)
    voxels = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 12, 12, generator=generator), scale_factor=4)[0]
    return MetaTensor(voxels.roll(shift, dims=1), affine=affine)


def pair(name: str = "a_to_b") -> PairSource:
    return PairSource(name, "b", "a", lambda: volume(FIXED), lambda: volume(TURNED))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return AnatomicalEmbeddingNet(base_channels=4, embedding_dim=8).eval()


def aligner(net: nn.Module | None = None, affine: SAMAffine | None = None, **more: Any) -> Prealigner:
    return Prealigner("affine", net or network(), VolumeEmbedder(), affine or SAMAffine(), **more)


def test_affine_is_the_map_between_the_worlds_of_the_same_voxels() -> None:
    found = aligner(affine=SAMAffine(refine=False))
    found.prepare([pair()])
    torch.testing.assert_close(found(pair()), TURNED @ torch.linalg.inv(FIXED), atol=1e-3, rtol=0)


def test_center_takes_the_middle_of_one_body_to_that_of_the_other() -> None:
    scans = [torch.zeros(1, 10, 10, 10) for _ in range(2)]
    scans[0][:, 2:5, 2:5, 2:5] = 1
    scans[1][:, 4:9, 4:5, 1:4] = 1
    fixed, moving = (MetaTensor(s, affine=a) for s, a in zip(scans, (FIXED, TURNED), strict=True))
    source = PairSource("p", "f", "m", lambda: fixed, lambda: moving)
    found = Prealigner("center", body_threshold=0.5)
    found.prepare([source])
    middle = TURNED @ torch.tensor([6.0, 4, 2, 1]).double()
    torch.testing.assert_close(found(source) @ torch.tensor([6.0, 6, 6, 1]).double(), middle)
    assert torch.equal(found(source)[:3, :3], torch.eye(3).double())


def test_none_asks_for_nothing() -> None:
    found = Prealigner("none")
    found.prepare([PairSource("p", "f", "m", lambda: pytest.fail("read"), lambda: pytest.fail("read"))])
    assert torch.equal(found(pair()), torch.eye(4).double())


def test_where_too_little_matches_the_middles_are_taken_and_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    found = aligner(affine=SAMAffine(min_points=10_000))
    found.prepare([pair()])
    assert "a_to_b: no affine map" in caplog.text
    assert torch.equal(found(pair())[:3, :3], torch.eye(3).double())


def test_a_map_is_found_once_and_kept_on_disk_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = aligner(cache_dir=tmp_path)
    first.prepare([pair(), pair("the same by another name")])
    assert len(list(tmp_path.glob("*.prealign.json"))) == 1
    second = aligner(cache_dir=tmp_path)
    monkeypatch.setattr(second, "_find", lambda pair: pytest.fail("it was there"))
    second.prepare([pair()])
    assert torch.equal(first(pair()), second(pair()))


@pytest.mark.parametrize(
    "changed",
    [
        {"net": network(1)}, {"affine": SAMAffine(model="rigid")}, {"body_threshold": 0.01},
    ],
)  # fmt: skip
def test_other_weights_and_settings_have_maps_of_their_own(changed: dict[str, Any], tmp_path: Path) -> None:
    aligner(cache_dir=tmp_path).prepare([pair()])
    aligner(cache_dir=tmp_path, **changed).prepare([pair()])
    assert len(list(tmp_path.glob("*.prealign.json"))) == 2


def test_weights_that_are_loaded_later_count(tmp_path: Path) -> None:
    """An evaluation loads its weights when it starts, after everything was built."""
    net = network()
    found = aligner(net, cache_dir=tmp_path)
    found.prepare([pair()])
    net.load_state_dict(network(1).state_dict())
    found.prepare([pair()])
    assert len(list(tmp_path.glob("*.prealign.json"))) == 2


@pytest.mark.parametrize("cached", [False, True])
def test_a_worker_gets_the_maps_and_no_network(cached: bool, tmp_path: Path) -> None:
    found = aligner(cache_dir=tmp_path if cached else None)
    found.prepare([pair()])
    copy = pickle.loads(pickle.dumps(found))
    assert copy.network is None
    assert torch.equal(copy(pair()), found(pair()))


def test_what_was_not_prepared_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="a_to_b: was not prepared"):
        aligner()(pair())
    with pytest.raises(ValueError, match="needs network"):
        Prealigner("affine")
    with pytest.raises(InputError, match="none, center, affine"):
        Prealigner("rigid")


RACE = """
import sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from monai.data import MetaTensor
from monai_ext.data import PairSource
from monai_ext.inferers import Prealigner

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
scan = lambda: MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4))
class Late(Prealigner):
    def _known(self, key):
        known = super()._known(key)
        if rank == 1:  # by now the other one has written, unless it waits
            time.sleep(0.7)
        return known
late = Late("center", body_threshold=0.5, cache_dir=folder / "cache")
late.prepare([PairSource(name, f"fixed {name}", f"moving {name}", scan, scan) for name in "abc"])
assert len(list((folder / "cache").glob("*.prealign.json"))) == 3
dist.barrier()
dist.destroy_process_group()
"""


def test_a_process_that_looks_later_still_shares_out_the_same_pairs(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), str(rank)], stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told

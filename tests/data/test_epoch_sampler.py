# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from torch.utils.data import DistributedSampler

from monai_ext.data import EpochSampler


class Remembering(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def orders(epoch: int = 0, **settings: object) -> list[int]:
    sampler = EpochSampler(list(range(20)), **settings)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_depends_on_seed_and_epoch() -> None:
    assert sorted(orders()) == list(range(20))
    assert orders(3, seed=1) == orders(3, seed=1)
    assert orders(3, seed=1) != orders(4, seed=1)
    assert orders(3, seed=1) != orders(3, seed=2)
    assert orders(3, shuffle=False) == list(range(20))


def test_the_data_set_hears_of_the_epoch() -> None:
    data = Remembering([1, 2])
    EpochSampler(data).set_epoch(7)
    assert data.epoch == 7


def test_monai_s_trainers_know_it() -> None:
    assert issubclass(EpochSampler, DistributedSampler)


def test_processes_share_out_the_items() -> None:
    data = list(range(7))
    padded = [EpochSampler(data, shuffle=False, num_replicas=3, rank=rank) for rank in range(3)]
    assert [len(sampler) for sampler in padded] == [3, 3, 3]
    exact = [EpochSampler(data, shuffle=False, num_replicas=3, rank=rank, even_divisible=False) for rank in range(3)]
    assert [len(sampler) for sampler in exact] == [3, 2, 2]
    assert sorted(index for sampler in exact for index in sampler) == data


def test_no_process_stays_idle_when_there_are_few_items() -> None:
    ranks = [EpochSampler([1], shuffle=False, num_replicas=2, rank=rank, even_divisible=False) for rank in range(2)]
    assert [list(sampler) for sampler in ranks] == [[0], [0]]

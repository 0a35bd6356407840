# SPDX-License-Identifier: Apache-2.0
"""Clicking again on a slice runs the decoder alone, and whatever changes the embedding makes a new one."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from monai_ext.inferers import PromptedSliceInferer, _embedding_cache
from monai_ext.transforms import PromptFromRequestd
from tests.inferers.prompted_toy import PromptedToy


def clicked(values: torch.Tensor, *clicks: list[int]) -> MetaTensor:
    item = {"image": MetaTensor(values), "foreground": list(clicks)}
    return PromptFromRequestd(keys=["image"])(item)["image"][None]


def inferer(**settings: Any) -> PromptedSliceInferer:
    return PromptedSliceInferer(only_prompted=True, **settings)


def test_a_second_click_on_a_slice_costs_no_encoder_pass() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    first = inferer()(clicked(values, [1, 1, 2]), network)
    second = inferer()(clicked(values, [1, 1, 2], [2, 3, 2]), network)  # another inferer, as a label server may build
    assert network.encoded == [1]
    assert network.decoded == [1, 1]
    assert first.sum() == 1
    assert second.as_tensor().nonzero().tolist() == [[0, 0, 1, 1, 2], [0, 0, 2, 3, 2]]


def test_the_rest_of_the_volume_is_not_kept() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    for _ in range(2):
        PromptedSliceInferer(batch_size=5)(clicked(values, [1, 1, 2]), network)
    assert sorted(network.encoded) == [1, 5, 5]
    assert len(_embedding_cache.cache_of(network)) == 1


def test_a_kept_embedding_gives_what_a_fresh_one_gives() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    image = clicked(values, [1, 1, 2], [0, 3, 4])
    results = [inferer(cached_slices=size)(image, network) for size in (32, 32, 0)]
    assert all(torch.equal(result, results[0]) for result in results)
    assert all(result.meta["prompts"] == results[0].meta["prompts"] for result in results)


def test_nothing_is_kept_on_request() -> None:
    image, network = clicked(torch.rand(1, 4, 5, 6), [1, 1, 2]), PromptedToy()
    for _ in range(2):
        inferer(cached_slices=0)(image, network)
    assert network.encoded == [1, 1]
    assert len(_embedding_cache.cache_of(network)) == 0


def changed_weights(network: PromptedToy) -> None:
    with torch.no_grad():
        network.weight.mul_(0.5)


def loaded_weights(network: PromptedToy) -> None:
    network.load_state_dict({"weight": torch.full((1,), 0.7)})


def replaced_weights(network: PromptedToy) -> None:
    network.weight = torch.nn.Parameter(torch.ones(1))


@pytest.mark.parametrize("change", [changed_weights, loaded_weights, replaced_weights])
def test_new_weights_make_new_embeddings(change: Callable[[PromptedToy], None]) -> None:
    image, network = clicked(torch.rand(1, 4, 5, 6), [1, 1, 2]), PromptedToy()
    inferer()(image, network)
    change(network)
    inferer()(image, network)
    assert network.encoded == [1, 1]


def test_other_voxels_and_another_precision_make_new_embeddings() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    inferer()(clicked(values, [1, 1, 2]), network)
    other = values.clone()
    other[0, 3, 4, 2] += 1e-6
    inferer()(clicked(other, [1, 1, 2]), network)
    inferer(amp=True)(clicked(values, [1, 1, 2]), network)
    assert network.encoded == [1, 1, 1]


def test_the_slice_used_longest_ago_goes_first() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    for index in (0, 1, 0, 2, 0):  # 1 is pushed out by 2
        inferer(cached_slices=2)(clicked(values, [1, 1, index]), network)
    assert len(network.encoded) == 3
    inferer(cached_slices=2)(clicked(values, [1, 1, 1]), network)
    assert len(network.encoded) == 4
    assert len(_embedding_cache.cache_of(network)) == 2


def test_a_request_with_more_slices_than_are_kept_goes_in_batches() -> None:
    image, network = clicked(torch.rand(1, 4, 5, 6), *[[1, 1, index] for index in range(6)]), PromptedToy()
    inferer(cached_slices=5, batch_size=4)(image, network)
    assert network.encoded == [4, 2]
    assert len(_embedding_cache.cache_of(network)) == 0


def test_networks_do_not_share_embeddings_and_take_them_along_when_they_go() -> None:
    image, network = clicked(torch.rand(1, 4, 5, 6), [1, 1, 2]), PromptedToy()
    inferer()(image, network)
    twin = copy.deepcopy(network)
    inferer()(image, twin)
    assert twin.encoded == [1, 1]  # copied with the first pass on its list
    before = len(_embedding_cache._caches)
    del network, twin
    gc.collect()
    assert len(_embedding_cache._caches) == before - 2


def test_threads_share_the_cache() -> None:
    values, network = torch.rand(1, 4, 5, 6), PromptedToy()
    images = [clicked(values, [1, index % 5, index % 6]) for index in range(30)]
    alone = [inferer(cached_slices=0)(image, PromptedToy()) for image in images]
    shared = inferer(cached_slices=4)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda image: shared(image, network), images))
    assert all(torch.equal(result, expected) for result, expected in zip(results, alone, strict=True))
    assert len(_embedding_cache.cache_of(network)) == 4

# SPDX-License-Identifier: Apache-2.0
"""A volume's embeddings are what the encoder gives, are found by what they were made of, and survive kills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_ext.data import _encoder_hash
from monai_ext.data.volume_embeddings import VolumeEmbeddings
from monai_ext.distributed import unwrap
from monai_ext.errors import InputError
from tests.data.toy_encoder import ToyEncoder


@pytest.fixture
def stack() -> Tensor:
    return torch.rand(7, 1, 6, 5)


def computed(network: nn.Module, folder: Path, stack: Tensor, **settings: Any) -> Tensor:
    embeddings = VolumeEmbeddings(network, folder, **settings)
    key = embeddings.key(stack)
    assert embeddings.compute(stack, key)
    return embeddings.features(embeddings.reader(key), range(len(stack)))


@pytest.mark.parametrize("context", [0, 2])
def test_features_are_those_of_the_encoder_in_evaluation_mode(tmp_path: Path, stack: Tensor, context: int) -> None:
    network = ToyEncoder(in_channels=1 + 2 * context).train()
    found = computed(network, tmp_path, stack, slice_context=context, precision="float32", batch_size=3)
    padded = torch.cat([stack[:1]] * context + [stack] + [stack[-1:]] * context)
    pictures = [torch.cat(list(padded[i : i + 1 + 2 * context])) for i in range(7)]
    network.eval()
    batches = [torch.stack(pictures[start : start + 3]) for start in (0, 3, 6)]
    assert torch.equal(found, torch.cat([network.embed(batch).features for batch in batches]))


def test_half_precision_is_the_rounded_feature(tmp_path: Path, stack: Tensor) -> None:
    network = ToyEncoder()
    exact = computed(network, tmp_path, stack, precision="float32")
    rounded = computed(network, tmp_path, stack)
    assert rounded.dtype == torch.float16
    assert torch.equal(rounded, exact.half())


def test_one_slice_and_several_are_read_in_the_order_of_the_network(tmp_path: Path, stack: Tensor) -> None:
    network = ToyEncoder().eval()
    embeddings = VolumeEmbeddings(network, tmp_path)
    embeddings.compute(stack, key := embeddings.key(stack, case="a"))
    reader = embeddings.reader(key)
    assert embeddings.features(reader, 4).shape == (9, 4, 4)
    assert torch.equal(embeddings.features(reader, [4, 0])[0], embeddings.features(reader, 4))
    assert torch.equal(embeddings.features(reader, 4)[:6], reader.read(4, ["neck"], None)["neck"])
    assert embeddings.store.entries()[0].key.case == "a"


def test_each_part_of_the_network_gets_its_own_mode_back(tmp_path: Path, stack: Tensor) -> None:
    network = ToyEncoder().train()
    network.deeper.eval()
    computed(network, tmp_path, stack)
    assert (network.training, network.encoder[1].training, network.deeper.training) == (True, True, False)


def test_the_network_is_found_within_its_wrapper(tmp_path: Path, stack: Tensor) -> None:
    network = nn.DataParallel(ToyEncoder())
    assert torch.equal(computed(network, tmp_path, stack), computed(unwrap(network), tmp_path, stack))
    assert sum(unwrap(network).encoded) == 7


def changed_weight(network: ToyEncoder) -> None:
    with torch.no_grad():
        network.encoder[0].bias[0] += 1e-3


def loaded_weights(network: ToyEncoder) -> None:
    network.load_state_dict(ToyEncoder().state_dict())


def changed_setting(network: ToyEncoder) -> None:
    network.offset = 1.0


@pytest.mark.parametrize("change", [changed_weight, loaded_weights, changed_setting])
def test_a_changed_encoder_is_another_one(tmp_path: Path, stack: Tensor, change: Callable[[ToyEncoder], None]) -> None:
    network = ToyEncoder()
    embeddings = VolumeEmbeddings(network, tmp_path)
    before = embeddings.key(stack)
    change(network)
    after = embeddings.key(stack)
    assert before.encoder != after.encoder
    assert before.image == after.image


def test_the_decoder_is_no_part_of_the_encoder(tmp_path: Path, stack: Tensor) -> None:
    network = ToyEncoder()
    embeddings = VolumeEmbeddings(network, tmp_path)
    before = embeddings.key(stack)
    nn.init.normal_(network.decoder.weight)
    assert embeddings.key(stack) == before


def test_voxels_context_plane_and_mixed_precision_are_parts_of_the_key(tmp_path: Path, stack: Tensor) -> None:
    network, other = ToyEncoder(), stack.clone()
    other[3, 0, 2, 2] += 1e-6
    keys = [VolumeEmbeddings(network, tmp_path).key(s) for s in (stack, other)]
    keys += [
        VolumeEmbeddings(network, tmp_path, **settings).key(stack)
        for settings in ({"slice_context": 1}, {"plane": "coronal"}, {"amp": True})
    ]
    assert len({key.digest() for key in keys}) == 5
    assert VolumeEmbeddings(network, tmp_path, batch_size=2).key(stack.clone()) == keys[0]


def test_weights_are_read_again_only_if_they_may_have_changed(
    tmp_path: Path, stack: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, calls, real = ToyEncoder(), [], _encoder_hash.hash_encoder
    monkeypatch.setattr(_encoder_hash, "hash_encoder", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    keys = [VolumeEmbeddings(network, tmp_path).key(stack) for _ in range(3)]
    nn.init.normal_(network.decoder.weight)
    keys.append(VolumeEmbeddings(network, tmp_path).key(stack))
    assert len(calls) == 1
    network.load_state_dict(network.state_dict())  # the same weights, but nobody can know
    keys.append(VolumeEmbeddings(network, tmp_path).key(stack))
    assert len(calls) == 2
    assert len(set(keys)) == 1


@pytest.mark.parametrize("written", [[], [0], [1, 4], [0, 1, 2, 3, 4, 5], [6]])
def test_what_is_gone_on_with_gets_the_bytes_of_an_undisturbed_run(
    tmp_path: Path, stack: Tensor, written: list[int]
) -> None:
    network = ToyEncoder(batch_effect=0.1)  # in another batch a slice would get another embedding
    whole = VolumeEmbeddings(network, tmp_path / "whole", batch_size=3)
    key = whole.key(stack)
    whole.compute(stack, key)
    expected = whole.store.path(key).read_bytes()

    broken = VolumeEmbeddings(network, tmp_path / "broken", batch_size=3)
    writer = broken.begin(key, len(stack))
    assert writer is not None
    for index in written:
        writer.put(index, whole.reader(key)[index])
    writer.close()
    network.encoded.clear()
    assert broken.compute(stack, key)
    assert broken.store.path(key).read_bytes() == expected
    whole_batches = [batch for batch in ([0, 1, 2], [3, 4, 5], [6]) if not set(batch) <= set(written)]
    assert network.encoded == [len(batch) for batch in whole_batches]


def test_what_is_there_is_not_computed_and_what_another_process_writes_neither(tmp_path: Path, stack: Tensor) -> None:
    network = ToyEncoder()
    embeddings = VolumeEmbeddings(network, tmp_path)
    key = embeddings.key(stack)
    writer = embeddings.begin(key, len(stack))
    assert writer is not None
    assert not embeddings.compute(stack, key)
    writer.close()
    steps: list[int] = []
    assert embeddings.compute(stack, key, steps.append)
    assert embeddings.compute(stack, key)
    assert network.encoded == steps == [4, 3]


def test_a_value_that_half_precision_cannot_hold_is_told(tmp_path: Path, stack: Tensor) -> None:
    with pytest.raises(InputError, match=r"beyond what float16 can hold \(65504\); store the embeddings in float32"):
        computed(ToyEncoder(offset=1e6), tmp_path, stack)
    assert computed(ToyEncoder(offset=1e6), tmp_path, stack, precision="float32").max() > 65504


class Announcing(ToyEncoder):
    @property
    def embedding_shapes(self) -> dict[str, tuple[int, int, int]]:
        return {"neck": (5, 4, 4)}


def test_wrong_networks_and_settings_are_named(tmp_path: Path, stack: Tensor) -> None:
    with pytest.raises(InputError, match=r"Linear cannot work from embeddings: .* set embedding_cache to none"):
        VolumeEmbeddings(nn.Linear(1, 1), tmp_path)
    with pytest.raises(InputError, match=r"embedding_precision must be float16 or float32, got 'int8'"):
        VolumeEmbeddings(ToyEncoder(), tmp_path, precision="int8")
    with pytest.raises(InputError, match=r"batch size of embeddings must be at least 1, got 0"):
        VolumeEmbeddings(ToyEncoder(), tmp_path, batch_size=0)
    with pytest.raises(InputError, match=r"slice_context must be 0 or more, got -1"):
        VolumeEmbeddings(ToyEncoder(), tmp_path, slice_context=-1)
    with pytest.raises(InputError, match=r"--amp true: write it with a capital"):
        VolumeEmbeddings(ToyEncoder(), tmp_path, amp="true")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"that of ToyEncoder is trained; set embedding_cache to none, or tuning"):
        VolumeEmbeddings(ToyEncoder(frozen=False), tmp_path).encoder.require_frozen()
    with pytest.raises(ValueError, match=r"must be \(4, 5, 4, 4\), got \(4, 9, 4, 4\)"):
        computed(Announcing(), tmp_path, stack)

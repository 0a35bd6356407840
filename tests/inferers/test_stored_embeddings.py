# SPDX-License-Identifier: Apache-2.0
"""Volumes whose embeddings are stored are segmented without the encoder, to the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ext.data.slices import stack_view, upright
from monai_ext.data.volume_embeddings import VolumeEmbeddings
from monai_ext.errors import InputError
from monai_ext.inferers import PromptedSliceInferer
from monai_ext.transforms import PromptFromRequestd
from tests.data.toy_encoder import ToyEncoder
from tests.inferers.prompted_toy import PromptedToy

REQUESTS: list[dict[str, Any]] = [{}, {"foreground": [[1, 2, 1]]}, {"background": [[1, 2, 1]]}]


@pytest.fixture
def network() -> ToyEncoder:
    return ToyEncoder().eval()


def volume(request: dict[str, Any] | None = None, shape: tuple[int, ...] = (5, 6, 7)) -> MetaTensor:
    generator = torch.Generator().manual_seed(3)
    item = {"image": MetaTensor(torch.rand(1, *shape, generator=generator)), **(request or {})}
    return PromptFromRequestd(keys=["image"])(item)["image"][None]


def store(network: ToyEncoder, folder: Path, image: Tensor, plane: str = "axial", **settings: Any) -> Path:
    """Compute the embeddings of a batch of one image, as training would, and return their file."""
    embeddings = VolumeEmbeddings(network, folder, plane, **settings)
    view = stack_view(torch.as_tensor(image)[0], plane)
    stack = upright(view, image.ndim == 5).contiguous()
    embeddings.compute(stack, key := embeddings.key(stack))
    network.encoded.clear()
    return embeddings.store.path(key)


def both(network: ToyEncoder, folder: Path, image: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    """Probabilities with the embeddings of a folder, which are to need no encoder pass, and without."""
    found = PromptedSliceInferer(output="probabilities", embedding_dir=str(folder), **settings)(image, network)
    assert network.encoded == []
    plain = PromptedSliceInferer(output="probabilities", **settings)(image, network)
    assert found.meta["prompts"] == plain.meta["prompts"]
    return found.as_tensor(), plain.as_tensor()


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_in_single_precision_nothing_changes(
    network: ToyEncoder, tmp_path: Path, request_: dict[str, Any], plane: str
) -> None:
    image = volume(request_)
    store(network, tmp_path, image, plane, precision="float32")
    found, plain = both(network, tmp_path, image, plane=plane)
    assert torch.equal(found, plain)


def test_in_half_precision_nothing_but_rounding_changes(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume()
    store(network, tmp_path, image)
    found, plain = both(network, tmp_path, image)
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-3)


def test_single_precision_is_taken_where_there_is_both(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume()
    store(network, tmp_path, image)
    store(network, tmp_path, image, precision="float32")
    assert torch.equal(*both(network, tmp_path, image))


def test_neighbours_and_mixed_precision_are_those_of_the_inferer(tmp_path: Path) -> None:
    network, image = ToyEncoder(in_channels=3).eval(), volume()
    store(network, tmp_path, image, slice_context=1, amp=True)
    found, plain = both(network, tmp_path, image, slice_context=1, amp=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-2)
    PromptedSliceInferer(slice_context=1, embedding_dir=str(tmp_path))(image, network)
    assert sum(network.encoded) == 14  # the plain inferer above, and now without mixed precision


def test_pictures_are_found_too(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume(shape=(5, 6))
    store(network, tmp_path, image, precision="float32")
    assert torch.equal(*both(network, tmp_path, image))


def test_the_one_slice_that_is_wanted_is_decoded_again_and_again(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume({"foreground": [[1, 2, 3]]})
    store(network, tmp_path, image)
    for _ in range(2):
        PromptedSliceInferer(only_prompted=True, embedding_dir=str(tmp_path))(image, network)
    assert network.encoded == []


def changed_image(network: ToyEncoder, image: MetaTensor) -> None:
    image[0, 0, 0, 0, 0] += 1e-6


def changed_encoder(network: ToyEncoder, image: MetaTensor) -> None:
    with torch.no_grad():
        network.deeper.bias += 1e-6


@pytest.mark.parametrize("change", [changed_image, changed_encoder])
def test_whatever_has_changed_goes_through_the_encoder(network: ToyEncoder, tmp_path: Path, change: Any) -> None:
    image = volume()
    path = store(network, tmp_path, image)
    change(network, image)
    before = {file.name: file.stat() for file in tmp_path.iterdir()}
    found = PromptedSliceInferer(embedding_dir=str(tmp_path))(image, network)
    assert sum(network.encoded) == 7
    assert torch.equal(found, PromptedSliceInferer()(image, network))
    assert {file.name: file.stat() for file in tmp_path.iterdir()} == before  # neither read nor written
    assert path.name in before


def test_another_decoder_takes_the_same_embeddings(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume()
    store(network, tmp_path, image, precision="float32")
    torch.nn.init.normal_(network.decoder.weight)
    assert torch.equal(*both(network, tmp_path, image))


def test_a_damaged_embedding_is_told(network: ToyEncoder, tmp_path: Path) -> None:
    image = volume()
    path = store(network, tmp_path, image)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path.name}: slice 6 differs from what was written"):
        PromptedSliceInferer(embedding_dir=str(tmp_path))(image, network)


def test_without_a_folder_or_a_fit_network_the_encoder_runs_and_nothing_is_made(
    network: ToyEncoder, tmp_path: Path
) -> None:
    image, other = volume(), PromptedToy()
    PromptedSliceInferer(embedding_dir=str(tmp_path / "none"))(image, network)
    PromptedSliceInferer(embedding_dir=str(tmp_path))(image, other)
    assert sum(network.encoded) == sum(other.encoded) == 7
    assert list(tmp_path.iterdir()) == []

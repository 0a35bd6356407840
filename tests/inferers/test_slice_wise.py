# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ext.inferers import SliceWiseInferer


class Recorder(nn.Module):
    """Logit = value - 0.5; remembers what it was given."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.outputs = outputs
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return torch.cat([image[:, :1] - 0.5] * self.outputs, dim=1)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_labels_are_where_the_voxels_are(plane: str, batch_size: int) -> None:
    volume = torch.rand(2, 1, 5, 6, 7)
    labels = SliceWiseInferer(plane=plane, batch_size=batch_size)(volume, Recorder())
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, (volume > 0.5).to(torch.uint8))


def test_an_axial_slice_reaches_the_network_as_a_screen_shows_it() -> None:
    volume = torch.zeros(1, 1, 4, 6, 3)
    volume[0, 0, 3, 5, 1] = 1  # far right (R), far front (A)
    network = Recorder()
    SliceWiseInferer(plane="axial", batch_size=3)(volume, network)
    assert network.seen[0].shape == (3, 1, 6, 4)
    assert network.seen[0][1, 0, 0, 0] == 1  # front on top, right of the patient on the left


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_the_head_is_on_top(plane: str) -> None:
    volume = torch.zeros(1, 1, 4, 5, 6)
    volume[..., 5] = 1  # uppermost (S)
    network = Recorder()
    SliceWiseInferer(plane=plane, batch_size=9)(volume, network)
    assert bool((network.seen[0][:, :, 0] == 1).all())
    assert bool((network.seen[0][:, :, 1:] == 0).all())


def test_a_picture_reaches_the_network_upright_and_comes_back() -> None:
    picture = torch.rand(2, 3, 7, 5)  # (x, y), MONAI's order
    network = Recorder()
    labels = SliceWiseInferer()(picture, network)
    assert torch.equal(network.seen[0], picture[:1].transpose(2, 3))
    assert torch.equal(labels, (picture[:, :1] > 0.5).to(torch.uint8))


def test_neighbours_are_channels_and_the_border_is_repeated() -> None:
    volume = torch.arange(4.0).reshape(1, 1, 1, 1, 4).repeat(1, 2, 1, 1, 1)
    volume[:, 1] += 10  # a second modality
    network = Recorder()
    SliceWiseInferer(slice_context=1, batch_size=4)(volume, network)
    channels = network.seen[0][:, :, 0, 0].tolist()
    assert channels == [[0, 10, 0, 10, 1, 11], [0, 10, 1, 11, 2, 12], [1, 11, 2, 12, 3, 13], [2, 12, 3, 13, 3, 13]]


@pytest.mark.parametrize("slices", [6, 12])
def test_no_more_slices_than_a_batch_are_alive_at_once(slices: int) -> None:
    network = Recorder()
    SliceWiseInferer(batch_size=4)(torch.rand(1, 1, 3, 3, slices), network)
    assert max(len(batch) for batch in network.seen) == 4


class Counting(nn.Module):
    """Counts the bytes of its outputs that are still alive when it is called again."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[int] = []
        self.storages: list[torch.multiprocessing.reductions.StorageWeakRef] = []

    def forward(self, image: Tensor) -> Tensor:
        self.alive.append(sum(not storage.expired() for storage in self.storages))
        logits = image.new_zeros(len(image), 50, *image.shape[2:])
        self.storages.append(torch.multiprocessing.reductions.StorageWeakRef(logits.untyped_storage()))
        return logits


@pytest.mark.parametrize("slices", [8, 16])
def test_logits_are_let_go(slices: int) -> None:
    network = Counting()
    labels = SliceWiseInferer(batch_size=2)(torch.rand(1, 1, 8, 8, slices), network)
    assert len(network.alive) == slices // 2
    assert max(network.alive) == 0
    assert labels.untyped_storage().nbytes() == 8 * 8 * slices  # one byte a voxel


def test_classes_are_the_largest_logit() -> None:
    logits = torch.randn(3, 4, 6, 5)  # (n, K, H, W) of three slices
    labels = SliceWiseInferer(batch_size=3)(torch.rand(1, 1, 5, 6, 3), lambda image: logits)
    expected = logits.argmax(1).flip(1, 2).permute(2, 1, 0)
    assert torch.equal(labels[0, 0], expected.to(torch.uint8))


def test_probabilities_sum_to_one_or_are_the_sigmoid() -> None:
    volume = torch.rand(1, 1, 4, 5, 6)
    inferer = SliceWiseInferer(output="probabilities", batch_size=4)
    torch.testing.assert_close(inferer(volume, Recorder()), torch.sigmoid(volume - 0.5))
    several = inferer(volume, Recorder(outputs=3))
    assert several.shape == (1, 3, 4, 5, 6)
    torch.testing.assert_close(several.sum(1), torch.ones(1, 4, 5, 6))


def test_the_threshold_is_of_the_probability() -> None:
    picture = torch.tensor([0.2, 0.6, 0.9]).reshape(1, 1, 3, 1)
    labels = SliceWiseInferer(threshold=0.8)(picture, lambda image: torch.logit(image))
    assert labels.flatten().tolist() == [0, 0, 1]


def test_the_first_of_several_outputs_counts() -> None:
    picture = torch.rand(1, 1, 4, 4)
    labels = SliceWiseInferer()(picture, lambda image: [image - 0.5, -image, -image])
    assert torch.equal(labels, (picture > 0.5).to(torch.uint8))


def test_metadata_is_kept() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    volume = MetaTensor(torch.rand(1, 1, 4, 4, 4), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    volume.applied_operations = [{"class": "Orientation"}]
    labels = SliceWiseInferer()(volume, Recorder())
    assert isinstance(labels, MetaTensor)
    assert labels.meta["filename_or_obj"] == "a.nii.gz"
    assert torch.equal(labels.affine, affine)
    assert labels.applied_operations == volume.applied_operations


def test_threads_share_one_inferer() -> None:
    inferer, network = SliceWiseInferer(batch_size=2), nn.Identity()
    volumes = [torch.randn(1, 1, 3 + i, 4, 5 + i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda volume: inferer(volume, network), volumes))
    assert all(torch.equal(r, (v > 0).to(torch.uint8)) for r, v in zip(results, volumes, strict=True))


def test_mixed_precision_runs_the_network_in_bfloat16() -> None:
    kinds = []

    class Product(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            result = image @ torch.eye(image.shape[-1])
            kinds.append(result.dtype)
            return result

    probability = SliceWiseInferer(amp=True, output="probabilities")(torch.rand(1, 1, 4, 4), Product())
    assert kinds == [torch.bfloat16]
    assert probability.dtype == torch.float32


def test_the_published_stretch_is_an_option() -> None:
    picture = torch.full((1, 1, 4, 4), -5.0)
    picture[0, 0, 1, 1] = -4.0  # no object anywhere, but one pixel is the brightest
    assert SliceWiseInferer()(picture, nn.Identity()).sum() == 0
    assert SliceWiseInferer(paper_stretch=True)(picture, nn.Identity()).sum() == 1


def test_no_gradient_is_recorded() -> None:
    network = nn.Conv2d(1, 1, 1)
    assert not SliceWiseInferer(output="probabilities")(torch.rand(1, 1, 4, 4), network).requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"plane": "oblique"}, "plane"), ({"batch_size": 0}, "batch_size"), ({"output": "logits"}, "output"),
     ({"slice_context": -1}, "slice_context")],
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SliceWiseInferer(**settings)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(B, C, X, Y, Z\), got shape \(3, 3, 3\)"):
        SliceWiseInferer()(torch.rand(3, 3, 3), nn.Identity())
    with pytest.raises(ValueError, match="input's size"):
        SliceWiseInferer()(torch.rand(1, 1, 8, 8), lambda image: image[..., ::2, ::2])


@pytest.mark.parametrize("outputs", [1, 3])
def test_samples_of_dropout_are_probabilities_of_all_classes(outputs: int) -> None:
    network = nn.Sequential(nn.Conv2d(1, outputs, kernel_size=1), nn.Dropout(0.5))
    volume = torch.rand(1, 1, 5, 6, 7)
    sample, other = SliceWiseInferer()(volume, network), SliceWiseInferer()(volume, network)
    assert sample.shape == (1, max(outputs, 2), 5, 6, 7)
    torch.testing.assert_close(sample.sum(dim=1), torch.ones(1, 5, 6, 7))
    assert not torch.equal(sample, other)
    assert SliceWiseInferer()(volume, network.eval()).dtype == torch.uint8


def test_a_sample_of_one_object_has_the_background_first() -> None:
    sample = SliceWiseInferer()(torch.full((1, 1, 4, 4), 9.0), nn.Sequential(nn.Dropout(1e-9), Recorder()))
    torch.testing.assert_close(sample[0, :, 0, 0], torch.tensor([-8.5, 8.5]).sigmoid())

# SPDX-License-Identifier: Apache-2.0
"""Patches, network, loss and matching together: a minute part of a training already finds places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.data import MetaTensor, list_data_collate
from torch import Tensor

from monai_ext.losses import NegativeMining, PatchPairInfoNCE
from monai_ext.matching import PointMatcher, VolumeEmbedding
from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d
from monai_ext.transforms import RandOverlapPatchPaird

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))


def blobs(shape: tuple[int, ...]) -> Tensor:
    """Structures of three sizes."""
    waves = [torch.randn(1, 1, *[side // size for side in shape]) for size in (4, 8, 16)]
    return sum(F.interpolate(wave, size=shape, mode="trilinear") for wave in waves)[0]


def embedded(network: ResNetFPN3d, image: Tensor, affine: Tensor) -> VolumeEmbedding:
    with torch.no_grad():
        return VolumeEmbedding(network.eval()(image[None]), affine)


def mean_error(network: ResNetFPN3d, image: Tensor) -> float:
    """Of points matched from one part of the scan to another that is noisy and cut elsewhere."""
    offset, moved = (5, 7, 6), AFFINE.clone()
    moved[:3, 3] = 2 * torch.tensor(offset)
    fixed = embedded(network, image[:, :32, :64, :64], AFFINE)
    noisy = image[:, 5:37, 7:71, 6:70] + 0.4 * torch.randn(1, 32, 64, 64, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(6)
    voxels = torch.tensor([8, 12, 12]) + torch.rand(60, 3, generator=generator) * torch.tensor([16, 45, 45])
    points = fixed.to_world(voxels)
    matched = PointMatcher(min_score=-1)(fixed, embedded(network, noisy, moved), points)
    return float((matched.points - points).norm(dim=1).mean())


def test_a_short_training_on_one_scan_finds_its_places() -> None:
    image = MetaTensor(blobs((40, 80, 80)), affine=AFFINE)
    network = ResNetFPN3d(base_channels=8, embedding_dim=32)
    cut = RandOverlapPatchPaird(["image"], (8, 32, 32), overlap_prob=1.0, rotate_range=0.1).set_random_state(0)
    loss = PatchPairInfoNCE(NegativeMining(400, 100, None, 30, 50, 8.0, 8.0), num_positives=64)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    for _ in range(3):
        network(image.as_tensor()[None])  # statistics that an untrained network can be judged with
    before = mean_error(network, image.as_tensor())
    for _ in range(30):
        batch = list_data_collate([*cut({"image": image}), *cut({"image": image})])
        optimizer.zero_grad()
        outputs = network.train()(batch["image"].as_tensor())
        loss(outputs, {"affine": batch["affine"], "body": batch["body"]}).backward()
        optimizer.step()
    after = mean_error(network, image.as_tensor())
    assert after < before / 2

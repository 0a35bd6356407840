# SPDX-License-Identifier: Apache-2.0
"""ResNetFPN3d: the published table, unit length, both dimensions and what it exports to."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ext.networks.nets.resnet_fpn import ResNetFPN3d

# trainable parameters of each part of the published network
TABLE = {
    "encoder.stem": 9_536,
    "encoder.layer1": 152_192,
    "encoder.layer2": 525_568,
    "encoder.layer3": 6_228_480,
    "encoder.layer4": 24_908_800,
    "local_head.laterals": 57_728,
    "local_head.output": 442_496,
    "global_head.laterals": 65_664,
    "global_head.output": 442_496,
}


def small(**arguments: object) -> ResNetFPN3d:
    return ResNetFPN3d(**{"base_channels": 4, "embedding_dim": 8, **arguments})  # type: ignore[arg-type]


def test_each_part_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        network = ResNetFPN3d()
    counted = {part: sum(p.numel() for p in network.get_submodule(part).parameters()) for part in TABLE}
    assert counted == TABLE
    assert sum(p.numel() for p in network.parameters()) == 32_832_960
    assert sum(b.numel() for b in network.buffers()) == 9_749
    assert len(network.state_dict()) == 138


def test_the_semantic_head_is_another_local_head() -> None:
    with torch.device("meta"):
        network = ResNetFPN3d(semantic_head=True)
    assert sum(p.numel() for p in network.parameters()) == 33_333_184
    assert len(network.state_dict()) == 146
    found = small(semantic_head=True).eval()(torch.rand(1, 1, 8, 32, 32))
    assert list(found) == ["local", "global", "semantic"]
    assert found["semantic"].shape == found["local"].shape


def test_the_levels_have_the_tabulated_shapes() -> None:
    levels = small().encoder(torch.rand(1, 1, 32, 96, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (4, 16, 48, 48),
        (8, 16, 24, 24),
        (16, 16, 12, 12),
        (32, 8, 6, 6),
    ]


@pytest.mark.parametrize(
    ("size", "local", "coarse"),
    [((32, 96, 96), (16, 48, 48), (8, 6, 6)), ((33, 97, 95), (16, 49, 48), (8, 7, 6))],
)
def test_any_size_gives_the_published_grids(size: tuple[int, ...], local: tuple, coarse: tuple) -> None:
    with torch.no_grad():
        found = small(base_channels=2).eval()(torch.rand(1, 1, *size))
    assert (found["local"].shape[2:], found["global"].shape[2:]) == (local, coarse)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_embeddings_have_unit_length(spatial_dims: int, autocast: bool) -> None:
    network = small(spatial_dims=spatial_dims).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = network(100 * torch.randn(2, 1, *(8, 32, 48)[-spatial_dims:]))
    for name, stride in network.strides.items():
        assert found[name].shape[2:] == tuple(n // s for n, s in zip((8, 32, 48)[-spatial_dims:], stride, strict=True))
        torch.testing.assert_close(found[name].norm(dim=1), torch.ones(found[name][:, 0].shape), atol=1e-6, rtol=0)


def by_hand(network: ResNetFPN3d, image: Tensor) -> tuple[Tensor, Tensor]:
    """The published table written out, with functions alone."""
    state = network.state_dict()

    def conv_norm(x: Tensor, name: str, stride: tuple, padding: tuple) -> Tensor:
        x = F.conv3d(x, state[f"{name}.conv.weight"], None, stride, padding)
        statistics = (state[f"{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics)

    def block(x: Tensor, name: str, stride: tuple, padding: tuple) -> Tensor:
        y = conv_norm(conv_norm(x, f"{name}.conv1", stride, padding).relu(), f"{name}.conv2", (1, 1, 1), padding)
        return (y + (conv_norm(x, f"{name}.downsample", stride, (0, 0, 0)) if stride != (1, 1, 1) else x)).relu()

    def stage(x: Tensor, index: int, stride: tuple, padding: tuple) -> Tensor:
        x = block(x, f"encoder.layer{index}.0", stride, padding)
        return block(x, f"encoder.layer{index}.1", (1, 1, 1), padding)

    def conv(x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    x = conv_norm(image, "encoder.stem", (1, 1, 1), (1, 3, 3)).relu()
    c1 = F.max_pool3d(stage(x, 1, (1, 2, 2), (0, 1, 1)), (2, 1, 1))
    c2 = stage(c1, 2, (1, 2, 2), (0, 1, 1))
    c3 = stage(c2, 3, (1, 2, 2), (1, 1, 1))
    c4 = stage(c3, 4, (2, 2, 2), (1, 1, 1))
    p3 = conv(c3, "local_head.laterals.2", 0)
    p2 = conv(c2, "local_head.laterals.1", 0) + F.interpolate(p3, size=c2.shape[2:])
    p1 = conv(c1, "local_head.laterals.0", 0) + F.interpolate(p2, size=c1.shape[2:])
    local = conv(p1, "local_head.output", 1)
    coarse = conv(conv(c4, "global_head.laterals.0", 0), "global_head.output", 1)
    return local / local.norm(dim=1, keepdim=True), coarse / coarse.norm(dim=1, keepdim=True)


def test_it_computes_what_the_table_says() -> None:
    network, image = small().double(), torch.randn(2, 1, 8, 32, 32, dtype=torch.float64)
    network(image)  # statistics of their own
    with torch.no_grad():
        found = network.eval()(image)
        local, coarse = by_hand(network, image)
    torch.testing.assert_close(found["local"], local, atol=1e-12, rtol=0)
    torch.testing.assert_close(found["global"], coarse, atol=1e-12, rtol=0)


@pytest.mark.parametrize("arguments", [{}, {"lateral_kernel": 3, "semantic_head": True}, {"norm": "instance"}])
def test_the_gradient_reaches_every_weight(arguments: dict[str, object]) -> None:
    network = small(**arguments)
    found = network(torch.randn(2, 1, 8, 32, 32))
    # the sum alone would be stationary: unit length takes the radial part of the gradient
    sum((x * torch.randn_like(x)).sum() for x in found.values()).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_the_global_embedding_gives_nothing_to_the_local_one() -> None:
    network = small().eval()
    image = torch.randn(1, 1, 8, 32, 32)
    before = network(image)
    with torch.no_grad():
        for weight in (*network.encoder.layer4.parameters(), *network.global_head.parameters()):
            weight.add_(torch.randn_like(weight))
    after = network(image)
    assert torch.equal(before["local"], after["local"])
    assert not torch.allclose(before["global"], after["global"])


def test_without_lateral_convolutions_stages_have_the_embeddings_width() -> None:
    network = small(lateral_kernel=None, stage_channels=(8, 8, 8, 16))
    assert network(torch.rand(2, 1, 8, 32, 32))["local"].shape == (2, 8, 4, 16, 16)
    assert [name for name in network.state_dict() if name.startswith("local_head.laterals")] == []
    with pytest.raises(ValueError, match=r"embedding_dim = 8 channels, got \[4, 8, 16\]"):
        small(lateral_kernel=None)


def test_a_batch_of_two_equals_two_of_one() -> None:
    network, image = small().eval(), torch.rand(2, 1, 8, 32, 32)
    with torch.no_grad():
        together, first, second = network(image), network(image[:1]), network(image[1:])
    for name in together:
        torch.testing.assert_close(together[name], torch.cat([first[name], second[name]]), atol=1e-5, rtol=0)


def test_channels_last_changes_nothing() -> None:
    network, image = small().eval(), torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        before = network(image)
        after = network.to(memory_format=torch.channels_last_3d)(image.to(memory_format=torch.channels_last_3d))
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)


def test_traced_and_exported_networks_give_the_same() -> None:
    network, image = small().eval(), torch.rand(1, 1, 8, 32, 32)
    with torch.no_grad():
        expected = network(image)
        traced = torch.jit.trace(network, image, check_trace=False)(image)
        exported = torch.export.export(network, (image,)).module()(image)
    for name, a, b in zip(expected, traced, exported.values(), strict=True):
        torch.testing.assert_close(a, expected[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(b, expected[name], atol=1e-6, rtol=0)


def test_a_state_dict_round_trip_is_exact() -> None:
    first, second, file = small().eval(), small().eval(), io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    image = torch.rand(1, 1, 8, 32, 32)
    assert torch.equal(first(image)["local"], second(image)["local"])


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(small().state_dict())
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"base_channels": 0}, "base_channels must be at least 1"),
        ({"stage_channels": (4, 8)}, r"four such widths, got 4 and \[4, 8\]"),
        ({"lateral_kernel": 2}, "lateral_kernel must be 1, 3 or None, got 2"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        small(**arguments)


@pytest.mark.parametrize("shape", [(1, 2, 8, 32, 32), (1, 1, 32, 32)])
def test_an_image_of_another_form_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image must be \(B, 1, D, H, W\), got"):
        small()(torch.rand(shape))


def measured_halo(network: ResNetFPN3d, size: tuple[int, ...], axis: int) -> dict[str, int]:
    """Voxels beyond a cell that have a part in it, found by the gradient; the most of neighbouring cells."""
    image = torch.rand(1, 1, *size, dtype=torch.float64, requires_grad=True)
    halo = dict.fromkeys(network.strides, 0)
    for name, found in network(image).items():
        stride = network.strides[name][axis]
        for turn in range(4):  # local cells take coarser ones in turn
            cell = [side // 2 for side in found.shape[2:]]
            cell[axis] += turn - 2
            (gradient,) = torch.autograd.grad(found[(0, 0, *cell)], image, retain_graph=True)
            touched, first = gradient.nonzero()[:, axis + 2], stride * cell[axis]
            halo[name] = max(halo[name], first - int(touched.min()), int(touched.max()) - first - stride + 1)
    return halo


@pytest.mark.parametrize("lateral_kernel", [1, 3])
@pytest.mark.parametrize(("axis", "size"), [(0, (72, 16, 16)), (1, (4, 320, 16)), (2, (4, 16, 320))])
def test_the_halo_is_what_the_gradient_reaches(lateral_kernel: int, axis: int, size: tuple[int, ...]) -> None:
    network = small(base_channels=1, lateral_kernel=lateral_kernel, semantic_head=True).double().eval()
    network.encoder.pool = torch.nn.AvgPool3d((2, 1, 1))  # which, unlike the largest, takes all
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()  # so that nothing is cut off or cancelled out
    assert {name: sides[axis] for name, sides in network.halo.items()} == measured_halo(network, size, axis)


def test_the_halo_of_the_published_network_is_known() -> None:
    """To whole global cells those of the method's notes: (28, 124, 124) and (12, 57, 57) from centres of cells."""
    assert small().halo == {"local": (11, 60, 60), "global": (27, 124, 124)}
    assert small(spatial_dims=2).halo == {"local": (60, 60), "global": (124, 124)}


@pytest.mark.parametrize("norm", ["instance", ("group", {"num_groups": 1}), ("batch", {"track_running_stats": False})])
def test_what_looks_at_the_whole_image_has_no_halo(norm: str | tuple) -> None:
    with pytest.raises(ValueError, match=r"takes its statistics from the whole image"):
        _ = small(norm=norm).halo

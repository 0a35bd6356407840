# SPDX-License-Identifier: Apache-2.0
"""Our encoder against the one of the `segment-anything` package: same parameters, same numbers, every way to run it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from monai_ext.networks.nets.sam_encoder import SAMEncoder

# side in pixels: the grid is smaller than a window, one window, one and a bit, two, two and a bit
SIDES = [64, 224, 240, 448, 464]


def pair(side: int, depth: int = 2, use_checkpoint: bool = False) -> tuple[ImageEncoderViT, SAMEncoder]:
    """The published encoder with random positions and biases (they are zero at first), and ours with the same."""
    torch.manual_seed(0)
    published = ImageEncoderViT(
        img_size=side,
        embed_dim=24,
        depth=depth,
        num_heads=3,
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
    ).eval()
    for name, weight in published.named_parameters():
        if "pos" in name or "bias" in name:
            nn.init.normal_(weight, std=0.5)
    return published, SAMEncoder(copy.deepcopy(published), use_checkpoint).eval()


def pixels(side: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side)


def near(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", SIDES)
def test_embeddings_equal_the_package(side: int) -> None:
    published, ours = pair(side)
    image = pixels(side, batch=2)
    with torch.no_grad():
        near(ours(image), published(image))


def test_a_grid_of_full_size_equals_the_package() -> None:
    published, ours = pair(1024)
    image = pixels(1024)
    with torch.no_grad():
        near(ours(image), published(image))


def test_the_state_of_each_loads_into_the_other() -> None:
    published, ours = pair(64)
    assert list(ours.state_dict()) == list(published.state_dict())
    ours.load_state_dict(published.state_dict())
    published.load_state_dict(ours.state_dict())


def test_a_trace_equals_the_package_for_any_batch() -> None:
    published, ours = pair(240)
    traced = torch.jit.trace(ours, pixels(240), check_trace=False)
    image = pixels(240, batch=3)
    with torch.no_grad():
        near(traced(image), published(image))


def test_torch_export_equals_the_package_for_any_batch() -> None:
    published, ours = pair(240)
    dynamic = ({0: torch.export.Dim("batch", min=1, max=8)},)
    exported = torch.export.export(ours, (pixels(240, batch=2),), dynamic_shapes=dynamic).module()
    image = pixels(240, batch=3)
    with torch.no_grad():
        near(exported(image), published(image))


def test_onnx_equals_the_package(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "monai-ext[export]"')
    pytest.importorskip("onnxscript", reason='pip install "monai-ext[export]"')
    published, ours = pair(240)
    image = pixels(240)
    program = torch.onnx.export(ours, (image,), dynamo=True, opset_version=18, verbose=False)
    program.save(tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        near(torch.from_numpy(result), published(image))


def test_a_compiled_encoder_equals_the_package() -> None:
    published, ours = pair(240)
    image = pixels(240, batch=2)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        near(compiled(image), published(image))


def test_a_compiled_encoder_has_the_same_gradients() -> None:
    _, ours = pair(240)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    image, direction = pixels(240), torch.randn(1, 256, 15, 15)
    results = []
    for network in (ours, compiled):
        results.append(torch.autograd.grad((network(image) * direction).sum(), list(ours.parameters())))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, atol=1e-3, rtol=1e-3)


def test_bfloat16_is_as_near_as_the_package() -> None:
    published, ours = pair(240)
    image = pixels(240)
    with torch.no_grad():
        exact = published(image)
        with torch.autocast("cpu", torch.bfloat16):
            error, own = ((encoder(image).float() - exact).norm() for encoder in (ours, published))
    assert 0 < error <= 1.1 * own


def test_checkpointing_changes_no_gradient_and_runs_blocks_again() -> None:
    _, plain = pair(240)
    _, thrifty = pair(240, use_checkpoint=True)
    image, direction, runs, gradients = pixels(240), torch.randn(1, 256, 15, 15), [], []
    for network in (plain, thrifty):
        runs.append(0)
        network.train().blocks[0].register_forward_pre_hook(lambda *_: runs.append(runs.pop() + 1))
        (network(image) * direction).sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert runs == [1, 2]


def test_levels_are_what_the_blocks_return() -> None:
    _, ours = pair(64, depth=3)
    image, seen = pixels(64), []
    for block in ours.blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        embedding, levels = ours.levels(image, (2, 0, -3))
        torch.testing.assert_close(embedding, ours(image), atol=0, rtol=0)
    for level, expected in zip(levels, (seen[2], seen[0], seen[0]), strict=True):
        torch.testing.assert_close(level, expected, atol=0, rtol=0)


@pytest.mark.parametrize("blocks", [(0, 2), (-3,)])
def test_an_unknown_block_is_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="below 2"):
        pair(64)[1].levels(pixels(64), blocks)


@pytest.mark.parametrize("shape", [(1, 3, 64, 80), (1, 3, 96, 96), (1, 1, 64, 64), (3, 64, 64)])
def test_other_pixels_are_refused_with_the_right_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3, 64, 64"):
        pair(64)[1](torch.randn(shape))


def test_a_batch_equals_its_images() -> None:
    _, ours = pair(240)
    image = pixels(240, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), torch.cat([ours(x[None]) for x in image]), atol=1e-5, rtol=1e-5)

# SPDX-License-Identifier: Apache-2.0
"""The mask module: published names and numbers, and an image's part computed once changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.networks.blocks.pimm import PIMM

BLOCK = ("conv1.conv.weight", "conv2.conv.weight", "conv3.conv.weight", "se.fc.0.weight", "se.fc.2.weight")
BLOCKS = (
    "mask_embedding_fusion",
    "conv_blocks_context.0.block_init",
    "conv_blocks_context.1.block_init",
    "conv_blocks_context.1.residual_block.0.1",
    "conv_blocks_context.2.block_init",
    "conv_blocks_context.2.residual_block.0.1",
    "conv_blocks_context.2.residual_block.1.1",
    "conv_blocks_localization.0.res_block",
    "conv_blocks_localization.1.res_block",
)
OTHERS = {
    "conv_blocks_context.1.residual_block.0.0.conv.weight": (128, 128, 2, 2),
    "conv_blocks_context.2.residual_block.0.0.conv.weight": (64, 64, 2, 2),
    "conv_blocks_context.2.residual_block.1.0.conv.weight": (64, 64, 2, 2),
    "conv_blocks_localization.0.transp_conv.conv.weight": (256, 128, 2, 2),
    "conv_blocks_localization.1.transp_conv.conv.weight": (128, 64, 2, 2),
    "seg_outputs.0.weight": (1, 128, 1, 1),
    "seg_outputs.1.weight": (1, 64, 1, 1),
}
DEAD = {
    "conv_blocks_context.1.residual_block.0.1.conv3.conv.weight",
    "conv_blocks_context.2.residual_block.0.1.conv3.conv.weight",
    "conv_blocks_context.2.residual_block.1.1.conv3.conv.weight",
    "seg_outputs.0.weight",
}


def features(images: int, channels: int = 24, grid: int = 2) -> list[Tensor]:
    return [torch.randn(images, channels, grid, grid + 1) for _ in range(3)]


def embeddings(prompts: int, grid: int = 2) -> Tensor:
    return torch.randn(prompts, 256, grid, grid + 1)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def naive(module: PIMM, embedding: Tensor, levels: list[Tensor]) -> Tensor:
    """The specification word by word: everything anew for each prompt, maps concatenated."""
    skips = []
    for context, level in zip(module.conv_blocks_context, levels[::-1], strict=True):
        x = context.block_init(level.expand(len(embedding), -1, -1, -1))
        for up, block in context.residual_block:
            x = block(F.conv_transpose2d(x, up.conv.weight, stride=2))
        skips.append(x)
    x = module.mask_embedding_fusion(torch.cat([embedding, skips[0]], dim=1))
    for localization, skip in zip(module.conv_blocks_localization, skips[1:], strict=True):
        x = F.conv_transpose2d(x, localization.transp_conv.conv.weight, stride=2)
        x = localization.res_block(torch.cat([x, skip], dim=1))
    return F.conv2d(x, module.seg_outputs[1].weight)


@pytest.mark.parametrize("channels", [192, 768, 1024, 1280])
def test_it_has_the_published_number_of_parameters(channels: int) -> None:
    with torch.device("meta"):
        assert count(PIMM(channels)) == 4480 * channels + 4_022_464


def test_the_parts_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        module = PIMM(1280)
    assert [count(part) for part in module.conv_blocks_context] == [3_874_816, 2_166_784, 1_046_016]
    assert [count(part) for part in module.conv_blocks_localization] == [608_256, 152_064]
    assert (count(module.mask_embedding_fusion), count(module.seg_outputs)) == (1_908_736, 192)


def test_the_state_dict_has_the_52_published_names() -> None:
    with torch.device("meta"):
        state = {name: tuple(weight.shape) for name, weight in PIMM(768).state_dict().items()}
    assert set(state) == {f"{block}.{name}" for block in BLOCKS for name in BLOCK} | set(OTHERS)
    assert len(state) == 52
    assert {name: state[name] for name in OTHERS} == OTHERS


@pytest.mark.parametrize("num_classes", [1, 3])
def test_contexts_computed_once_change_nothing(num_classes: int) -> None:
    module = PIMM(24, num_classes).double()
    image, prompts = [level.double() for level in features(1)], embeddings(3).double()
    contexts = module.contexts(image)
    with torch.no_grad():
        logits = module.decode(prompts, contexts)
        assert logits.shape == (3, num_classes, 8, 12)
        torch.testing.assert_close(logits, naive(module, prompts, image), atol=1e-9, rtol=1e-9)
        repeated = [level.repeat(3, 1, 1, 1) for level in image]
        torch.testing.assert_close(module(prompts, repeated), logits, atol=1e-9, rtol=1e-9)


def test_a_batch_equals_one_by_one() -> None:
    module, images, prompts = PIMM(24), features(2), embeddings(2)
    with torch.no_grad():
        alone = [module(prompts[i : i + 1], [level[i : i + 1] for level in images]) for i in range(2)]
        torch.testing.assert_close(module(prompts, images), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_deep_features_come_last() -> None:
    module, prompt = PIMM(24), embeddings(1)
    contexts = module.contexts(features(1))
    assert [tuple(share.main.shape[1:]) for share in contexts] == [(256, 2, 3), (128, 4, 6), (64, 8, 12)]
    deepest = module.contexts([torch.zeros(1, 24, 2, 3), torch.zeros(1, 24, 2, 3), torch.randn(1, 24, 2, 3)])
    assert [bool(share.main.abs().sum() > 0) for share in deepest] == [True, False, False]
    assert torch.isfinite(module.decode(prompt, deepest)).all()


def test_gradient_reaches_all_but_the_parts_that_nothing_executes() -> None:
    module, prompts, images = PIMM(24), embeddings(2).requires_grad_(), features(1)
    module(prompts, images).square().sum().backward()
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    assert frozen == DEAD == {name for name, weight in module.named_parameters() if weight.grad is None}
    assert all(weight.grad.abs().sum() > 0 for weight in module.parameters() if weight.requires_grad)
    assert prompts.grad is not None


def test_gradient_equals_that_of_the_naive_way() -> None:
    module, prompts = PIMM(16).double(), embeddings(2).double()
    image = [level.double() for level in features(1, 16)]
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    ours = torch.autograd.grad(module(prompts, image).square().sum(), weights)
    theirs = torch.autograd.grad(naive(module, prompts, image).square().sum(), weights)
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


def test_nothing_is_remembered_between_calls() -> None:
    module, prompts, images = PIMM(24), embeddings(1), features(1)
    with torch.no_grad():
        assert torch.equal(module.train()(prompts, images), module.eval()(prompts, images))
    assert list(module.buffers()) == []


def test_trace_and_export_equal_it_for_another_number_of_prompts() -> None:
    module = PIMM(16).eval()
    other = (embeddings(3), features(3, 16))
    expected = module(*other)
    traced = torch.jit.trace(module, (embeddings(2), features(2, 16)), check_trace=False)
    torch.testing.assert_close(traced(*other), expected, atol=1e-5, rtol=1e-5)
    batch = {0: torch.export.Dim("batch", min=2, max=8)}
    exported = torch.export.export(
        module, (embeddings(2), features(2, 16)), dynamic_shapes=(batch, [batch, batch, batch])
    )
    torch.testing.assert_close(exported.module()(*other), expected, atol=1e-5, rtol=1e-5)


def test_wrong_shapes_are_named_with_the_right_ones() -> None:
    module = PIMM(24)
    contexts = module.contexts(features(2))
    with pytest.raises(ValueError, match=r"\(B, 24, g, g\).*\(1, 8, 2, 3\)"):
        module.contexts(features(1, channels=8))
    with pytest.raises(ValueError, match=r"three maps.*got none"):
        module.contexts([])
    with pytest.raises(ValueError, match="g at least 2"):
        module.contexts([torch.rand(1, 24, 1, 1)] * 3)
    with pytest.raises(ValueError, match=r"\(2, 256, 2, 3\).*got \(3, 256, 2, 3\)"):
        module.decode(embeddings(3), contexts)
    with pytest.raises(ValueError, match=r"got \(2, 256, 4, 5\)"):
        module.decode(embeddings(2, grid=4), contexts)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        PIMM(24, num_classes=0)

# SPDX-License-Identifier: Apache-2.0
"""The IoU module is the published decoder's transformer, with an image's own part computed once."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import Tensor

from monai_ext.networks.blocks.pimm import PIMM
from monai_ext.networks.blocks.prim import PRIM
from monai_ext.networks.nets.sam import build_mask_decoder

UNUSED = ("output_upscaling.", "output_hypernetworks_mlps.")
FOR_IOU = ("iou_prediction_head.", "transformer.final_attn_token_to_image.", "transformer.norm_final_attn.")


def published(tokens: int = 4) -> MaskDecoder:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=16)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=tokens - 1)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return decoder.eval()


def parts(images: int = 3, prompts: int = 3, points: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "embedding": (images, 32, 4, 5),
        "image_pe": (1, 32, 4, 5),
        "sparse": (prompts, points, 32),
        "dense": (1, 32, 4, 5),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def naive(decoder: MaskDecoder, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The published transformer, each pair of image and prompt alone."""
    batch = max(len(value) for value in given.values())
    ious, grids = [], []
    for i in range(batch):
        image, position, prompt, dense = (value[i % len(value)][None] for value in given.values())
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
        tokens, pixels = decoder.transformer(image + dense, position, torch.cat([own, prompt], dim=1))
        ious.append(decoder.iou_prediction_head(tokens[:, 0]))
        grids.append(pixels.transpose(1, 2).reshape(image.shape))
    return torch.cat(ious), torch.cat(grids)


@pytest.mark.parametrize("points", [0, 2])
@pytest.mark.parametrize(("images", "prompts"), [(3, 3), (1, 3), (3, 1), (1, 1)])
@pytest.mark.parametrize("num_ious", [1, 3])
def test_it_equals_the_published_transformer_pair_by_pair(
    images: int, prompts: int, points: int, num_ious: int
) -> None:
    decoder, given = published(), parts(images, prompts, points)
    with torch.no_grad():
        ious, grids = naive(decoder, given)
        found, embedding = PRIM(decoder, num_ious)(**given)
        torch.testing.assert_close(found, ious[:, :num_ious], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(embedding, grids, atol=1e-5, rtol=1e-5)


def test_a_mask_prompt_of_each_pair_is_added_to_the_image() -> None:
    decoder, given = published(), parts(images=1)
    given["dense"] = torch.randn(3, 32, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(PRIM(decoder)(**given)[1], naive(decoder, given)[1], atol=1e-5, rtol=1e-5)


def test_without_an_iou_the_mask_embedding_is_the_same() -> None:
    decoder, given = published(), parts()
    with torch.no_grad():
        with_iou = PRIM(decoder)(**given)[1]
        none, embedding = PRIM(decoder, num_ious=0)(**given)
    assert none.shape == (3, 0)
    assert torch.equal(embedding, with_iou)


def test_names_are_the_published_ones_and_the_mask_modules_beside_them() -> None:
    with torch.device("meta"):
        sam, pimm = build_mask_decoder(), PIMM(768)
        names, mask_names = set(sam.state_dict()), {f"pimm.{name}" for name in pimm.state_dict()}
        module = PRIM(sam, pimm=pimm)
    assert set(PRIM(build_mask_decoder()).state_dict()) == names
    assert set(module.state_dict()) == names | mask_names
    assert (len(names), len(mask_names)) == (120, 52)
    assert sum(weight.numel() for weight in module.parameters()) == 11_521_444


def test_a_published_decoder_leaves_exactly_the_mask_module_missing() -> None:
    sam = build_mask_decoder()
    missing, unexpected = PRIM(build_mask_decoder(), pimm=PIMM(16)).load_state_dict(sam.state_dict(), strict=False)
    assert len(missing) == 52
    assert all(name.startswith("pimm.") for name in missing)
    assert unexpected == []


@pytest.mark.parametrize(("num_ious", "trained"), [(1, 13_157_316), (0, 12_892_480)])
def test_what_trains_is_what_the_published_training_reaches(num_ious: int, trained: int) -> None:
    with torch.device("meta"):
        module = PRIM(build_mask_decoder(), num_ious, pimm=PIMM(1280))
    assert sum(weight.numel() for weight in module.parameters() if weight.requires_grad) == trained


@pytest.mark.parametrize(("num_ious", "dead"), [(1, UNUSED), (0, UNUSED + FOR_IOU)])
def test_gradient_reaches_all_but_the_parts_that_nothing_executes(num_ious: int, dead: tuple[str, ...]) -> None:
    module = PRIM(published(), num_ious)
    iou, embedding = module(**parts())
    (iou.square().sum() + embedding.square().sum()).backward()
    without = {name for name, weight in module.named_parameters() if weight.grad is None}
    assert without == {name for name, _ in module.named_parameters() if name.startswith(dead)}
    assert without == {name for name, weight in module.named_parameters() if not weight.requires_grad}


def test_gradient_equals_the_published_one() -> None:
    decoder, given = published().double(), {name: value.double() for name, value in parts(images=1).items()}
    module = PRIM(decoder)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    iou, embedding = module(**given)
    ours = torch.autograd.grad(iou.square().sum() + embedding.square().sum(), weights)
    ious, grids = naive(decoder, given)
    theirs = torch.autograd.grad(ious[:, :1].square().sum() + grids.square().sum(), weights)
    torch.testing.assert_close(ours, theirs)


def test_trace_and_export_equal_it_for_another_number_of_pairs() -> None:
    module, example, other = PRIM(published()).eval(), tuple(parts(2, 2).values()), tuple(parts(3, 3).values())
    with torch.no_grad():
        expected = module(*other)
        traced = torch.jit.trace(module, example, check_trace=False)
        torch.testing.assert_close(traced(*other), expected, atol=1e-5, rtol=1e-5)
        batch = {0: torch.export.Dim("batch", min=2, max=8)}
        exported = torch.export.export(module, example, dynamic_shapes=(batch, None, batch, None)).module()
        torch.testing.assert_close(exported(*other), expected, atol=1e-5, rtol=1e-5)


def test_wrong_shapes_and_numbers_are_named() -> None:
    module, given = PRIM(published()), parts()
    with pytest.raises(ValueError, match="3 images and 2 prompts"):
        module(**{**given, "sparse": given["sparse"][:2]})
    with pytest.raises(ValueError, match=r"\(B, 32, g, g\), got \(3, 16, 4, 5\)"):
        module(**{**given, "embedding": given["embedding"][:, :16]})
    with pytest.raises(ValueError, match=r"0 to 4.*got 5"):
        PRIM(published(), num_ious=5)

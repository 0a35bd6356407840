# SPDX-License-Identifier: Apache-2.0
"""The mask decoder decodes image i with prompt i, as the published one does for each alone."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import Tensor

from monai_ext.networks.blocks.paired_mask_decoder import PairedMaskDecoder


def published(tokens: int = 4) -> MaskDecoder:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=16)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=tokens - 1)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return decoder.eval()


def parts(batch: int = 3, prompts: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "embedding": (batch, 32, 4, 4),
        "image_pe": (1, 32, 4, 4),
        "sparse": (batch, prompts, 32),
        "dense": (batch, 32, 4, 4),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def alone(decoder: MaskDecoder, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The published decoder, image by image."""
    batch = max(len(given[name]) for name in ("embedding", "sparse", "dense"))
    pick = {name: [value[i % len(value)][None] for i in range(batch)] for name, value in given.items()}
    results = [
        decoder.predict_masks(e, p, s, d)
        for e, p, s, d in zip(pick["embedding"], pick["image_pe"], pick["sparse"], pick["dense"], strict=True)
    ]
    return torch.cat([masks for masks, _ in results]), torch.cat([quality for _, quality in results])


@pytest.mark.parametrize("prompts", [0, 2])
@pytest.mark.parametrize("tokens", [1, 4, 9])
@pytest.mark.parametrize("shared", [(), ("sparse", "dense"), ("embedding",)])
def test_a_batch_equals_the_published_decoder_image_by_image(
    tokens: int, prompts: int, shared: tuple[str, ...]
) -> None:
    decoder, given = published(tokens), parts(prompts=prompts)
    given = {name: value[:1] if name in shared else value for name, value in given.items()}
    with torch.no_grad():
        masks, quality = alone(decoder, given)
        ours = PairedMaskDecoder(decoder)
        found, queries = ours(**given)
        torch.testing.assert_close(found, masks, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.quality(queries), quality, atol=1e-5, rtol=1e-5)


def test_the_published_decoder_cannot_do_it() -> None:
    given = parts()
    with pytest.raises(RuntimeError):
        published().predict_masks(given["embedding"], given["image_pe"], given["sparse"], given["dense"])


def test_fewer_masks_are_the_first_ones() -> None:
    decoder, given = PairedMaskDecoder(published()), parts()
    with torch.no_grad():
        torch.testing.assert_close(decoder(**given, num_masks=1)[0], decoder(**given)[0][:, :1])


def test_names_are_the_published_ones() -> None:
    decoder = published()
    names = set(decoder.state_dict())
    assert set(PairedMaskDecoder(decoder).state_dict()) == names


def test_numbers_that_do_not_pair_are_named() -> None:
    given = parts()
    with pytest.raises(ValueError, match="3 images, 2 sparse prompts"):
        PairedMaskDecoder(published())(**{**given, "sparse": given["sparse"][:2]})

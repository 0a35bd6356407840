# SPDX-License-Identifier: Apache-2.0
"""DeSAM computes what its parts do when they are asked one by one, as published, and keeps its own laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from desam.network import DeSAM
from torch import Tensor

from monai_ext.networks.layers.mask_selection import EMPTY_LOGIT, select_official
from monai_ext.networks.nets.sam import build_plain_sam
from tests.contracts import NetworkContract

SIDE = 64


def build(**knobs: Any) -> DeSAM:
    """Random weights moved from where they start, and IoUs that are believed."""
    torch.manual_seed(0)
    network = DeSAM(**{"in_channels": 3, "sam_type": "vit_tiny", "image_size": SIDE, "grid": 3, **knobs})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
        network.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    return network.eval()


def images(batch: int = 3, height: int = 50, width: int = 97, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(2))


class TestGridPoints(NetworkContract):
    key_count = 282
    some_keys = ("mask_decoder.pimm.seg_outputs.1.weight", "prompt_encoder.no_mask_embed.weight")

    def build(self) -> nn.Module:
        return build(in_channels=1)

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=1)

    def out_channels(self) -> int:
        return 1


class TestWholeBoxClassesFourChannels(NetworkContract):
    key_count = 284
    some_keys = ("stem.weight", "mask_decoder.iou_token.weight")

    def build(self) -> nn.Module:
        return build(in_channels=4, num_classes=3, mode="box", tuning="full")

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=4)

    def out_channels(self) -> int:
        return 3


class TestGridPointsSevenObjects(NetworkContract):
    key_count = 300
    some_keys = ("mask_decoder.output_hypernetworks_mlps.6.layers.0.weight",)

    def build(self) -> nn.Module:
        return build(in_channels=1, num_classes=8, tuning="full")

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=1)

    def out_channels(self) -> int:
        return 8


@pytest.mark.parametrize(
    ("sam_type", "total", "keys", "blocks"),
    [
        ("vit_b", 101_198_576, 366, (2, 5, 8)),
        ("vit_l", 320_952_816, 534, (5, 11, 17)),
        ("vit_h", 650_847_472, 646, (7, 15, 23)),
    ],
)
def test_sizes_are_those_of_the_published_code(sam_type: str, total: int, keys: int, blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = DeSAM(sam_type=sam_type)
    assert sum(weight.numel() for weight in network.parameters()) == total
    # the prompt encoder's Gaussian matrix is a buffer
    assert len(network.state_dict()) == keys
    assert network.context_blocks == blocks
    missing, unexpected = network.load_state_dict(_sam_on_meta(sam_type), strict=False, assign=True)
    assert unexpected == []
    assert len(missing) == 52
    assert all(name.startswith("mask_decoder.pimm.") for name in missing)


def _sam_on_meta(sam_type: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build_plain_sam(sam_type).state_dict()


@pytest.mark.parametrize(("mode", "trained"), [("points", 13_157_316), ("box", 12_892_480)])
def test_what_trains_is_what_gets_a_gradient_in_the_published_code(mode: str, trained: int) -> None:
    with torch.device("meta"):
        network = DeSAM(sam_type="vit_h", mode=mode)
    weights = dict(network.named_parameters())
    assert sum(weight.numel() for weight in weights.values() if weight.requires_grad) == trained
    assert {name.split(".")[0] for name, weight in weights.items() if weight.requires_grad} == {"mask_decoder"}


def one_by_one(network: DeSAM, image: Tensor) -> tuple[Tensor, Tensor]:
    """Every point of the grid by itself through the package's parts: IoUs (P,) and masks (P, h, h) of one image."""
    sam = build_plain_sam("vit_tiny", SIDE)
    own = {n: w for n, w in network.state_dict().items() if "pimm" not in n}
    sam.load_state_dict(own, strict=True)
    levels: dict[int, Tensor] = {}
    for index in network.context_blocks:
        sam.image_encoder.blocks[index].register_forward_hook(lambda *a, i=index: levels.update({i: a[2]}))
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    inner = (int(height * scale + 0.5), int(width * scale + 0.5))
    pixels = F.interpolate(image[None], size=inner, mode="bilinear", align_corners=False)[0] * 255
    neck = sam.image_encoder(sam.preprocess(pixels)[None])
    features = [levels[i].permute(0, 3, 1, 2) for i in network.context_blocks]
    ious, masks, n = [], [], network.grid
    for row in range(n):
        for column in range(n):
            place = torch.tensor([[[(column + 0.5) / n * inner[1], (row + 0.5) / n * inner[0]]]])
            sparse, dense = sam.prompt_encoder((place, torch.ones(1, 1)), None, None)
            decoder = sam.mask_decoder
            tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
            tokens = torch.cat([tokens, sparse], dim=1)
            out, keys = decoder.transformer(neck + dense, sam.prompt_encoder.get_dense_pe(), tokens)
            ious.append(decoder.iou_prediction_head(out[:, 0])[0, 0])
            masks.append(network.mask_decoder.pimm(keys.transpose(1, 2).reshape(neck.shape), features)[0, 0])
    return torch.stack(ious), torch.stack(masks)


@pytest.mark.parametrize(("height", "width"), [(50, 97), (97, 50), (64, 64), (20, 20)])
def test_the_best_point_of_the_grid_gives_the_mask(height: int, width: int) -> None:
    network, batch = build(), images(2, height, width)
    with torch.no_grad():
        found, simple = network.segment(batch), network(batch)
        for index in range(2):
            ious, masks = one_by_one(network, batch[index])
            torch.testing.assert_close(found.ious[index, 0], ious.max())
            mask = network.embed(batch[:1]).frame.restore(masks[ious.argmax()][None, None])
            torch.testing.assert_close(found.logits[index : index + 1], mask, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(simple[index : index + 1], mask, atol=1e-4, rtol=1e-4)
            assert float(masks.std(dim=0).max()) > 0.01  # prompts do make a difference
            column, row = int(ious.argmax()) % 3, int(ious.argmax()) // 3
            # the middle of a ninth of the image, less half a pixel of the square that indices begin with
            middle = torch.tensor([(column + 0.5) / 3 * width, (row + 0.5) / 3 * height])
            scale = max(height, width) / SIDE
            torch.testing.assert_close(torch.tensor(found.places[index][0]), middle + (scale - 1) / 2, atol=0.6, rtol=0)
    assert found.prompts == ["grid", "grid"]
    assert [len(places) for places in found.places] == [1, 1]
    assert found.boxes.isnan().all()


@pytest.mark.parametrize("selection", ["official", "vote"])
def test_other_selections_are_made_from_the_same_masks(selection: str) -> None:
    network, batch = build(selection=selection, vote_prompts=4), images(1, 64, 64)
    with torch.no_grad():
        found = network.segment(batch)
        ious, masks = one_by_one(network, batch[0])
    best = ious.argsort(descending=True)[:4]
    up = F.interpolate(masks[best[:1]][None], scale_factor=4, mode="bilinear", align_corners=False)
    official = F.interpolate(up, size=(16, 16), mode="bilinear", align_corners=False)
    mean = (masks[best].sigmoid() * ious[best][:, None, None]).sum(0) / ious[best].sum()
    expected = official if selection == "official" else mean.logit()[None, None]
    frame = network.embed(batch).frame
    expected = frame.restore_at_once(expected) if selection == "official" else frame.restore(expected)
    torch.testing.assert_close(found.logits, expected, atol=1e-3, rtol=1e-3)


def test_the_published_selection_ends_at_the_size_of_its_masks() -> None:
    """A slice of a quarter of the square's side, as in the published code, gets the selected mask as it is."""
    network, small = build(selection="official", min_region=3), images(1, 16, 16)
    with torch.no_grad():
        seen = network.embed(small)
        image, prompts = network._image(seen.features), network._tokens(network._grid_points(seen))
        ious = network._rank(image.side, prompts)[0, :, 0]
        chosen = select_official(
            ious, lambda i: network._decode(image, prompts[i : i + 1])[0][0, 0], size=(16, 16), min_region=3
        )
        assert torch.equal(network.segment(small).logits[0, 0], chosen.logits)


def test_whole_box_is_one_prompt_and_no_iou() -> None:
    network, batch = build(mode="box"), images(2)
    asked: list[Tensor] = []
    network.prompt_encoder.register_forward_pre_hook(lambda _, a, k: asked.append(k["boxes"]), with_kwargs=True)
    with torch.no_grad():
        found = network.segment(batch)
        torch.testing.assert_close(found.logits, network(batch), atol=1e-5, rtol=1e-5)
    assert [box.tolist() for box in asked] == 3 * [[[0.0, 0.0, 64.0, 64.0]]]
    assert found.prompts == ["whole", "whole"]
    assert found.ious.isnan().all()


def test_no_believed_point_means_no_object() -> None:
    network, batch = build(iou_thresh=10.0), images(2)
    with torch.no_grad():
        found = network.segment(batch)
        assert torch.equal(found.logits, torch.full((2, 1, 50, 97), EMPTY_LOGIT))
        assert torch.equal(network(batch), found.logits)
    assert found.prompts == ["none", "none"]
    assert found.places == [[], []]
    assert (found.ious > 0).all()  # what the best point promised


def test_only_the_chosen_mask_is_decoded_and_the_encoder_runs_once() -> None:
    network, passes = build(), {"encoder": 0, "head": 0}
    network.image_encoder.patch_embed.register_forward_hook(lambda *_: passes.update(encoder=passes["encoder"] + 1))
    head = network.mask_decoder.pimm.seg_outputs[1]
    head.register_forward_hook(lambda *_: passes.update(head=passes["head"] + 1))
    with torch.no_grad():
        network.segment(images(1))
    assert passes == {"encoder": 1, "head": 1}


def test_every_object_has_its_own_best_point() -> None:
    network, batch = build(num_classes=4), images(2)
    with torch.no_grad():
        seen = network.embed(batch)
        image = network._image(seen.features)
        places = network._grid_points(seen)
        found = network.segment(embedded=seen)
        for index in range(2):
            rows = []
            one = network._image(seen.features[index : index + 1])
            for place in places:
                masks, ious = network._decode(one, network._tokens(place[None]))
                rows.append((ious[0], masks[0]))
            ious, masks = torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])
            best = ious.argmax(dim=0)
            expected = seen.frame.restore(torch.stack([masks[best[k], k] for k in range(3)])[None])
            torch.testing.assert_close(found.logits[index : index + 1, 1:], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(found.ious[index], ious.max(dim=0).values)
    assert image.side.source.shape[0] == 2
    assert torch.equal(found.logits[:, 0], torch.zeros(2, 50, 97))


@pytest.mark.parametrize("mode", ["points", "box"])
def test_a_users_prompts_are_decoded_in_their_own_image(mode: str) -> None:
    network, batch = build(mode=mode), images(3)
    nothing = [float("nan")] * 4
    boxes = torch.tensor([[10.0, 5.0, 40.0, 30.0], nothing, [0.0, 0.0, 20.0, 49.0]])
    points = torch.tensor([[[12.0, 20.0], [80.0, 3.0]]]).repeat(3, 1, 1)
    labels = torch.tensor([[1, 0]]).repeat(3, 1)
    with torch.no_grad():
        found = network.segment(batch, boxes=boxes)
        clicked = network.segment(batch, boxes=boxes, points=points, point_labels=labels)
        for i in range(3):
            box = None if i == 1 else boxes[i : i + 1]
            alone = network.segment(batch[i : i + 1], boxes=box)
            torch.testing.assert_close(found.logits[i : i + 1], alone.logits, atol=1e-5, rtol=1e-5)
            own = {"points": points[i : i + 1], "point_labels": labels[i : i + 1]}
            alone = network.segment(batch[i : i + 1], boxes=box, **own)
            torch.testing.assert_close(clicked.logits[i : i + 1], alone.logits, atol=1e-5, rtol=1e-5)
    assert found.prompts == ["box", "grid" if mode == "points" else "whole", "box"]
    assert clicked.prompts == ["points"] * 3
    torch.testing.assert_close(found.boxes, boxes, equal_nan=True)


def test_stored_features_give_the_same_as_the_encoder() -> None:
    network, batch = build(), images(2)
    with torch.no_grad():
        seen = network.embed(batch)
        found = network.segment(embedded=network.embedded(seen.features, batch))
        assert torch.equal(found.logits, network.segment(batch).logits)
    sizes = [shape[0] for shape in network.embedding_shapes.values()]
    assert list(network.embedding_shapes) == ["neck", "block_01", "block_03", "block_05"]
    assert seen.features.shape == (2, sum(sizes), 4, 4)
    assert network.encoder_is_frozen
    assert not build(tuning="full").encoder_is_frozen
    assert not build(in_channels=4).encoder_is_frozen
    assert "stem.weight" in build(in_channels=4).encoder_state()


@pytest.mark.parametrize("mode", ["points", "box"])
def test_training_from_features_is_training_from_images(mode: str) -> None:
    network, batch = build(mode=mode).train(), images(2, SIDE, SIDE)
    points = torch.tensor([[3.0, 5.0], [15.0, 0.0]])
    features = network.embed(batch).features
    outputs = [network(batch, points=points), network(features, points=points, embedded=True)]
    gradients = []
    for output in outputs:
        network.zero_grad()
        sum(part.square().mean() for part in output).backward()
        gradients.append([weight.grad for weight in network.parameters() if weight.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert gradients[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert outputs[0][0].shape == (2, 1, 16, 16)


def test_padding_of_a_training_batch_is_the_padding_of_a_single_image() -> None:
    network, image = build(), images(1, 50, 97)
    with torch.no_grad():
        alone = network.embed(image)
        size = (alone.frame.inner_height, alone.frame.inner_width)
        square = F.pad(F.interpolate(image, size, mode="bilinear"), (0, 0, 0, SIDE - size[0]), value=0.3)
        torch.testing.assert_close(network.embed(square, torch.tensor([size])).features, alone.features)
        assert not torch.allclose(network.embed(square).features, alone.features, atol=1e-3)


def test_training_points_are_pixels_of_the_mask() -> None:
    """The decoder sees the place that the label's pixel has in the square, as in the published code."""
    network, asked = build().train(), []
    network.prompt_encoder.register_forward_pre_hook(lambda _, a, k: asked.append(k["points"]), with_kwargs=True)
    network(images(2, SIDE, SIDE), points=torch.tensor([[3.0, 5.0], [15.0, 0.0]]))
    place, labels = asked[0]
    assert place.tolist() == [[[12.0, 20.0]], [[60.0, 0.0]]]
    assert labels.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("mode", ["points", "box"])
@pytest.mark.parametrize("size", [(50, 97), (97, 50), (200, 33), (64, 64)])
def test_a_trace_fits_images_of_any_size(mode: str, size: tuple[int, int]) -> None:
    network = build(mode=mode, num_classes=3)
    with torch.no_grad():
        traced = torch.jit.trace(network, images(2, 60, 70), check_trace=False)
        batch = images(3, *size)
        torch.testing.assert_close(traced(batch), network(batch), atol=1e-4, rtol=1e-4)


def test_a_trace_of_one_image_takes_several() -> None:
    network, batch = build(), images(3)
    with torch.no_grad():
        traced = torch.jit.trace(network, images(1), check_trace=False)
        torch.testing.assert_close(traced(batch), network(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompt_batch", [1, 4, 100])
def test_how_many_prompts_go_together_changes_nothing(prompt_batch: int) -> None:
    batch = images(2)
    with torch.no_grad():
        found = build(prompt_batch=prompt_batch).segment(batch)
        torch.testing.assert_close(found.logits, build().segment(batch).logits, atol=1e-5, rtol=1e-5)


def test_mixed_precision_stays_close() -> None:
    network, batch = build(mode="box"), images(1)
    with torch.no_grad():
        expected = network.segment(batch).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = network.segment(batch).logits
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"sam_type": "vit_x"}, "vit_b"),
        ({"image_size": 100}, "96"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
        ({"tuning": "lora"}, "frozen"),
        ({"mode": "grid"}, "points"),
        ({"selection": "best"}, "official"),
        ({"grid": 0}, "grid"),
        ({"min_region": -1}, "min_region"),
        ({"vote_prompts": 0}, "vote_prompts"),
        ({"prompt_batch": 0}, "prompt_batch"),
        ({"pixel_std": (0, 1, 1)}, "pixel_std"),
    ],
)
def test_wrong_arguments_are_named(knobs: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build(**knobs)


@pytest.mark.parametrize(
    ("prompts", "named"),
    [
        ({"boxes": torch.zeros(2, 4)}, "boxes"),
        ({"points": torch.zeros(1, 1, 2)}, "point_labels"),
        ({"first_only": True}, "prompt_source"),
    ],
)
def test_wrong_prompts_are_named(prompts: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build().segment(images(1), **prompts)
    with pytest.raises(ValueError, match="embedded"):
        build().segment()

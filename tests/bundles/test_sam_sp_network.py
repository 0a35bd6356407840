# SPDX-License-Identifier: Apache-2.0
"""SAM-SP computes what Segment Anything does when somebody prompts it by hand, and keeps its own laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn as nn
from sam_sp.network import SAMSP
from torch import Tensor

from monai_ext.networks.nets.sam import build_plain_sam
from tests.contracts import NetworkContract

SIDE = 64
# the published decoder's parts for prompts that this method never gives
NEVER_ASKED = (
    r"mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.[123])\."
    r"|prompt_encoder\.(point_embeddings\.[01]|not_a_point_embed|mask_downscaling)"
)


def scatter(network: nn.Module, size: float = 0.05) -> nn.Module:
    """Move every weight from its initial value: many start at zero, and zeros hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * size)
    return network


def build(**knobs: Any) -> SAMSP:
    torch.manual_seed(0)
    network = SAMSP(**{"in_channels": 3, "sam_type": "vit_tiny", "image_size": SIDE, **knobs})
    return scatter(network).eval()  # type: ignore[return-value]


def images(batch: int = 3, height: int = 50, width: int = 97, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(2))


class TestSelfPrompt(NetworkContract):
    key_count = 254
    some_keys = ("image_encoder.blocks.0.attn.qkv.lora_q_down", "prompt_encoder.no_mask_embed.weight")
    without_gradient = NEVER_ASKED

    def build(self) -> nn.Module:
        return build(in_channels=1)

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=1)

    def out_channels(self) -> int:
        return 1


class TestClassesFourChannels(NetworkContract):
    key_count = 226
    some_keys = ("stem.weight", "mask_decoder.mask_tokens.weight")
    without_gradient = NEVER_ASKED.replace(r"output_hypernetworks_mlps\.[123]", "xxx")

    def build(self) -> nn.Module:
        return build(in_channels=4, num_classes=3, multiclass_box="per_class", tuning="full", box_margin=2)

    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
        return images(batch, height, width, channels=4)

    def out_channels(self) -> int:
        return 3


COUNTS = [
    ("vit_b", 89_670_912, 147_456, 4_212_016),
    ("vit_l", 308_278_272, 393_216, 4_457_776),
    ("vit_h", 637_026_048, 655_360, 4_719_920),
]


@pytest.mark.parametrize(("sam_type", "encoder", "lora", "trained"), COUNTS)
def test_what_trains_is_what_the_paper_trains(sam_type: str, encoder: int, lora: int, trained: int) -> None:
    with torch.device("meta"):
        network = SAMSP(sam_type=sam_type)
    sizes = {name: (weight.numel(), weight.requires_grad) for name, weight in network.named_parameters()}
    assert sum(size for size, trains in sizes.values() if trains) == trained
    assert sum(size for name, (size, _) in sizes.items() if "lora_" in name) == lora
    assert sum(size for size, trains in sizes.values() if not trains) == encoder
    assert {name.split(".")[0] for name, (_, trains) in sizes.items() if not trains} == {"image_encoder"}


def by_hand(network: SAMSP, image: Tensor) -> tuple[Tensor, Tensor]:
    """Do what the paper says with the plain package: one image, no batch, the box read off the first mask."""
    sam = build_plain_sam("vit_tiny", SIDE)
    sam.load_state_dict(network.plain_sam_state(), strict=True)
    height, width = image.shape[-2:]
    scale = SIDE / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    pixels = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0] * 255
    record: dict[str, Any] = {"image": pixels, "original_size": (height, width)}
    with torch.no_grad():
        first = sam([record], multimask_output=False)[0]
        frame = torch.nn.functional.interpolate(
            first["low_res_logits"], size=(SIDE, SIDE), mode="bilinear", align_corners=False
        )
        rows, columns = torch.where(frame[0, 0, : size[0], : size[1]] > 0)
        record["boxes"] = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])[None].float()
        second = sam([record], multimask_output=False)[0]
    return tuple(
        sam.postprocess_masks(out["low_res_logits"], input_size=size, original_size=(height, width))
        for out in (first, second)
    )


@pytest.mark.parametrize(("height", "width"), [(50, 97), (97, 50), (64, 64), (20, 20), (130, 131)])
def test_it_is_plain_sam_prompted_by_hand(height: int, width: int) -> None:
    network, batch = build(), images(2, height, width)
    with torch.no_grad():
        result = network.segment(batch)
    for index in range(2):
        first, second = by_hand(network, batch[index])
        torch.testing.assert_close(result.first_logits[index : index + 1], first, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result.logits[index : index + 1], second, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(first, second, atol=1e-2)
    assert result.prompts == ["self", "self"]


@pytest.mark.parametrize("n_iters", [1, 2, 5])
@pytest.mark.parametrize("training", [False, True])
def test_the_encoder_runs_once_whatever_the_number_of_decodes(n_iters: int, training: bool) -> None:
    network, passes = build(n_iters=n_iters).train(training), {"encoder": 0, "decoder": 0}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: passes.update({name: passes[name] + 1})

    network.image_encoder.register_forward_hook(count("encoder"))
    network.mask_decoder.register_forward_hook(count("decoder"))
    network(images())
    assert passes == {"encoder": 1, "decoder": n_iters}


def threshold_between(network: SAMSP, batch: Tensor) -> float:
    """A threshold that the first masks of some images of the batch exceed somewhere and others nowhere."""
    with torch.no_grad():
        highest = network.segment(batch, first_only=True).first_logits.flatten(1).amax(1).sort().values
    return float(highest[0] + highest[-1]) / 2


def one_by_one(network: SAMSP, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(image[None]) for image in batch])


@pytest.mark.parametrize("policy", ["null", "full"])
@pytest.mark.parametrize("kind", ["some", "all", "none"])
def test_empty_first_masks_in_a_batch_are_treated_as_alone(policy: str, kind: str) -> None:
    network = build(empty_policy=policy)
    batch = images() * torch.tensor([0.2, 1.0, 0.6]).reshape(3, 1, 1, 1)
    network.mask_threshold = {"some": threshold_between(network, batch), "all": 1e9, "none": -1e9}[kind]
    with torch.no_grad():
        result = network.segment(batch)
        torch.testing.assert_close(network(batch), one_by_one(network, batch), atol=1e-5, rtol=1e-5)
        static = network.train()(batch)[0]  # training decodes all and chooses afterwards
    torch.testing.assert_close(static, result.logits, atol=1e-5, rtol=1e-5)
    assert result.logits.isfinite().all()
    wanted = {"some": {"self", "null"}, "all": {"null"}, "none": {"self"}}[kind]
    assert set(result.prompts) == (wanted if policy == "null" else {"self"})
    nothing = torch.tensor([prompt == "null" for prompt in result.prompts])
    assert torch.equal(result.boxes.isnan().all(1), nothing)
    assert torch.equal(result.logits[nothing], result.first_logits[nothing])


def test_a_batch_without_any_mask_trains_the_first_decode() -> None:
    network = build(mask_threshold=1e9).train()
    logits, last, first = network(images())
    assert torch.equal(last, first)
    logits.square().mean().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in network.parameters())
    assert network.prompt_encoder.no_mask_embed.weight.grad.abs().sum() > 0


def test_the_whole_square_is_the_box_of_an_empty_mask_if_wanted() -> None:
    network, batch = build(mask_threshold=1e9, empty_policy="full"), images(1)
    with torch.no_grad():
        result = network.segment(batch)
        same = network.segment(batch, boxes=result.boxes)
    assert result.boxes[0].tolist() == pytest.approx([0, 0, 96, 64 * 50 / 33 - 1], rel=1e-5)
    torch.testing.assert_close(same.logits, result.logits)


def test_a_box_at_the_border_stays_inside_with_a_margin() -> None:
    network = build(mask_threshold=-1e9, box_margin=7)
    with torch.no_grad():
        box = network.segment(images(1)).boxes[0]
    assert box.tolist() == pytest.approx([0, 0, 96, 49], rel=1e-5)


def test_a_margin_enlarges_the_box_in_pixels_of_the_square() -> None:
    network, batch = build(), images(1, SIDE, SIDE)
    with torch.no_grad():
        highest = network.segment(batch, first_only=True).first_logits
        network.mask_threshold = float(highest.flatten().topk(40).values[-1])  # a small object
        tight = network.segment(batch).boxes[0]
        network.box_margin = 3
        wide = network.segment(batch).boxes[0]
    assert wide.tolist() == (tight + torch.tensor([-3.0, -3.0, 3.0, 3.0])).clamp(0, 63).tolist()
    assert wide.tolist() != tight.tolist()


def test_a_given_box_takes_the_place_of_the_self_prompt() -> None:
    network, batch = build(), images()
    with torch.no_grad():
        own = network.segment(batch)
        boxes = torch.full((3, 4), torch.nan)
        boxes[1] = torch.tensor([10.0, 5.0, 40.0, 30.0])
        mixed = network.segment(batch, boxes=boxes)
        again = network.segment(batch, boxes=own.boxes)
    assert mixed.prompts == ["self", "box", "self"]
    torch.testing.assert_close(mixed.boxes[1], boxes[1])
    torch.testing.assert_close(mixed.logits[::2], own.logits[::2])
    assert not torch.allclose(mixed.logits[1], own.logits[1], atol=1e-3)
    torch.testing.assert_close(again.logits, own.logits, atol=1e-4, rtol=1e-4)


def test_given_points_are_those_of_plain_sam() -> None:
    network, batch = build(), images(1, SIDE, SIDE)
    points, labels = torch.tensor([[[20.0, 30.0], [5.0, 6.0]]]), torch.tensor([[1, 0]])
    sam = build_plain_sam("vit_tiny", SIDE)
    sam.load_state_dict(network.plain_sam_state())
    record = {"image": batch[0] * 255, "original_size": (SIDE, SIDE), "point_coords": points, "point_labels": labels}
    with torch.no_grad():
        result = network.segment(batch, points=points, point_labels=labels)
        expected = sam([record], multimask_output=False)[0]["low_res_logits"]
    expected = nn.functional.interpolate(expected, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result.logits, expected, atol=1e-4, rtol=1e-4)
    assert result.prompts == ["points"]
    assert result.boxes.isnan().all()


def test_points_are_decoded_with_the_box_of_images_that_have_one() -> None:
    network, batch = build(), images()
    points, labels = torch.tensor([[[20.0, 30.0]]]).repeat(3, 1, 1), torch.ones(3, 1)
    boxes = torch.full((3, 4), torch.nan)
    boxes[1] = torch.tensor([10.0, 5.0, 40.0, 30.0])
    with torch.no_grad():
        together = network.segment(batch, boxes=boxes, points=points, point_labels=labels)
        for index in range(3):
            row = slice(index, index + 1)
            box = boxes[row] if index == 1 else None
            alone = network.segment(batch[row], boxes=box, points=points[row], point_labels=labels[row])
            torch.testing.assert_close(together.logits[row], alone.logits, atol=1e-5, rtol=1e-5)
        without = network.segment(batch, points=points, point_labels=labels)
    assert not torch.allclose(together.logits[1], without.logits[1], atol=1e-3)
    assert together.boxes.isnan().all(1).tolist() == [True, False, True]


def test_one_embedding_serves_many_prompts() -> None:
    network, batch = build(), images(1)
    box = torch.tensor([[10.0, 5.0, 40.0, 30.0]])
    with torch.no_grad():
        expected = network.segment(batch, boxes=box)
        embedded = network.embed(batch)
        network.image_encoder.register_forward_hook(lambda *_: pytest.fail("encoded again"))
        found = network.segment(embedded=embedded, boxes=box)
    assert torch.equal(found.logits, expected.logits)


def test_per_class_boxes_equal_a_decode_for_each_class() -> None:
    network, batch = build(num_classes=3, multiclass_box="per_class"), images()
    union = build(num_classes=3)
    with torch.no_grad():
        first = network.segment(batch, first_only=True).logits
        found = network.segment(batch).logits
        expected = [first[:, :1]]
        embedded = network.embed(batch)
        frame = embedded.frame.enlarge(network._decode(embedded)).argmax(1)
        for index in (1, 2):
            rows = []
            for number, labels in enumerate(frame):
                y, x = torch.where(labels == index)
                if not len(y):
                    rows.append(first[number, index])
                    continue
                box = torch.tensor([[x.min(), y.min(), x.max(), y.max()]]).float()
                alone = union.segment(batch[number : number + 1], boxes=embedded.frame.boxes_back(box))
                rows.append(alone.logits[0, index])
            expected.append(torch.stack(rows)[:, None])
    torch.testing.assert_close(found, torch.cat(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_untrained_lora_changes_nothing() -> None:
    torch.manual_seed(0)
    network = SAMSP(sam_type="vit_tiny", image_size=SIDE).eval()
    batch = images()
    with torch.no_grad():
        assert torch.equal(network.merge_lora()(batch), build_like(network)(batch))


def build_like(network: SAMSP) -> SAMSP:
    other = SAMSP(sam_type="vit_tiny", image_size=SIDE, tuning="frozen").eval()
    other.load_state_dict(network.state_dict())
    return other


def test_merged_equals_unmerged() -> None:
    network, batch = build(lora_alpha=8.0), images()
    with torch.no_grad():
        expected = network(batch).clone()
        torch.testing.assert_close(network.merge_lora()(batch), expected, atol=1e-4, rtol=1e-4)


def test_only_chosen_blocks_get_lora() -> None:
    names = {name for name, _ in build(lora_blocks=[1, 4]).named_parameters() if "lora_" in name}
    assert {name.split(".")[2] for name in names} == {"1", "4"}


@pytest.mark.parametrize("threshold", [0.0, 1e9, -1e9])
@pytest.mark.parametrize("size", [(50, 97), (97, 50), (200, 33), (64, 64)])
def test_a_trace_fits_images_of_any_size_and_empty_masks(threshold: float, size: tuple[int, int]) -> None:
    network = build(mask_threshold=threshold)
    with torch.no_grad():
        traced = torch.jit.trace(network, images(2, 60, 70), check_trace=False)
        batch = images(3, *size)
        torch.testing.assert_close(traced(batch), network(batch), atol=1e-4, rtol=1e-4)


def test_a_trace_of_one_image_takes_several() -> None:
    network, batch = build(), images(3)
    with torch.no_grad():
        traced = torch.jit.trace(network, images(1), check_trace=False)
        torch.testing.assert_close(traced(batch), network(batch), atol=1e-4, rtol=1e-4)


def test_mixed_precision_stays_close() -> None:
    network, batch = build(), images(1)
    box = torch.tensor([[10.0, 5.0, 40.0, 30.0]])
    with torch.no_grad():
        expected = network.segment(batch, boxes=box).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = network.segment(batch, boxes=box).logits
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"sam_type": "vit_x"}, "vit_b"),
        ({"image_size": 100}, "96"),
        ({"n_iters": 0}, "n_iters"),
        ({"num_classes": 0}, "num_classes"),
        ({"in_channels": 0}, "in_channels"),
        ({"tuning": "some"}, "lora"),
        ({"empty_policy": "box"}, "null"),
        ({"multiclass_box": "each"}, "per_class"),
        ({"box_margin": -1}, "box_margin"),
        ({"pixel_std": (0, 1, 1)}, "pixel_std"),
        ({"lora_blocks": [6]}, "6"),
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
        ({"points": torch.zeros(1, 0, 2), "point_labels": torch.zeros(1, 0)}, "at least one"),
    ],
)
def test_wrong_prompts_are_named(prompts: dict[str, Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build().segment(images(1), **prompts)
    with pytest.raises(ValueError, match="embedded"):
        build().segment()

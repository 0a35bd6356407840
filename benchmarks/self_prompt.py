# SPDX-License-Identifier: Apache-2.0
"""SAM-SP: what prompting itself costs, merged LoRA against none, and how a volume's time splits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row, alternate, check_equal, main, under_allocators

if TYPE_CHECKING:
    from sam_sp.network import SAMSP
    from torch import Tensor


def measure(rounds: int, quick: bool) -> list[Row]:
    """All of it, at Segment Anything's own size."""
    size = {"sam_type": "vit_tiny", "image_size": 64} if quick else {"sam_type": "vit_b", "image_size": 1024}
    small = size if quick else {**size, "image_size": 512}
    rows = under_allocators("benchmarks.self_prompt:by_hand", {**size, "rounds": rounds}, quick)
    rows += under_allocators("benchmarks.self_prompt:lora", {**small, "rounds": 3 * rounds}, quick)
    rows += under_allocators("benchmarks.self_prompt:parts", {**size, "rounds": rounds}, quick)
    return rows + under_allocators("benchmarks.self_prompt:volume", {**size, "slices": 2 if quick else 6}, quick)


def by_hand(sam_type: str, image_size: int, rounds: int) -> list[Row]:
    """Against the ``segment-anything`` package with the same weights: encode once, decode, box, decode again."""
    import torch

    from monai_ext.networks.nets.sam import build_plain_sam

    network = _network(sam_type, image_size)
    sam = build_plain_sam(sam_type, image_size)
    sam.load_state_dict(network.plain_sam_state())
    network.merge_lora()
    image = torch.rand(1, 3, image_size, image_size)
    with torch.no_grad():
        equality = check_equal([_published(sam, image)], [network(image)], 1e-4)
        times = alternate(lambda: _published(sam, image), lambda: network(image), rounds)
    return [{"what": "published parts by hand / SAM-SP", "case": f"{sam_type} {image_size}", **times, **equality}]


def lora(sam_type: str, image_size: int, rounds: int) -> list[Row]:
    """Plain network against merged updates, which must cost nothing, and against updates that are not merged."""
    import torch

    image = torch.rand(1, 3, image_size, image_size)
    plain = _network(sam_type, image_size, tuning="frozen")
    rows = []
    for name, other in (
        ("plain / merged LoRA", _network(sam_type, image_size).merge_lora()),
        ("plain / LoRA, not merged", _network(sam_type, image_size)),
    ):
        with torch.no_grad():
            times = alternate(lambda: plain(image), lambda: other(image), rounds)  # noqa: B023
        rows.append({"what": name, "case": f"{sam_type} {image_size}", **times})
    return rows


def parts(sam_type: str, image_size: int, rounds: int) -> list[Row]:
    """Time of each step of one image, and how often the encoder runs."""
    import torch

    network = _network(sam_type, image_size).merge_lora()
    image, passes = torch.rand(1, 3, image_size, image_size), []
    network.image_encoder.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        whole = _fastest(lambda: network(image), rounds)
        encoder_passes = len(passes) / rounds
        embedded = network.embed(image)
        masks = network._decode(embedded)
        steps = {
            "encode": _fastest(lambda: network.embed(image), rounds),
            "first_decode": _fastest(lambda: network._decode(embedded), 3 * rounds),
            "box_and_second_decode": _fastest(lambda: network._decode_again(embedded, masks), 3 * rounds),
        }
    return [
        {
            "what": "parts of one image",
            "case": f"{sam_type} {image_size}",
            "image_ms": round(1000 * whole, 1),
            **{f"{name}_ms": round(1000 * seconds, 1) for name, seconds in steps.items()},
            "second_decode_percent": round(100 * steps["box_and_second_decode"] / whole, 2),
            "target_percent": 5,
            "encoder_passes": encoder_passes,
        }
    ]


def volume(sam_type: str, image_size: int, slices: int) -> list[Row]:
    """Slices of a volume a second through the bundle's inferer, and where the time goes."""
    import torch

    from monai_ext.inferers import PromptedSliceInferer

    network = _network(sam_type, image_size).merge_lora()
    spent = {"encode": 0.0, "decode": 0.0}
    _watch(network.image_encoder, "encode", spent)
    _watch(network.mask_decoder, "decode", spent)
    inferer, scan = PromptedSliceInferer(batch_size=2), torch.rand(1, 3, 256, 256, slices)
    inferer(scan[..., :2], network)
    spent.update(encode=0.0, decode=0.0)
    start = time.perf_counter()
    inferer(scan, network)
    seconds = time.perf_counter() - start
    shares = {f"{name}_percent": round(100 * part / seconds, 1) for name, part in spent.items()}
    return [
        {
            "what": "volume through PromptedSliceInferer",
            "case": f"{sam_type} {image_size}, {slices} slices of 256 x 256",
            "slices_per_second": round(slices / seconds, 3),
            **shares,
            "rest_percent": round(100 - sum(shares.values()), 1),
            "target_rest_percent": 10,
        }
    ]


def _published(sam: Any, image: Tensor) -> Tensor:
    """Self-prompting with the package's own parts, as a reader of the paper would write it."""
    import torch
    import torch.nn.functional as F

    side = image.shape[-1]

    def decode(boxes: Tensor | None) -> Tensor:
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        position = sam.prompt_encoder.get_dense_pe()
        masks, _ = sam.mask_decoder(embedding, position, sparse, dense, multimask_output=False)
        return F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)

    embedding = sam.image_encoder(sam.preprocess(image[0] * 255)[None])
    rows, columns = torch.where(decode(None)[0, 0] > sam.mask_threshold)
    box = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])
    return decode(box[None].float())


def _fastest(run: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _watch(module: Any, name: str, spent: dict[str, float]) -> None:
    begun: list[float] = []
    module.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
    module.register_forward_hook(lambda *_: spent.update({name: spent[name] + time.perf_counter() - begun.pop()}))


def _network(sam_type: str, image_size: int, tuning: str = "lora") -> SAMSP:
    """Random weights, all of them: many start at zero, and what computes with zeros is no fair test."""
    import torch
    from sam_sp.network import SAMSP

    torch.manual_seed(0)
    network = SAMSP(sam_type=sam_type, image_size=image_size, tuning=tuning).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return network


if __name__ == "__main__":
    main("self_prompt", __doc__, measure, rounds=3)

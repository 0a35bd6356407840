# SPDX-License-Identifier: Apache-2.0
"""DeSAM's decoder on an image's features: nine prompts, the whole grid and the whole box, published against ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Row, alternate, check_equal, main, memory_mb, reset_peak, under_allocators

if TYPE_CHECKING:
    from desam.batch import Decoupled
    from torch import Tensor

    from benchmarks.drawn_desam import DrawnDeSAM
    from benchmarks.published_selection import PublishedRecord

WAYS = ("published", "ours, together", "ours, one by one", "ours, whole grid")
TARGETS = {"every mask needs the clean-up": 4, "the third needs none": None, "the best needs none": 15}
BATCH = 9


def measure(rounds: int, quick: bool) -> list[Row]:
    """Time under both allocators, memory in a process a way.

    ``rounds`` is for the whole grid, of which the published way takes a minute or more; nine prompts get three times
    as many.
    """
    sizes = {"sam_type": "vit_tiny", "image_size": 64} if quick else {"sam_type": "vit_b", "image_size": 1024}
    few = {**sizes, "rounds": 3 * rounds}
    whole = {**sizes, "grid": 3 if quick else 9, "rounds": rounds}
    rows = under_allocators("benchmarks.desam_decoder:nine_prompts", few, quick)
    for case in TARGETS:
        rows += under_allocators("benchmarks.desam_decoder:whole_grid", {**whole, "case": case}, quick)
    rows += under_allocators("benchmarks.desam_decoder:whole_box", whole, quick)
    for way in WAYS:
        rows += under_allocators("benchmarks.desam_decoder:peak", {**sizes, "grid": whole["grid"], "way": way}, quick)
    return rows


def nine_prompts(sam_type: str, image_size: int, rounds: int) -> list[Row]:
    """Masks and IoUs of nine prompts of one image, whose own part is counted on both sides.

    Ours decodes them together, as in training, and one by one, as in `segment`, which decodes only what it needs.
    """
    import torch

    ways = _decoding(sam_type, image_size, grid=9)
    rows = []
    with torch.no_grad():
        masks, ious = ways["published"]()
        for way in WAYS[1:3]:
            ours = ways[way]()
            check_equal([ious], [ours[1]], 1e-4 / ious.abs().max().item())
            equality = check_equal([masks], [ours[0]], 1e-4 / masks.abs().max().item())
            del ours  # as large as what is measured
            times = alternate(ways["published"], ways[way], rounds)
            case = f"{sam_type} {image_size}"
            rows.append({f"{BATCH} prompts": f"published / {way}", "case": case, **times, "target": 2.2, **equality})
    return rows


def whole_grid(sam_type: str, image_size: int, grid: int, case: str, rounds: int) -> list[Row]:
    """Segment an image by the published selection, where it finds what ``case`` says among its candidates."""
    import torch

    from benchmarks.drawn_desam import believe_half, build_drawn_desam, discs

    network = build_drawn_desam(sam_type, image_size, grid=grid)
    features = _features(network)
    with torch.no_grad():
        believe_half(network, _ious(network, features))
        order = _ious(network, features).argsort(descending=True)
    faulty = torch.ones(grid**2, dtype=torch.bool)
    if case == "the best needs none":
        faulty[:] = False
    elif case == "the third needs none":
        faulty[order[2]] = False
    network.drawings = discs(grid, image_size // 4, faulty)
    row = _compare_whole(network, features, rounds)
    candidates = int((_ious(network, features) > network.iou_thresh).sum())
    decoded = {"the best needs none": 1, "the third needs none": 3}.get(case, candidates)
    assert row["decoded"] == decoded, f"{case}: {row['decoded']} masks were decoded, expected {decoded}"
    assert row["cleaned"] == (decoded == candidates), f"{case}: cleaned is {row['cleaned']}"
    return [{f"grid of {grid**2}": case, "case": f"{sam_type} {image_size}", "target": TARGETS[case], **row}]


def whole_box(sam_type: str, image_size: int, grid: int, rounds: int) -> list[Row]:
    """Segment an image with the box around it: the same prompt as often as the grid has points, and once."""
    import torch

    from benchmarks.drawn_desam import build_drawn_desam, discs

    network = build_drawn_desam(sam_type, image_size, grid=grid, mode="box")
    network.drawings = discs(grid, image_size // 4, torch.ones(grid**2, dtype=torch.bool))[grid**2 // 2][None]
    row = _compare_whole(network, _features(network), rounds)
    case = f"{sam_type} {image_size}"
    return [{"whole box": f"{grid**2} prompts / one", "case": case, "target": None, **row}]


def peak(sam_type: str, image_size: int, grid: int, way: str) -> list[Row]:
    """Peak of resident memory while an image's features are decoded, above that of the loaded network."""
    import torch

    decode = _decoding(sam_type, image_size, grid)[way]
    with torch.no_grad():
        reset_peak()
        loaded = memory_mb("VmRSS")
        decode()
    grown = memory_mb("VmHWM") - loaded
    what = way if "grid" in way else f"{way}, {BATCH} prompts"
    return [{"memory": what, "case": f"{sam_type} {image_size}", "working_set_mb": round(grown)}]


def _decoding(sam_type: str, image_size: int, grid: int) -> dict[str, Callable[[], Any]]:
    """Build each of `WAYS` over the same weights and features."""
    import torch

    from benchmarks.drawn_desam import build_drawn_desam, discs
    from benchmarks.published_desam import PublishedDeSAM

    network = build_drawn_desam(sam_type, image_size, grid=grid)
    features, published = _features(network), PublishedDeSAM(network)
    prompts = network._tokens(network._grid_points(_embedded(network, features)))[:BATCH]
    clean = discs(grid, image_size // 4, torch.zeros(grid**2, dtype=torch.bool))

    def together() -> tuple[Tensor, Tensor]:
        return network._decode(network._image(features), prompts)

    def one_by_one() -> tuple[Tensor, Tensor]:
        image = network._image(features)
        ious = network._rank(image.side, prompts)[0]
        return torch.cat([network._decode(image, prompt[None])[0] for prompt in prompts]), ious

    def whole_grid() -> Decoupled:
        network.drawings = clean
        return network.segment(embedded=_embedded(network, features))

    published_way = lambda: published.decode(published.repeated(features, BATCH))  # noqa: E731
    return dict(zip(WAYS, (published_way, together, one_by_one, whole_grid), strict=True))


def _compare_whole(network: DrawnDeSAM, features: Tensor, rounds: int) -> Row:
    """Time both on one image of the masks' size; they must be the same, pixel by pixel, as selected and as given out.

    The published way gets one batch of prompts to warm up, not the whole grid.
    """
    import torch

    from benchmarks.published_desam import PublishedDeSAM

    published, embedded = PublishedDeSAM(network), _embedded(network, features)
    records: list[PublishedRecord] = []
    with torch.no_grad():
        published.decode(published.repeated(features, BATCH))
        network.segment(embedded=embedded)
        times = alternate(
            lambda: records.append(published.generate(features)),
            lambda: network.segment(embedded=embedded),
            rounds,
            warm_up=False,
        )
        restored = network.segment(embedded=embedded).logits[0, 0] > 0
    record, selection = records[-1], network.selections[-1]
    differing = int(((selection.logits > 0) != record.mask).sum() + (restored != record.mask).sum())
    assert record.mask.any(), "the published way found nothing"
    assert differing == 0, f"{differing} pixels of the mask differ"
    if network.mode == "points":  # of the same box there are many, and any may be chosen
        assert selection.index == record.index, f"chose prompt {selection.index}, the published way {record.index}"
    assert selection.cleaned == record.cleaned
    # the clean-up changes signs, not magnitudes
    logits = [record.logits.abs(), selection.logits.abs()]
    equality = check_equal(logits[:1], logits[1:], 1e-4 / logits[0].max().item())
    return {
        **times,
        "decoded": selection.decoded,
        "cleaned": selection.cleaned,
        "mask_pixels": int(record.mask.sum()),
        "differing_pixels": differing,
        **equality,
    }


def _features(network: DrawnDeSAM) -> Tensor:
    import torch

    shapes = list(network.embedding_shapes.values())
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, sum(shape[0] for shape in shapes), *shapes[0][1:], generator=generator)


def _embedded(network: DrawnDeSAM, features: Tensor) -> Any:
    """Say that the features are of an image as large as the masks, as in the published preprocessing."""
    import torch

    return network.embedded(features, torch.empty(1, 1, network.image_size // 4, network.image_size // 4))


def _ious(network: DrawnDeSAM, features: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        prompts = network._tokens(network._grid_points(_embedded(network, features)))
        return network._rank(network._image(features).side, prompts)[0, :, 0]


if __name__ == "__main__":
    main("desam_decoder", __doc__, measure, rounds=1)

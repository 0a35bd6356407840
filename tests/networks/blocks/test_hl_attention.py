# SPDX-License-Identifier: Apache-2.0
"""Hierarchical attention against its formulas: sizes, start, windows, and no matrix of all by all."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monai_ext.networks.blocks.hl_attention import HLAttention

DIM = 12


def build(**knobs: Any) -> HLAttention:
    """A block in double precision, none of whose weights is zero."""
    block = HLAttention(**{"dim": DIM, "num_heads": 3, "zero_init": False, **knobs}).double()
    for name, weight in block.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name else 0.0, std=0.5)
    return block


def maps(count: int = 3, batch: int = 2, height: int = 3, width: int = 5) -> list[Tensor]:
    return list(torch.randn(count, batch, height, width, DIM, dtype=torch.float64))


def cross_attention(level: Any, high: Tensor, low: Tensor, heads: int) -> Tensor:
    """CrAttn(H, L) for one image and one window, (L, d) each: the formula, head by head, with the whole matrix."""
    query, key, value = high @ level.query.weight.T, low @ level.key.weight.T, low @ level.value.weight.T
    results = []
    for q, k, v in zip(*(x.chunk(heads, dim=-1) for x in (query, key, value)), strict=True):
        logits = torch.zeros(len(q), len(k), dtype=q.dtype)
        for i in range(len(q)):
            for j in range(len(k)):
                logits[i, j] = (q[i] * k[j]).sum() / math.sqrt(q.shape[-1])
        results.append(logits.softmax(dim=-1) @ v)
    return torch.cat(results, dim=-1)


def by_formula(block: HLAttention, signals: list[Tensor], heads: int = 3) -> Tensor:
    """Patch queries pixel, image queries the result; each image of the batch on its own."""
    results = []
    for image in zip(*signals, strict=True):
        fused, *higher = (signal.flatten(0, 1) for signal in image)
        for level, signal in zip(block.levels, higher, strict=True):
            fused = cross_attention(level, signal, fused, heads)
        results.append(fused.reshape(image[0].shape))
    return torch.stack(results)


@pytest.mark.parametrize("knobs", [{}, {"num_heads": 1}, {"qk_dim": 6}, {"num_signals": 2}, {"num_signals": 4}])
def test_it_is_the_formula(knobs: dict[str, int]) -> None:
    block = build(**knobs)
    signals = maps(knobs.get("num_signals", 3))
    torch.testing.assert_close(block(signals), by_formula(block, signals, knobs.get("num_heads", 3)))


def test_levels_are_not_symmetric() -> None:
    block, (pixel, patch, image) = build(), maps()
    results = [block(signals) for signals in ([pixel, patch, image], [patch, pixel, image], [pixel, image, patch])]
    assert all((results[a] - results[b]).abs().max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_norms_projection_and_residual_are_put_around_the_formula() -> None:
    block, (pixel, patch, image) = build(norm=True, out_proj=True, residual=True), maps(batch=1)

    def level(part: Any, high: Tensor, low: Tensor) -> Tensor:
        mixed = cross_attention(part, part.norm_high(high), part.norm_low(low), 3)
        return high + mixed @ part.proj.weight.T

    low = level(block.levels[0], patch[0].flatten(0, 1), pixel[0].flatten(0, 1))
    expected = level(block.levels[1], image[0].flatten(0, 1), low)
    torch.testing.assert_close(block([pixel, patch, image])[0].flatten(0, 1), expected)


@pytest.mark.parametrize(("height", "width"), [(4, 8), (4, 6), (7, 9), (3, 2), (9, 4)])
def test_windows_are_attended_to_one_by_one(height: int, width: int) -> None:
    block, signals = build(window_size=4), maps(batch=1, height=height, width=width)
    expected = torch.zeros_like(signals[0])
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            window = (slice(None), slice(top, top + 4), slice(left, left + 4))
            expected[window] = by_formula(block, [signal[window] for signal in signals])
    torch.testing.assert_close(block(signals), expected)


def test_signals_are_asked_for_one_by_one_and_let_go() -> None:
    block, kept = build(), []

    def generate() -> Iterator[Tensor]:
        for signal in maps():
            kept.append([reference() is not None for reference in references])
            signal = signal.clone()
            references.append(weakref.ref(signal))
            yield signal
            del signal

    references: list[weakref.ref[Tensor]] = []
    signals = maps()
    expected = block(signals)
    with torch.no_grad():
        torch.manual_seed(0)
        block(generate())
    assert kept == [[], [True], [False, False]]  # the first is what the second queries
    torch.testing.assert_close(block(iter(signals)), expected)


def test_a_batch_equals_one_by_one() -> None:
    block, signals = build(window_size=2), maps(batch=3)
    alone = [block([signal[i : i + 1] for signal in signals]) for i in range(3)]
    torch.testing.assert_close(block(signals), torch.cat(alone))


SIZES = {"vit_b": (768, 12, 12), "vit_l": (1024, 24, 16), "vit_h": (1280, 32, 16)}


@pytest.mark.parametrize(
    ("sam_type", "knobs", "expected"),
    [
        ("vit_b", {}, 42_467_328),
        ("vit_l", {}, 150_994_944),
        ("vit_h", {}, 314_572_800),
        ("vit_b", {"out_proj": True}, 56_623_104),
        ("vit_l", {"out_proj": True}, 201_326_592),
        ("vit_h", {"out_proj": True}, 419_430_400),
        ("vit_b", {"qk_dim": 64, "num_heads": 8}, 16_515_072),
        ("vit_l", {"qk_dim": 64}, 56_623_104),
        ("vit_h", {"qk_dim": 64}, 115_343_360),
        ("vit_b", {"num_signals": 2}, 21_233_664),
    ],
)
def test_an_encoder_has_the_known_number_of_parameters(sam_type: str, knobs: dict[str, Any], expected: int) -> None:
    dim, depth, heads = SIZES[sam_type]
    with torch.device("meta"):
        block = HLAttention(**{"dim": dim, "num_heads": heads, **knobs})
    assert depth * sum(weight.numel() for weight in block.parameters()) == expected


@pytest.mark.parametrize("knobs", [{}, {"norm": True}, {"out_proj": True}, {"num_signals": 2}, {"window_size": 2}])
def test_it_starts_as_exactly_nothing(knobs: dict[str, Any]) -> None:
    signals = [signal.float() for signal in maps(knobs.get("num_signals", 3))]
    result = HLAttention(**{"dim": DIM, "num_heads": 3, **knobs})(signals)
    assert torch.equal(result, torch.zeros_like(result))


def test_without_the_zero_start_or_with_a_residual_it_starts_as_something() -> None:
    signals = [signal.float() for signal in maps()]
    assert HLAttention(DIM, 3, zero_init=False)(signals).abs().max() > 1e-3
    assert torch.equal(HLAttention(DIM, 3, residual=True)(signals), signals[-1])


@pytest.mark.parametrize("knobs", [{}, {"out_proj": True}, {"residual": True}, {"num_signals": 2}])
def test_zero_signals_stay_zero_whatever_the_weights(knobs: dict[str, Any]) -> None:
    block = build(**knobs)
    signals = [torch.zeros_like(signal) for signal in maps(knobs.get("num_signals", 3))]
    assert torch.equal(block(signals), signals[0])


def test_at_first_only_the_last_values_have_a_gradient_and_then_all_weights() -> None:
    block, signals = HLAttention(DIM, 3).double(), maps()
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        (block(signals) - 1).square().mean().backward()
        moved.append({name for name, weight in block.named_parameters() if weight.grad.abs().max() > 0})
        optimizer.step()
    assert moved == [{"levels.1.value.weight"}, {name for name, _ in block.named_parameters()}]


def test_the_gradient_is_right_for_the_signals() -> None:
    block = build(qk_dim=6, window_size=2)
    signals = [signal.requires_grad_() for signal in maps(batch=1, height=2, width=3)]
    assert torch.autograd.gradcheck(lambda *given: block(given), signals)


class Largest(TorchDispatchMode):
    """Keeps the largest number of elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


@pytest.mark.parametrize("knobs", [{}, {"num_heads": 1}, {"qk_dim": 6}])
def test_no_matrix_of_all_by_all_is_held(knobs: dict[str, int]) -> None:
    block = HLAttention(**{"dim": DIM, "num_heads": 3, "zero_init": False, **knobs})
    signals = [torch.randn(1, 16, 16, DIM, requires_grad=True) for _ in range(3)]
    with Largest() as largest:
        block(signals).sum().backward()
        with torch.no_grad():
            block(signals)
    assert 256 * DIM <= largest.elements < 256 * 256 / 4


def test_a_trace_and_an_export_equal_the_block_for_any_batch() -> None:
    block = build(window_size=2).float().eval()
    few, many = ([signal.float() for signal in maps(batch=batch)] for batch in (2, 4))
    traced = torch.jit.trace(block, (few,), check_trace=False)
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(block, (few,), dynamic_shapes=([{0: batch}] * 3,)).module()
    for run in (traced, program):
        torch.testing.assert_close(run(many), block(many))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"num_signals": 1}, "single signal needs no fusion"),
        ({"num_heads": 5}, "divide dim = 12, got 5"),
        ({"qk_dim": 8}, "multiple of num_heads = 3, got 8; num_heads 4 would do"),
        ({"qk_dim": 24}, "at most 12"),
        ({"qk_dim": 0}, "got 0"),
        ({"window_size": -1}, "window_size"),
    ],
)
def test_a_bad_size_is_named(knobs: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HLAttention(**{"dim": DIM, "num_heads": 3, **knobs})


def test_another_number_of_signals_is_named() -> None:
    with pytest.raises(ValueError, match="3 maps, finest first, got 2"):
        build()(maps(2))

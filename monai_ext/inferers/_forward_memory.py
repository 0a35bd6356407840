# SPDX-License-Identifier: Apache-2.0
"""The memory that a forward pass takes, foretold from two passes over next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

BLOCK = 16  # channels that oneDNN keeps side by side: fewer are filled up
ROOM = 1.05  # for what an allocator rounds up


class _Convolution:
    """A convolution, of whose image and result only the shapes are kept."""

    def __init__(self, result: Tensor, image: Tensor, kernel: Tensor, *further: Any) -> None:
        self._sides = [tuple(x.shape[1:]) for x in (image, result)]
        self._kernel = kernel
        self._further = further

    def scratch(self, times: Sequence[float], channels_last: bool) -> float:
        """Return the bytes beyond the result, for an image so many times as long along each axis.

        oneDNN (and cuDNN, about) makes copies of image and result, in blocks of channels, where channels do not come
        last, and of the kernel. PyTorch's own way, which a CPU takes for small images and where oneDNN lacks a type,
        unfolds a copy of the image.
        """
        image, result = (
            (channels, *(round(side * n) for side, n in zip(sides, times, strict=True)))
            for channels, *sides in self._sides
        )
        size = self._kernel.element_size()
        if "Slow" in self._way(image):
            return float(size * (prod(self._kernel.shape[1:]) * prod(result[1:]) + prod(image)))
        copies = [] if channels_last else [image, result]
        blocked = sum(ceil(channels / BLOCK) * BLOCK * prod(sides) for channels, *sides in copies)
        return float(size * (self._kernel.numel() + blocked))

    def _way(self, image: Sequence[int]) -> str:
        there = self._kernel.new_empty(()).expand(1, *image)  # takes no memory
        bias, *further = self._further
        width = None if bias is None else bias.shape
        return str(torch._C._select_conv_backend(there, self._kernel, bias, *further, width).name)


class _Step(NamedTuple):
    """Bytes of all tensors while one operation runs, and what it is if it needs more."""

    tensors: float
    convolution: _Convolution | None


class ForwardMemory:
    """Bytes that a network takes at its peak, beyond its weights, by the size of its image.

    While an operation runs there are all tensors that are still needed, its result and its scratch memory. Tensors
    grow with the number of voxels, but for what has a size of its own, such as kernels in another precision: two passes
    over the smallest images, of two and of four blocks of whole cells, give a line ``each * voxels + fixed`` for every
    operation. Scratch memory, which convolutions need, follows from their shapes. The peak is the largest sum. It holds
    for images whose sides are whole blocks; what an allocator keeps for later comes on top (glibc: of small tensors).

    Args:
        run: the forward pass of an image of a given shape; what it returns stays until the end.
        channels: of an image.
        block: voxels along each axis of a block of whole cells.
        channels_last: whether images come with their channels last in memory, which convolutions keep to.

    Raises:
        ValueError: the network does other things with one size of image than with another.

    Example:
        >>> memory = ForwardMemory(lambda shape: torch.zeros(shape).relu(), channels=2, block=(4, 4))
        >>> memory.bytes_of((100, 40)) / 4000  # an image and a result of two float32 channels each, and 5 % of room
        16.8
    """

    def __init__(
        self, run: Callable[[tuple[int, ...]], Any], channels: int, block: Sequence[int], channels_last: bool = False
    ) -> None:
        # two blocks at least: an instance normalisation refuses a single cell
        few, more = ((n * block[0], *block[1:]) for n in (2, 4))
        one, two = (_steps(run, (1, channels, *size)) for size in (few, more))
        if len(one) != len(two):
            raise ValueError(f"the network does other things with images of {few} and {more} voxels.")
        self._few = few
        self._channels_last = channels_last
        self._lines = [
            ((b.tensors - a.tensors) / prod(few), 2 * a.tensors - b.tensors, a.convolution)
            for a, b in zip(one, two, strict=True)
        ]

    def bytes_of(self, shape: Sequence[int]) -> int:
        """Return the bytes at the peak of a pass over an image of so many voxels along each axis."""
        voxels, times = prod(shape), [side / few for side, few in zip(shape, self._few, strict=True)]
        peak = max(
            each * voxels + fixed + (convolution.scratch(times, self._channels_last) if convolution else 0.0)
            for each, fixed, convolution in self._lines
        )
        return ceil(ROOM * peak)


def _steps(run: Callable[[tuple[int, ...]], Any], shape: tuple[int, ...]) -> list[_Step]:
    # not in inference mode, where operations reach the watch before they are taken apart
    with torch.no_grad(), _Watch() as watch:
        run(shape)
    return watch.steps


class _Watch(TorchDispatchMode):
    """Counts the bytes of all tensors that are there while each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        self._there: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        results = result if isinstance(result, (list, tuple)) else [result]
        for tensor in results:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._there[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._there = {key: entry for key, entry in self._there.items() if not entry[0].expired()}
        convolution = None
        if func is torch.ops.aten.convolution.default:
            convolution = _Convolution(result, *args)
        self.steps.append(_Step(float(sum(size for _, size in self._there.values())), convolution))
        return result

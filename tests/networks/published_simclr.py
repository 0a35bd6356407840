# SPDX-License-Identifier: Apache-2.0
"""SimCLRv2's network written as one function over published weights, which it makes up as it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Published:
    """Weights under published names; a layer that is asked for the first time is drawn.

    Attributes:
        naming: ``converted`` or ``tensorflow``.
        state: name -> weight.
    """

    naming: str
    state: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def conv(self, name: str, x: Tensor, out_channels: int, kernel: int, stride: int = 1) -> Tensor:
        shape = (out_channels, x.shape[1], kernel, kernel)
        if self.naming == "converted":
            weight = self._get(f"{name}.weight", lambda: torch.randn(shape) * 0.1)
        else:
            drawn = self._get(f"{self._next('conv2d')}/kernel", lambda: torch.randn(shape).permute(2, 3, 1, 0) * 0.1)
            weight = drawn.permute(3, 2, 0, 1)
        return F.conv2d(x, weight, stride=stride, padding=kernel // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.naming == "converted":
            names = [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        else:
            layer = self._next("batch_normalization")
            names = [f"{layer}/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")]
        weight, bias, mean = (self._get(each, lambda: torch.randn(x.shape[1])) for each in names[:3])
        variance = self._get(names[3], lambda: 0.5 + torch.rand(x.shape[1]))
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = weight / (variance + 1e-5).sqrt()
        return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)

    def _get(self, name: str, draw: Callable[[], Tensor]) -> Tensor:
        return self.state.setdefault(name, draw().contiguous())

    def _next(self, kind: str) -> str:
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        return f"base_model/{kind}_{number}" if number else f"base_model/{kind}"


def pooled(published: Published, pixels: Tensor, base: int, layers: Sequence[int]) -> Tensor:
    """Mean of the last stage's map, (B, 3, H, W) -> (B, 32 * base), as the published code computes it."""
    published.counts.clear()
    x, prefix = pixels, "resnet.net"
    for place, width, stride in ((0, base // 2, 2), (2, base // 2, 1), (4, base, 1)):
        x = published.conv(f"{prefix}.0.{place}", x, width, 3, stride)
        x = published.norm(f"{prefix}.0.{place + 1}.0", x).relu()
    x = _same_max_pool(x)
    for stage, blocks in enumerate(layers):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            x = _block(published, f"{prefix}.{stage + 1}.blocks.{block}", x, base * 2**stage, stride, first=not block)
    return x.mean(dim=(2, 3))


def _block(published: Published, name: str, x: Tensor, width: int, stride: int, first: bool) -> Tensor:
    kept = x
    if first:
        kept = published.conv(f"{name}.projection.shortcut.2", _mean_of_windows(x, stride), 4 * width, 1)
        kept = published.norm(f"{name}.projection.bn.0", kept)
    x = published.norm(f"{name}.net.1.0", published.conv(f"{name}.net.0", x, width, 1)).relu()
    x = published.norm(
        f"{name}.net.2.main_conv.1.0", published.conv(f"{name}.net.2.main_conv.0", x, 2 * width, 3, stride)
    )
    branches = torch.stack(x.relu().split(width, dim=1))  # (2, B, C, H, W)
    mean = branches.sum(dim=0).mean(dim=(2, 3), keepdim=True)
    mean = published.conv(f"{name}.net.2.mixing_conv.0", mean, max(width // 16, 32), 1)
    mean = published.norm(f"{name}.net.2.mixing_conv.1.0", mean).relu()
    logits = published.conv(f"{name}.net.2.mixing_conv.2", mean, 2 * width, 1)
    x = (branches * torch.stack(logits.split(width, dim=1)).softmax(dim=0)).sum(dim=0)
    x = published.norm(f"{name}.net.4.0", published.conv(f"{name}.net.3", x, 4 * width, 1))
    return (x + kept).relu()


def _same_max_pool(x: Tensor) -> Tensor:
    """Windows of 3 that begin at 0, 2, 4 ..., cut off at the border: TensorFlow's SAME for even sides."""
    rows = torch.stack([x[:, :, top : top + 3].amax(dim=2) for top in range(0, x.shape[2], 2)], dim=2)
    return torch.stack([rows[..., left : left + 3].amax(dim=3) for left in range(0, x.shape[3], 2)], dim=3)


def _mean_of_windows(x: Tensor, stride: int) -> Tensor:
    """Mean over windows of 2: of the pixels there are (stride 1), or with a zero after the last (stride 2)."""
    x, last = (x, 0) if stride == 1 else (F.pad(x, (0, 1, 0, 1)), 1)
    rows = torch.stack([x[:, :, top : top + 2].mean(dim=2) for top in range(0, x.shape[2] - last, stride)], dim=2)
    return torch.stack([rows[..., left : left + 2].mean(dim=3) for left in range(0, x.shape[3] - last, stride)], dim=3)

# SPDX-License-Identifier: Apache-2.0
"""StructureLoss forward and backward: its 31 x 31 mean as one square pooling (published) or by running sums (ours)."""

from __future__ import annotations

from benchmarks.harness import Row, alternate, check_equal, main, under_allocators


def measure(rounds: int, quick: bool) -> list[Row]:
    """Compare under both allocators."""
    arguments = {"batch": 1 if quick else 12, "side": 64 if quick else 352, "rounds": rounds}
    return under_allocators("benchmarks.losses:compare", arguments, quick)


def compare(batch: int, side: int, rounds: int) -> list[Row]:
    """Compare loss and gradient."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from monai_ext.losses import StructureLoss

    class SquarePooling(StructureLoss):
        def _local_mean(self, masks: Tensor) -> Tensor:
            return F.avg_pool2d(masks, self.kernel_size, stride=1, padding=self.kernel_size // 2)

    torch.manual_seed(0)
    logits, target = torch.randn(batch, 1, side, side, requires_grad=True), torch.rand(batch, 1, side, side).round()

    def step(loss: StructureLoss) -> list[Tensor]:
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        return [value.detach(), gradient * logits.numel()]  # of one order, so that both are compared

    square, sums = SquarePooling(), StructureLoss()
    equality = check_equal(step(square), step(sums), 1e-5)
    times = alternate(lambda: step(square), lambda: step(sums), rounds)
    return [{"loss": f"batch {batch}, {side} x {side}", **times, **equality}]


if __name__ == "__main__":
    main("losses", __doc__, measure, rounds=10)

# SPDX-License-Identifier: Apache-2.0
"""Laws that every network and every loss obeys; a test class inherits one and says what is special."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn as nn
from torch import Tensor


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors that a network returns, however it returns them."""
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, Mapping) else output)


class NetworkContract(ABC):
    """Inherit, and give `build`, `image` and the snapshot of the state dict."""

    traceable = True
    scriptable = False
    exportable = True
    key_count: int
    some_keys: tuple[str, ...] = ()
    without_gradient: str = "$^"  # names (a pattern) that train but that this use of the network never asks

    @abstractmethod
    def build(self) -> nn.Module: ...

    @abstractmethod
    def image(self, batch: int = 2, height: int = 64, width: int = 64) -> Tensor: ...

    @abstractmethod
    def out_channels(self) -> int: ...

    @pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 97)])
    def test_logits_have_the_size_of_the_input(self, height: int, width: int) -> None:
        image = self.image(2, height, width)
        with torch.no_grad():
            assert self.build().eval()(image).shape == (2, self.out_channels(), height, width)

    def test_gradient_reaches_what_trains_and_nothing_else(self) -> None:
        network = self.build().train()
        self.backward(network)
        reached = {n for n, p in network.named_parameters() if p.grad is not None}
        assert reached == self.trained(network)

    def backward(self, network: nn.Module) -> None:
        """Let some loss of all outputs find its gradient."""
        torch.stack([o.square().mean() for o in tensors_of(network(self.image()))]).sum().backward()

    def trained(self, network: nn.Module) -> set[str]:
        """Names of the weights that a step is to change."""
        names = {n for n, p in network.named_parameters() if p.requires_grad}
        return {n for n in names if not re.match(self.without_gradient, n)}

    def test_frozen_weights_survive_a_step_bit_for_bit(self) -> None:
        network = self.build().train()
        before = {n: p.detach().clone() for n, p in network.named_parameters()}
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)
        self.backward(network)
        optimizer.step()
        changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
        assert changed == self.trained(network)

    def test_a_batch_of_two_equals_two_of_one(self) -> None:
        network, image = self.build().eval(), self.image(2)
        with torch.no_grad():
            together = tensors_of(network(image))
            first, second = tensors_of(network(image[:1])), tensors_of(network(image[1:]))
        alone = [torch.cat(pair) for pair in zip(first, second, strict=True)]
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)

    def test_tracing_gives_the_same_or_fails_as_declared(self) -> None:
        self._check_export(self.traceable, lambda n, x: torch.jit.trace(n, x, check_trace=False))

    def test_scripting_gives_the_same_or_fails_as_declared(self) -> None:
        self._check_export(self.scriptable, lambda n, x: torch.jit.script(n))

    def test_torch_export_gives_the_same_or_fails_as_declared(self) -> None:
        self._check_export(self.exportable, lambda n, x: torch.export.export(n, (x,)).module())

    def _check_export(self, promised: bool, convert: Any) -> None:
        network, image = self.build().eval(), self.image(1)
        if not promised:
            # a flag that says "impossible" must not outlive the reason
            with pytest.raises(Exception):  # noqa: B017, PT011
                convert(network, image)
            return
        with torch.no_grad():
            found, expected = convert(network, image)(image), network(image)
        torch.testing.assert_close(tensors_of(found), tensors_of(expected), atol=1e-4, rtol=1e-4)

    def test_state_dict_keeps_its_names(self) -> None:
        names = self.build().state_dict().keys()
        assert len(names) == self.key_count
        assert set(self.some_keys) <= set(names)

    def test_state_dict_round_trip_is_exact(self) -> None:
        first, second, file = self.build().eval(), self.build().eval(), io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        image = self.image(1)
        with torch.no_grad():
            outputs = zip(tensors_of(first(image)), tensors_of(second(image)), strict=True)
        assert all(torch.equal(one, other) for one, other in outputs)

    def test_a_wrong_number_of_channels_is_named(self) -> None:
        image = self.image(1)
        with pytest.raises(ValueError, match=str(image.shape[1])):
            self.build().eval()(torch.cat([image, image, image], dim=1)[:, : 2 * image.shape[1] + 1])


class LossContract(ABC):
    """Inherit, and give `build`, `perfect` (logits that are certain and right), `random` and `reference`."""

    @abstractmethod
    def build(self) -> nn.Module: ...

    @abstractmethod
    def target(self) -> Tensor: ...

    @abstractmethod
    def perfect(self, target: Tensor) -> Tensor: ...

    @abstractmethod
    def reference(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def test_the_perfect_prediction_is_the_minimum(self) -> None:
        loss, target = self.build(), self.target()
        best = loss(self.perfect(target), target)
        assert best < 1e-3
        for _ in range(5):
            assert loss(torch.randn_like(self.perfect(target)), target) > best

    def test_gradient_is_right_in_double_precision(self) -> None:
        target = self.target().double()
        logits = torch.randn_like(self.perfect(target)).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: self.build()(x, target), (logits,))

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_empty_masks_are_finite(self, sign: float) -> None:
        target = torch.zeros_like(self.target())
        logits = torch.full_like(self.perfect(target), sign * 50).requires_grad_()
        value = self.build()(logits, target)
        value.backward()
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()

    def test_it_equals_the_formula_written_naively(self) -> None:
        target = self.target()
        logits = torch.randn_like(self.perfect(target))
        torch.testing.assert_close(self.build()(logits, target), self.reference(logits, target))

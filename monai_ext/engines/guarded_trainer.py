# SPDX-License-Identifier: Apache-2.0
"""Trainer that never writes a weight it cannot trust."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.engines.trainer import SupervisedTrainer, Trainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from monai_ext.engines.batch_names import describe_batch
from monai_ext.errors import InputError


class GuardedTrainer(SupervisedTrainer):
    """MONAI's `SupervisedTrainer` with gradient clipping, mixed precision on any device, and a guard against NaN.

    It differs from its parent in this:

    - ``amp``: autocast of the network alone, on the trainer's own device: bfloat16 where the device has it (CPUs,
      recent GPUs), else float16 with a gradient scaler. The loss always sees float32. ``amp_kwargs`` may name
      another ``dtype``.
    - A non-finite image, loss or gradient raises an `InputError` that names the files of the batch, before any
      weight is changed. (In float16 the scaler skips an overflowing step, as it should.)
    - ``clip_norm`` bounds the norm of the gradient, after the scaler is taken out of it.
    - With ``accumulation_steps`` the processes of `DistributedDataParallel` exchange gradients only when they step.
    - Network and loss get plain tensors; the metadata stay in ``state.output["image"]`` and ``["label"]``. So the
      network may return a list of tensors (deep supervision) under ``compile``, too.

    Args:
        *args: see `monai.engines.SupervisedTrainer`.
        clip_norm: largest Euclidean norm of the gradient over all weights. None does not clip.
        **kwargs: see `monai.engines.SupervisedTrainer`; ``accumulation_steps`` and ``compile`` are among them.

    Raises:
        ValueError: ``clip_norm`` is not positive.
        InputError: in ``run()``, for a batch that gives something non-finite.

    Example:
        >>> net = torch.nn.Conv2d(1, 1, 1)
        >>> batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.rand(2, 1, 4, 4)}
        >>> trainer = GuardedTrainer(
        ...     device="cpu", max_epochs=1, train_data_loader=[batch], network=net,
        ...     optimizer=torch.optim.SGD(net.parameters(), 0.1), loss_function=torch.nn.MSELoss(), clip_norm=1.0,
        ... )
        >>> trainer.run()
        >>> trainer.state.iteration
        1
    """

    def __init__(self, *args: Any, clip_norm: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if clip_norm is not None and not 0 < clip_norm < math.inf:
            raise ValueError(f"clip_norm must be a positive number or None, got {clip_norm}.")
        self.clip_norm = clip_norm
        self._batch_names: list[str] = []

    def run(self) -> None:  # type: ignore[override]  # as the parent's
        """Train, from the start or from where a handler has put ``state``."""
        if self.amp and self.scaler is None and self.amp_dtype is torch.float16:
            self.scaler = torch.amp.GradScaler(self.state.device.type)  # type: ignore[assignment]
        # not Trainer.run, which would make a CUDA scaler whatever the device is, and lose the one we have
        super(Trainer, self).run()

    @property
    def amp_dtype(self) -> torch.dtype:
        """Type of the network's arithmetic under ``amp``."""
        if "dtype" in self.amp_kwargs:
            return self.amp_kwargs["dtype"]
        # emulated bfloat16 is slower than float16
        if self.state.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16

    def _iteration(self, engine: SupervisedTrainer, batchdata: Any) -> dict[str, Any]:
        if batchdata is None:
            raise ValueError("Must provide batch data for current iteration.")
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        inputs, targets, args, kwargs = batch if len(batch) == 4 else (*batch, (), {})
        self.state.output = {Keys.IMAGE: inputs, Keys.LABEL: targets}
        starts, steps = self._place_in_accumulation()

        self.network.train()
        if starts:
            self.optimizer.zero_grad(set_to_none=self.optim_set_to_none)
            self._batch_names = []
        self._batch_names.append(describe_batch(batchdata))
        with self._quiet_processes(steps):
            self._refuse_non_finite("the image", inputs, self._batch_names[-1])
            self._forward(_plain(inputs), _plain(targets), args, kwargs)
            self._refuse_non_finite("the loss", self.state.output[Keys.LOSS], self._batch_names[-1])
            self._backward()
        if steps:
            self._step()
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    def _place_in_accumulation(self) -> tuple[bool, bool]:
        """Return whether this batch is the first of a step, and whether it is the last (so is an epoch's last)."""
        place, length = self.state.iteration - 1, self.state.epoch_length
        if length is not None:
            place %= length
        starts = place % self.accumulation_steps == 0
        return starts, (place + 1) % self.accumulation_steps == 0 or place + 1 == length

    def _quiet_processes(self, steps: bool) -> AbstractContextManager[Any]:
        no_sync = None if steps else getattr(self.network, "no_sync", None)
        return nullcontext() if no_sync is None else no_sync()

    def _forward(self, inputs: Any, targets: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        output = self.state.output
        options = {**self.amp_kwargs, "dtype": self.amp_dtype}
        with torch.autocast(self.state.device.type, **options) if self.amp else nullcontext():
            output[Keys.PRED] = self.inferer(inputs, self.network, *args, **kwargs)
        if self.amp:
            # sums over a whole image need more than the eight bits of bfloat16
            output[Keys.PRED] = _to_float32(output[Keys.PRED])
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        output[Keys.LOSS] = self.loss_function(output[Keys.PRED], targets).mean()
        self.fire_event(IterationEvents.LOSS_COMPLETED)

    def _backward(self) -> None:
        loss = self.state.output[Keys.LOSS] / self.accumulation_steps
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)

    def _step(self) -> None:
        weights = [w for group in self.optimizer.param_groups for w in group["params"] if w.grad is not None]
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights])
        if self.scaler is None or self.scaler.get_scale() < 1:  # a scale this small did not cause the overflow
            self._refuse_non_finite("the norm of the gradient", norm, ", ".join(self._batch_names))
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, self.clip_norm, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _refuse_non_finite(self, what: str, value: Any, names: str) -> None:
        if not isinstance(value, Tensor) or bool(torch.isfinite(value.detach()).all()):
            return
        number = f"{value.item()}" if value.numel() == 1 else "not finite everywhere"
        rate = self.optimizer.param_groups[0]["lr"]
        raise InputError(
            f"{names}: {what} is {number} at epoch {self.state.epoch}, iteration {self.state.iteration} (learning "
            f"rate {rate:g}); training has stopped and no weight was changed by this batch. Look at these files "
            "with `python -m monai_ext doctor`; if they are sound, lower learning_rate or set clip_norm."
        )


def _plain(value: Any) -> Any:
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def _to_float32(value: Any) -> Any:
    """Return tensors, and lists, tuples and dicts of tensors, in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float32(item) for item in value)
    return {key: _to_float32(item) for key, item in value.items()} if isinstance(value, dict) else value
